package hostclient_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"reflect"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/hostapi/hostapitest"
	"github.com/containervm/containervm/hostd-bridge/hostapi/hostclient"
	"github.com/containervm/containervm/tether/link"
)

func clientOf(t testing.TB, address string) *hostclient.Client {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	return hostclient.New(u, http.DefaultClient.Do)
}

func TestDocuments(t *testing.T) {
	h := hostapitest.New()
	c := clientOf(t, h.Start(t)+"/sdk")
	want := hostapitest.Answers{
		Extensions: []string{"log"},
		Pools:      []hostapi.Pool{{Template: "vm-1", Prestarted: 1, Want: 2}},
		Memory:     []hostapi.MachineMemory{{VM: "vm-1", Memory: hostapi.Memory{SharedKiB: 1, GuestPrivateKiB: 2, OverheadKiB: 3}}},
	}
	h.Answer(want)
	extensions, err1 := c.Extensions(t.Context())
	pools, err2 := c.Pools(t.Context())
	memory, err3 := c.Memory(t.Context())
	got := hostapitest.Answers{Extensions: extensions, Pools: pools, Memory: memory}
	if err := errors.Join(err1, err2, err3); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
}

// TestRefusals: each status has its class, and the host's own words are the error's.
func TestRefusals(t *testing.T) {
	status, text := 0, ""
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		fmt.Fprint(w, text)
	}))
	defer server.Close()
	c := clientOf(t, server.URL)
	for _, tc := range []struct {
		status int
		text   string
		is     func(error) bool
		words  string
	}{
		{404, "404 page not found\n", errdefs.IsNotImplemented, "no such extension"},
		{404, `{"message":"no VM is vm-9"}`, errdefs.IsNotFound, "no VM is vm-9"},
		{401, "log in first\n", errdefs.IsUnauthorized, "log in first"},
		{409, `{"message":"it is off"}`, errdefs.IsFailedPrecondition, "it is off"},
		{502, "", errdefs.IsUnavailable, "502 Bad Gateway"},
		{400, `{"message":"no MTU"}`, errdefs.IsInvalidArgument, "no MTU"},
		{403, "no", errdefs.IsPermissionDenied, "no"},
		{501, "no", errdefs.IsNotImplemented, "no"},
		{500, "oh", func(error) bool { return true }, "the host answers 500 Internal Server Error: oh"},
		{200, strings.Repeat(" ", hostapi.MaxAnswer) + "{}", func(error) bool { return true }, "longer than 1048576 bytes"},
		{200, "[]", func(error) bool { return true }, "cannot decode"},
	} {
		status, text = tc.status, tc.text
		if _, err := c.Pools(t.Context()); err == nil || !tc.is(err) || !strings.Contains(err.Error(), tc.words) {
			t.Errorf("%d %.20q: %v, want %q and its class", status, text, err, tc.words)
		}
	}
}

// TestNetworks: settings are set and read; what cannot be set has its class.
func TestNetworks(t *testing.T) {
	h := hostapitest.New()
	c := clientOf(t, h.Start(t))
	settings := hostapi.NetworkSettings{Gateways: []netip.Prefix{netip.MustParsePrefix("172.17.0.1/16")}, MTU: 1400}
	if err := c.SetNetwork(t.Context(), hostapi.DefaultNetwork, settings); err != nil {
		t.Fatal(err)
	}
	all, err := c.Networks(t.Context())
	if err != nil || len(all.Networks) != 1 || !reflect.DeepEqual(all.Networks[0].Settings, settings) {
		t.Errorf("networks %+v, %v", all, err)
	}
	if n, ok := h.Network(hostapi.DefaultNetwork); !ok || n.Settings.MTU != 1400 {
		t.Errorf("the host has %+v", n)
	}
	if err := c.SetNetwork(t.Context(), "a/b", settings); !errdefs.IsNotFound(err) && !errdefs.IsNotImplemented(err) {
		t.Errorf("an unknown network: %v", err)
	}
	if err := c.SetNetwork(t.Context(), "nope", settings); !errdefs.IsNotFound(err) {
		t.Errorf("an unknown network: %v", err)
	}
	if err := c.SetNetwork(t.Context(), hostapi.DefaultNetwork, hostapi.NetworkSettings{MTU: 1}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("an MTU of 1: %v", err)
	}
}

