package daemon_test

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vmware/govmomi/vim25/methods"

	"github.com/containervm/containervm/hostd-bridge/daemon"
	"github.com/containervm/containervm/hostd-bridge/daemon/daemontest"
)

// dialTLS connects as someone who knows nothing but the address.
func dialTLS(t *testing.T, e daemon.Endpoint) *tls.Conn {
	t.Helper()
	u, err := url.Parse(e.URL)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(e.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	c, err := tls.Dial("tcp", u.Host, &tls.Config{RootCAs: roots})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// TestStrangers: those who have not logged in cost the host a bounded number of connections and bytes, push nobody out who has, and keep
// nobody from logging in.
func TestStrangers(t *testing.T) {
	h := daemontest.Start(t, nil)
	known := connect(t, h.Endpoint)
	var stalled []*tls.Conn
	for range 150 { // half a request each
		c := dialTLS(t, h.Endpoint)
		if _, err := fmt.Fprintf(c, "POST /sdk HTTP/1.1\r\nHost: x\r\nContent-Length: 4000000\r\n\r\n%s", strings.Repeat("x", 1000)); err != nil {
			t.Fatal(err)
		}
		stalled = append(stalled, c)
	}
	if _, err := methods.GetCurrentTime(t.Context(), known.Client); err != nil {
		t.Errorf("who has logged in: %v", err)
	}
	if _, err := methods.GetCurrentTime(t.Context(), connect(t, h.Endpoint).Client); err != nil {
		t.Errorf("who logs in meanwhile: %v", err)
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	t.Logf("%d MiB of heap in use", m.HeapInuse>>20)
	_ = stalled[0].SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := stalled[0].Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
		t.Errorf("the first of 150 connections still waits: %v", err)
	}
}

// TestStrangersRequests: before the login a request is short, and of few methods; nothing else is decoded.
func TestStrangersRequests(t *testing.T) {
	h := daemontest.Start(t, nil)
	ask := func(body string) (int, string) {
		c := dialTLS(t, h.Endpoint)
		if _, err := fmt.Fprintf(c, "POST /sdk HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(body), body); err != nil {
			t.Fatal(err)
		}
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, string(text)
	}
	envelope := func(body string) string {
		return `<Envelope xmlns="http://schemas.xmlsoap.org/soap/envelope/"><Body>` + body + `</Body></Envelope>`
	}
	if status, text := ask(envelope(`<CreateVM_Task xmlns="urn:vim25"><config>` + strings.Repeat("<broken", 10))); status != http.StatusInternalServerError || !strings.Contains(text, "NotAuthenticated") {
		t.Errorf("a broken argument of a method for those who have logged in: %d %s", status, text)
	}
	if status, text := ask(envelope(`<Login xmlns="urn:vim25"><password>` + strings.Repeat("x", 20_000) + `</password></Login>`)); status != http.StatusBadRequest {
		t.Errorf("a login of 20,000 bytes: %d %s", status, text)
	}
}
