package daemon_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/vmware/govmomi"

	"github.com/containervm/containervm/hostd-bridge/daemon"
	"github.com/containervm/containervm/hostd-bridge/daemon/daemontest"
	"github.com/containervm/containervm/tether/link"
)

// trust returns a TLS configuration that trusts the daemon.
func trust(t *testing.T, e daemon.Endpoint) *tls.Config {
	t.Helper()
	pem, err := os.ReadFile(e.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		t.Fatal("the CA file holds no certificate")
	}
	return &tls.Config{RootCAs: pool, ServerName: "localhost"}
}

// get sends a GET with a session's cookie, and without one when c is nil.
func get(t *testing.T, e daemon.Endpoint, c *govmomi.Client, path string) *http.Response {
	t.Helper()
	return send(t, e, c, http.MethodGet, path, nil)
}

// put puts a document, and wants a status.
func put(t *testing.T, e daemon.Endpoint, c *govmomi.Client, path, document string, status int) {
	t.Helper()
	if res := send(t, e, c, http.MethodPut, path, strings.NewReader(document)); res.StatusCode != status {
		text, _ := io.ReadAll(res.Body)
		t.Errorf("PUT %s of %.100s: status %d, want %d: %s", path, document, res.StatusCode, status, text)
	}
}

func send(t *testing.T, e daemon.Endpoint, c *govmomi.Client, method, path string, document io.Reader) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "https://"+e.Address()+path, document)
	if err != nil {
		t.Fatal(err)
	}
	if c != nil {
		req.AddCookie(&http.Cookie{Name: "vmware_soap_session", Value: c.SessionCookie().Value})
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: trust(t, e), DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { res.Body.Close() })
	return res
}

// dialVsock opens a relayed stream; the answer's status is returned with it.
func dialVsock(t *testing.T, e daemon.Endpoint, c *govmomi.Client, ref string, port uint32) (*tls.Conn, *bufio.Reader, int) {
	t.Helper()
	conn, err := tls.Dial("tcp", e.Address(), trust(t, e))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	cookie := ""
	if c != nil {
		cookie = "Cookie: vmware_soap_session=" + c.SessionCookie().Value + "\r\n"
	}
	fmt.Fprintf(conn, "GET /cvm/vsock/%s/%d HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: cvm-vsock\r\n%s\r\n", ref, port, cookie)
	r := bufio.NewReader(conn)
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	return conn, r, res.StatusCode
}

func TestRelayKeepsHalfClose(t *testing.T) {
	h := daemontest.Start(t, func(ctx context.Context, m *daemontest.Machine) {
		m.Listen(7, func(conn net.Conn) { // answers only when it has seen the end of the question
			defer conn.Close()
			all, err := io.ReadAll(conn)
			if err == nil {
				fmt.Fprintf(conn, "%d bytes: %s", len(all), all)
			}
		})
		m.Set(link.KeyPhase, "listening")
		<-ctx.Done()
	})
	c := connect(t, h.Endpoint)
	ref := runningVM(t, h.Endpoint, c, "one")
	waitExtra(t, c, ref, link.KeyPhase, "listening")
	conn, r, status := dialVsock(t, h.Endpoint, c, ref.Value, 7)
	if status != http.StatusSwitchingProtocols {
		t.Fatalf("status %d", status)
	}
	if _, err := io.WriteString(conn, "question"); err != nil {
		t.Fatal(err)
	}
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(r)
	if err != nil || string(got) != "8 bytes: question" {
		t.Errorf("answer %q, error %v", got, err)
	}
}

func TestRelayRefusals(t *testing.T) {
	h := daemontest.Start(t, nil)
	c := connect(t, h.Endpoint)
	off := newVM(t, h.Endpoint, c, "off")
	for _, tc := range []struct {
		what, path string
		client     *govmomi.Client
		want       int
	}{
		{"no session", "/cvm/vsock/" + off.Value + "/7", nil, http.StatusUnauthorized},
		{"log without a session", "/cvm/log/" + off.Value, nil, http.StatusUnauthorized},
		{"file without a session", "/folder/cvm/boot/current.json?dsName=local", nil, http.StatusUnauthorized},
		{"log of an unknown VM", "/cvm/log/vm-99", c, http.StatusNotFound},
		{"bad offset", "/cvm/log/" + off.Value + "?from=-4", c, http.StatusBadRequest},
		{"no upgrade", "/cvm/vsock/" + off.Value + "/7", c, http.StatusBadRequest},
	} {
		if res := get(t, h.Endpoint, tc.client, tc.path); res.StatusCode != tc.want {
			t.Errorf("%s: status %d, want %d", tc.what, res.StatusCode, tc.want)
		}
	}
	for ref, want := range map[string]int{off.Value: http.StatusConflict, "vm-99": http.StatusNotFound} {
		if _, _, status := dialVsock(t, h.Endpoint, c, ref, 7); status != want {
			t.Errorf("vsock of %s: status %d, want %d", ref, status, want)
		}
	}
	on := runningVM(t, h.Endpoint, c, "on")
	if _, _, status := dialVsock(t, h.Endpoint, c, on.Value, 7); status != http.StatusBadGateway {
		t.Errorf("port that nobody listens on: status %d", status)
	}
}

// An attach that is opened before the VM runs gets every byte of the next run, even of one that is over at once.
func TestLogWaitsForTheNextRun(t *testing.T) {
	record := link.AppendRecord(nil, link.Record{Stream: link.StreamStdout, Payload: []byte("hello")})
	h := daemontest.Start(t, func(_ context.Context, m *daemontest.Machine) {
		if err := m.Log(record); err != nil {
			t.Error(err)
		}
	})
	c := connect(t, h.Endpoint)
	ref := newVM(t, h.Endpoint, c, "one")
	for run := range 3 {
		res := get(t, h.Endpoint, c, "/cvm/log/"+ref.Value+"?from=end&wait=1&follow=1")
		if got, want := res.Header.Get("Cvm-Log-Offset"), fmt.Sprint(run*len(record)); got != want {
			t.Errorf("run %d: offset %s, want %s", run, got, want)
		}
		powerOn(t, c, ref)
		got, err := io.ReadAll(res.Body)
		if err != nil || string(got) != string(record) {
			t.Fatalf("run %d: log %q, error %v", run, got, err)
		}
		waitPower(t, c, ref, "poweredOff")
	}
	res := get(t, h.Endpoint, c, "/cvm/log/"+ref.Value)
	if all, err := io.ReadAll(res.Body); err != nil || string(all) != strings.Repeat(string(record), 3) {
		t.Errorf("whole log %q, error %v", all, err)
	}
}