// TestVsock: the connection outlives the context of its dial, half-closes reach both ends, and refusals have their class.
func TestVsock(t *testing.T) {
	h := hostapitest.New()
	c := clientOf(t, h.Start(t))
	vm := h.VM("vm-1")
	vm.Listen(5, func(conn net.Conn) {
		fmt.Fprint(conn, "hello, ") // in the packet of the answer's header, perhaps
		all, _ := io.ReadAll(conn)
		fmt.Fprintf(conn, "got %q", all)
	})
	if _, err := c.DialVsock(t.Context(), "vm-1", 5); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a VM that is off: %v", err)
	}
	vm.PowerOn()
	if _, err := c.DialVsock(t.Context(), "vm-1", 6); !errdefs.IsUnavailable(err) {
		t.Errorf("a port that nobody serves: %v", err)
	}
	if _, err := c.DialVsock(t.Context(), "vm-9", 5); !errdefs.IsNotFound(err) {
		t.Errorf("an unknown VM: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	conn, err := c.DialVsock(ctx, "vm-1", 5)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	defer conn.Close()
	if _, err := io.WriteString(conn, "question"); err != nil {
		t.Fatal(err)
	}
	if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if all, err := io.ReadAll(conn); err != nil || string(all) != `hello, got "question"` {
		t.Errorf("%q, %v", all, err)
	}
}

// TestLog: what is written before, in, and after a run, as each kind of reader sees it.
func TestLog(t *testing.T) {
	h := hostapitest.New()
	c := clientOf(t, h.Start(t))
	vm := h.VM("vm-1")
	texts := func(log *hostclient.Log) (all []string) {
		t.Helper()
		defer log.Close()
		for records := link.NewRecordReader(log); ; {
			rec, err := records.Next()
			if err == io.EOF {
				return all
			}
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, string(rec.Payload))
		}
	}
	open := func(from int64, follow, wait bool) *hostclient.Log {
		t.Helper()
		log, err := c.OpenLog(t.Context(), "vm-1", from, follow, wait)
		if err != nil {
			t.Fatal(err)
		}
		return log
	}
	waiting := open(hostclient.End, true, true)
	vm.PowerOn()
	vm.Log(link.StreamStdout, "one")
	following := open(hostclient.End, true, false)
	if waiting.Run != 0 || following.Run != 1 || waiting.Offset != 0 || following.Offset == 0 {
		t.Errorf("runs %d and %d, offsets %d and %d", waiting.Run, following.Run, waiting.Offset, following.Offset)
	}
	if got := texts(open(0, false, false)); !reflect.DeepEqual(got, []string{"run 1", "one"}) {
		t.Errorf("as far as it goes: %q", got)
	}
	vm.Log(link.StreamStderr, "two")
	vm.PowerOff()
	if got := texts(waiting); !reflect.DeepEqual(got, []string{"run 1", "one", "two"}) {
		t.Errorf("the next run: %q", got)
	}
	if got := texts(following); !reflect.DeepEqual(got, []string{"two"}) {
		t.Errorf("followed: %q", got)
	}
	if _, err := c.OpenLog(t.Context(), "vm-1", -2, false, false); err == nil || !strings.Contains(err.Error(), "offset") {
		t.Errorf("a bad offset: %v", err)
	}
}

// FuzzAnswer: whatever a host answers is a document or an error, never both or neither.
func FuzzAnswer(f *testing.F) {
	f.Add(200, []byte(`{"extensions":["log"],"pools":[{"template":"vm-1"}],"machines":[{"vm":"vm-1","sharedKiB":1}]}`), "5", "1")
	f.Add(404, []byte(`{"message":"no"}`), "", "")
	f.Add(500, []byte("oh"), "-1", "x")
	f.Fuzz(func(t *testing.T, status int, body []byte, offset, run string) {
		c := hostclient.New(&url.URL{Scheme: "http", Host: "x"}, func(*http.Request) (*http.Response, error) {
			return &http.Response{
				Status: fmt.Sprint(status), StatusCode: status, Body: io.NopCloser(strings.NewReader(string(body))),
				Header: http.Header{hostapi.HeaderLogOffset: {offset}, hostapi.HeaderLogRun: {run}},
			}, nil
		})
		for _, ask := range []func() error{
			func() error { _, err := c.Extensions(t.Context()); return err },
			func() error { _, err := c.Pools(t.Context()); return err },
			func() error { _, err := c.Memory(t.Context()); return err },
			func() error { _, err := c.Networks(t.Context()); return err },
		} {
			if err := ask(); err == nil && status != http.StatusOK {
				t.Errorf("status %d is taken", status)
			} else if err != nil && err.Error() == "" {
				t.Error("an error without words")
			}
		}
		log, err := c.OpenLog(t.Context(), "vm-1", 0, false, false)
		if (err == nil) != (log != nil) {
			t.Fatalf("log %v, error %v", log, err)
		}
		if log != nil && log.Offset < 0 {
			t.Errorf("offset %d", log.Offset)
		}
	})
}
