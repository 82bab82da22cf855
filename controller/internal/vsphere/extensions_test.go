package vsphere_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/vmware/govmomi/simulator"

	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/hostd-bridge/daemon/daemontest"
	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/hostapi/hostapitest"
	"github.com/containervm/containervm/tether/link"
	"github.com/containervm/containervm/tether/link/linktest"
)

// TestExtensions: what a host offers that keeps the contract, beside a vSphere.
func TestExtensions(t *testing.T) {
	host := hostapitest.New()
	host.Answer(hostapitest.Answers{
		Extensions: []string{hostapi.ExtensionDiskAtFork},
		Pools:      []hostapi.Pool{{Template: "1", Prestarted: 1, Want: 2}},
		Memory:     []hostapi.MachineMemory{{VM: "1", Memory: hostapi.Memory{SharedKiB: 1, GuestPrivateKiB: 2, OverheadKiB: 3}}},
	})
	c := connect(t, simulateEdited(t, func(s *simulator.Service) {
		s.ServeMux = http.NewServeMux()
		s.Handle(hostapi.RoutePrefix, host.Handler())
	}))
	ref := vsphere.Ref{Type: "VirtualMachine", Value: "1"}
	if !c.Has(hostapi.ExtensionDiskAtFork) || c.Has("other") {
		t.Error("the host's extensions are others than it says")
	}
	if pools, err := c.Pools(t.Context()); err != nil || len(pools) != 1 || pools[0] != (vsphere.Pool{Template: ref, Prestarted: 1, Want: 2}) {
		t.Errorf("pools %v, %v", pools, err)
	}
	memory, err := c.Memory(t.Context())
	if err != nil || len(memory) != 1 || memory[0] != (vsphere.Memory{VM: ref, Memory: hostapi.Memory{SharedKiB: 1, GuestPrivateKiB: 2, OverheadKiB: 3}}) {
		t.Errorf("memory %v, %v", memory, err)
	}

	vm := host.VM("1")
	log, err := c.OpenLog(t.Context(), ref, -1, true, true)
	if err != nil || log.Offset != 0 {
		t.Fatalf("%+v, %v", log, err)
	}
	defer log.Close()
	tether := linktest.NewTether(t)
	vm.Listen(link.PortLink, func(conn net.Conn) {
		_ = link.Serve(t.Context(), conn, tether, slog.New(slog.DiscardHandler)) // the client's end sees its errors
	})
	run := vm.PowerOn()
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

// TestForgottenSession: a request in a session that the host has forgotten is sent again after a new login, also one for a stream.
func TestForgottenSession(t *testing.T) {
	host := daemontest.Start(t, nil)
	c := connect(t, vsphere.Config{
		URL: host.Endpoint.URL, Username: host.Endpoint.Username, Password: host.Endpoint.Password, CAFile: host.Endpoint.CAFile,
	})
	ref, err := c.CreateVM(t.Context(), vsphere.VMSpec{Name: "one", CPUs: 1, MemoryMiB: 64, Kernel: c.Boot().Kernel, Initrd: c.Boot().Initrd})
	if err != nil {
		t.Fatal(err)
	}
	for _, request := range []func() error{
		func() error { _, err := c.Pools(t.Context()); return err },
		func() error {
			log, err := c.OpenLog(t.Context(), ref, 0, false, false)
			if err == nil {
				err = log.Close()
			}
			return err
		},
		func() error {
			if _, err := c.Link(t.Context(), ref); !errdefs.IsFailedPrecondition(err) {
				return fmt.Errorf("link to a VM that is off: %w", err)
			}
			return nil
		},
	} {
		host.Stop()
		host.Run()
		if err := request(); err != nil {
			t.Error(err)
		}
	}
}
