package vsphere_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"sync"
	"testing"

	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"

	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/hostapi/hostapitest"
	"github.com/containervm/containervm/tether/link"
	"github.com/containervm/containervm/tether/link/linktest"
)

// TestExtensions: a host that keeps the contract, beside a vSphere. A request in a session that the host has forgotten is sent
// again after a new login, also one for a stream.
func TestExtensions(t *testing.T) {
	host := hostapitest.New()
	ended := sessions{}
	host.Answer(hostapitest.Answers{
		Extensions: []string{hostapi.ExtensionDiskAtFork},
		Pools:      []hostapi.Pool{{Template: "1", Prestarted: 1, Want: 2}},
		Memory:     []hostapi.MachineMemory{{VM: "1", Memory: hostapi.Memory{SharedKiB: 1, GuestPrivateKiB: 2, OverheadKiB: 3}}},
		Refuse:     ended.has,
	})
	cfg := simulate(t, func(s *simulator.Service) {
		s.ServeMux = http.NewServeMux()
		s.Handle(hostapi.RoutePrefix, host.Handler())
	})
	c := connect(t, cfg)
	ref := vsphere.Ref{Type: "VirtualMachine", Value: "1"}
	if !c.Has(vsphere.DiskAtFork) || c.Has("other") {
		t.Error("the host's extensions are others than it says")
	}
	ended.end(t, cfg)
	if pools, err := c.Pools(t.Context()); err != nil || len(pools) != 1 || pools[0] != (vsphere.Pool{Template: ref, Prestarted: 1, Want: 2}) {
		t.Errorf("pools %v, %v", pools, err)
	}
	memory, err := c.Memory(t.Context())
	if err != nil || len(memory) != 1 || memory[0] != (vsphere.Memory{VM: ref, Memory: hostapi.Memory{SharedKiB: 1, GuestPrivateKiB: 2, OverheadKiB: 3}}) {
		t.Errorf("memory %v, %v", memory, err)
	}

	vm := host.VM("1")
	ended.end(t, cfg)
	log, at, err := c.OpenLog(t.Context(), ref, -1, true, true)
	if err != nil || at != 0 {
		t.Fatalf("offset %d, %v", at, err)
	}
	defer log.Close()
	tether := linktest.NewTether(t)
	vm.Listen(link.PortLink, func(conn net.Conn) {
		_ = link.Serve(t.Context(), conn, tether, slog.New(slog.DiscardHandler)) // the client's end sees its errors
	})
	run := vm.PowerOn()
	ended.end(t, cfg)
	ctx, cancel := context.WithCancel(t.Context())
	l, err := c.Link(ctx, ref)
	if err != nil {
		t.Fatal(err)
	}
	cancel() // bounds the wait for the link alone
	if again, err := c.Link(t.Context(), ref); err != nil || again != l {
		t.Errorf("a second link to the same tether: %v", err)
	}
	vm.Log(link.StreamStdout, "hello")
	vm.PowerOff()
	records := link.NewRecordReader(log)
	if rec, err := records.Next(); err != nil || string(rec.Payload) != (hostapi.Marker{Run: run}).String() {
		t.Errorf("the log begins with %q, %v", rec.Payload, err)
	}
	if rec, err := records.Next(); err != nil || string(rec.Payload) != "hello" {
		t.Errorf("then comes %q, %v", rec.Payload, err)
	}
	if _, err := records.Next(); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
}

// sessions are those that a simulator has ended, by their keys.
type sessions struct{ ended sync.Map }

func (s *sessions) has(r *http.Request) bool {
	cookie, err := r.Cookie(soap.SessionCookieName)
	if err != nil {
		return true
	}
	_, ok := s.ended.Load(cookie.Value)
	return ok
}

// end ends all sessions of a simulator.
func (s *sessions) end(t *testing.T, cfg vsphere.Config) {
	t.Helper()
	u, err := soap.ParseURL(cfg.URL)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(cfg.Username, cfg.Password)
	c, err := govmomi.NewClient(t.Context(), u, true)
	if err != nil {
		t.Fatal(err)
	}
	var manager mo.SessionManager
	if err := property.DefaultCollector(c.Client).RetrieveOne(t.Context(), *c.ServiceContent.SessionManager, []string{"sessionList"}, &manager); err != nil {
		t.Fatal(err)
	}
	var keys []string
	for _, session := range manager.SessionList {
		if session.Key != c.SessionCookie().Value {
			keys = append(keys, session.Key)
			s.ended.Store(session.Key, true)
		}
	}
	if err := c.SessionManager.TerminateSession(t.Context(), keys); err != nil {
		t.Fatal(err)
	}
}
