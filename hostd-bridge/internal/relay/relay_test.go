package relay_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/datastore"
	"github.com/containervm/containervm/hostd-bridge/internal/relay"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/journal"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/vmhost"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/vmtest"
	"github.com/containervm/containervm/tether/link"
)

// host is a relay in front of one VM, vm-1, that is off.
type host struct {
	*vmhost.Host
	t       *testing.T
	hv      *vmtest.Hypervisor
	relay   *relay.Relay
	logFile string
	url     string
}

const ref = "vm-1"

func newHost(t *testing.T, guest vmtest.Guest) *host {
	t.Helper()
	dir := t.TempDir()
	store, err := datastore.Open(filepath.Join(dir, "store"))
	if err != nil {
		t.Fatal(err)
	}
	j, err := journal.Open(filepath.Join(dir, "journal"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(store.HostPath("boot"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	hv := vmtest.New(guest)
	inventory, err := vmhost.Open(t.Context(), vmhost.Options{
		Journal: j, Store: store, Hypervisor: hv, Disks: hv, RunDir: filepath.Join(dir, "run"),
		Switches: hv, NetDir: filepath.Join(dir, "net"), HostGateway: []hostapi.PortRange{{Protocol: hostapi.TCP, First: 5432, Last: 5433}},
		HostMemoryMiB: 1000, HostCPUs: 2, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := inventory.Create(t.Context(), vm.Config{
		Name: "one", Pool: vm.RootPool, CPUs: 1, MemoryMiB: 64, Extra: map[string]string{hostapi.KeyKernel: "[local] boot", hostapi.KeyInitrd: "[local] boot"},
	}, nil); err != nil {
		t.Fatal(err)
	}
	r := relay.New(inventory, store, slog.New(slog.DiscardHandler))
	server := httptest.NewServer(r.Handler())
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
		if err := errors.Join(inventory.Close(), j.Close(), store.Close()); err != nil {
			t.Error(err)
		}
	})
	return &host{inventory, t, hv, r, store.HostPath("one/" + hostapi.LogFile), server.URL}
}

// get asks for the log and returns the answer, whose body the test's end closes.
func (h *host) get(query string) *http.Response {
	h.t.Helper()
	req, err := http.NewRequestWithContext(h.t.Context(), http.MethodGet, h.url+"/cvm/log/"+ref+"?"+query, nil)
	if err != nil {
		h.t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { res.Body.Close() })
	return res
}

// read asks for the log and reads it to its end.
func (h *host) read(query string) (data, offset string) {
	h.t.Helper()
	res := h.get(query)
	body, err := io.ReadAll(res.Body)
	if err != nil {
		h.t.Error(err)
	}
	return string(body), res.Header.Get(hostapi.HeaderLogOffset)
}

func (h *host) append(data []byte) {
	h.t.Helper()
	f, err := os.OpenFile(h.logFile, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err == nil {
		_, err = f.Write(data)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		h.t.Fatal(err)
	}
}

func record(text string) []byte {
	return link.AppendRecord(nil, link.Record{Stream: link.StreamStdout, Payload: []byte(text)})
}

func TestLogOffsets(t *testing.T) {
	h := newHost(t, vmtest.Idle)
	if data, at := h.read("from=end"); data != "" || at != "0" {
		t.Errorf("a log that is not there: %q at %s", data, at)
	}
	one, two := record("one"), record("two")
	h.append(one)
	h.append(two)
	for query, want := range map[string]string{
		"":                                 string(one) + string(two),
		"from=0":                           string(one) + string(two),
		fmt.Sprint("from=", len(one)):      string(two),
		fmt.Sprint("from=", 10*len(one)):   "",
		"from=end":                         "",
		"from=0&follow=1":                  string(one) + string(two), // nothing follows: the VM is off
		"from=0&follow=1&wait=0&unknown=1": string(one) + string(two),
	} {
		if data, _ := h.read(query); data != want {
			t.Errorf("%s: %q, want %q", query, data, want)
		}
	}
	for _, query := range []string{"from=-1", "from=x", "from=99999999999999999999"} {
		if res := h.get(query); res.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: status %d", query, res.StatusCode)
		}
	}
}

// TestEndOfLog: the end is a border between records, also of a log with a torn tail, one that grows, and one that is
// begun anew.
func TestEndOfLog(t *testing.T) {
	h := newHost(t, vmtest.Idle)
	size, rec := 0, record("a record")
	end := func(what string) {
		t.Helper()
		if _, at := h.read("from=end"); at != fmt.Sprint(size) {
			t.Errorf("%s: the end is %s, want %d", what, at, size)
		}
	}
	for range 3 {
		h.append(rec)
		size += len(rec)
		end("grown")
	}
	for cut := 1; cut < len(rec); cut += 7 {
		h.append(rec[:cut])
		end("torn")
		if err := os.Truncate(h.logFile, int64(size)); err != nil { // as the next start does
			t.Fatal(err)
		}
	}
	h.append([]byte("this is no record at all"))
	end("damaged")
	if err := os.Truncate(h.logFile, int64(size)); err != nil {
		t.Fatal(err)
	}
	h.append(rec)
	size += len(rec)
	end("mended")
	if err := os.Truncate(h.logFile, int64(len(rec))); err != nil {
		t.Fatal(err)
	}
	size = len(rec)
	end("shorter than before")
}

// TestFollow: a reader that waits gets the next run whole and ends with the machine.
func TestFollow(t *testing.T) {
	say := make(chan string)
	h := newHost(t, func(ctx context.Context, m *vmtest.Machine) {
		for text := range say {
			if err := m.Log(record(text)); err != nil {
				t.Error(err)
			}
		}
	})
	h.append(record("an earlier run"))
	res := h.get("from=end&wait=1&follow=1") // its header is there before the VM runs
	if err := h.PowerOn(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	records := link.NewRecordReader(res.Body)
	for _, text := range []string{"one", "two"} {
		say <- text
		if rec, err := records.Next(); err != nil || string(rec.Payload) != text {
			t.Fatalf("followed %q, %v; want %q", rec.Payload, err, text)
		}
	}
	close(say)
	if _, err := records.Next(); err != io.EOF {
		t.Errorf("at the machine's end: %v", err)
	}
}

// TestLogOfAnEndedRun: a reader that came while a run was on does not wait for the next one, although the run has ended before its
// log could be opened.
func TestLogOfAnEndedRun(t *testing.T) {
	h := newHost(t, func(ctx context.Context, m *vmtest.Machine) {
		if err := m.Log(record("all of it")); err != nil {
			t.Error(err)
		}
		m.Set("guestinfo.ready", "1")
		<-ctx.Done()
	})
	if res := h.get("from=end"); res.Header.Get(hostapi.HeaderLogRun) != "0" {
		t.Errorf("a VM that never ran is in run %s", res.Header.Get(hostapi.HeaderLogRun))
	}
	if err := h.PowerOn(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	h.awaitReady()
	if res := h.get("from=end"); res.Header.Get(hostapi.HeaderLogRun) != "1" {
		t.Errorf("the first run is %s", res.Header.Get(hostapi.HeaderLogRun))
	}
	on, _ := h.Get(ref)
	if err := h.PowerOff(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	if res := h.get("from=end"); res.Header.Get(hostapi.HeaderLogRun) != "0" {
		t.Errorf("a VM that is off is in run %s", res.Header.Get(hostapi.HeaderLogRun))
	}
	log, err := relay.Open(h.relay, t.Context(), on, 0, true, true)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	if all, err := io.ReadAll(log); err != nil || string(all) != string(record("all of it")) {
		t.Errorf("%q, %v", all, err)
	}
}

// TestLogOfARunThatBegins: a reader that waits, and came when the next run had its number and did not run yet, gets the log of that
// run, although the run has ended before the reader looked again.
func TestLogOfARunThatBegins(t *testing.T) {
	h := newHost(t, func(_ context.Context, m *vmtest.Machine) {
		if err := m.Log(record("all of it")); err != nil {
			t.Error(err)
		}
	})
	var begins *vm.VM
	h.hv.On(vmtest.Start, func() error {
		begins, _ = h.Get(ref)
		return nil
	})
	if err := h.PowerOn(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	for changed := h.Signal().Changed(); ; changed = h.Signal().Changed() {
		if v, _ := h.Get(ref); v.Exit != nil {
			break
		}
		<-changed
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second) // it takes that long only when the test fails
	defer cancel()
	log, err := relay.Open(h.relay, ctx, begins, 0, true, true)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	if all, err := io.ReadAll(log); err != nil || string(all) != string(record("all of it")) {
		t.Errorf("%q, %v", all, err)
	}
}

// awaitReady waits until the guest has said that it is ready.
func (h *host) awaitReady() {
	h.t.Helper()
	for {
		changed := h.Signal().Changed()
		if v, _ := h.Get(ref); v.Guest["guestinfo.ready"] == "1" {
			return
		}
		<-changed
	}
}

// upgrade asks for a vsock port and returns the connection behind the answer.
func (h *host) upgrade(path, upgrade string) (net.Conn, *bufio.Reader, int) {
	h.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(h.url, "http://"))
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { conn.Close() })
	fmt.Fprintf(conn, "GET /cvm/vsock/%s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\nearly ", path, upgrade)
	r := bufio.NewReader(conn)
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		h.t.Fatal(err)
	}
	return conn, r, res.StatusCode
}

// TestVsock: bytes that came with the request are not lost, a half-close is passed on, and refusals have their status.
func TestVsock(t *testing.T) {
	h := newHost(t, func(ctx context.Context, m *vmtest.Machine) {
		m.Listen(5, func(c net.Conn) {
			defer c.Close()
			all, _ := io.ReadAll(c)
			fmt.Fprintf(c, "got %q", all)
		})
		m.Set("guestinfo.ready", "1")
		<-ctx.Done()
	})
	if _, _, status := h.upgrade(ref+"/5", hostapi.UpgradeVsock); status != http.StatusConflict {
		t.Errorf("a VM that is off: status %d", status)
	}
	if err := h.PowerOn(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	h.awaitReady()
	for path, want := range map[string]int{
		"vm-9/5": http.StatusNotFound, ref + "/x": http.StatusBadRequest, ref + "/4294967296": http.StatusBadRequest, ref + "/6": http.StatusBadGateway,
	} {
		if _, _, status := h.upgrade(path, hostapi.UpgradeVsock); status != want {
			t.Errorf("%s: status %d, want %d", path, status, want)
		}
	}
	if _, _, status := h.upgrade(ref+"/5", "websocket"); status != http.StatusBadRequest {
		t.Errorf("another protocol: status %d", status)
	}
	conn, r, status := h.upgrade(ref+"/5", hostapi.UpgradeVsock)
	if status != http.StatusSwitchingProtocols {
		t.Fatalf("status %d", status)
	}
	if _, err := io.WriteString(conn, "and late"); err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if all, err := io.ReadAll(r); err != nil || string(all) != `got "early and late"` {
		t.Errorf("%q, %v", all, err)
	}
}
