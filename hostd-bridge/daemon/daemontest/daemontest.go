// Package daemontest runs hostd-bridge's daemon in a test, on machines in memory: the whole API over TLS, with no QEMU.
package daemontest

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/containervm/containervm/hostd-bridge/daemon"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/vmtest"
)

// Machine is a machine in memory, seen from its guest.
type Machine = vmtest.Machine

// Guest plays a machine's guest: it returns when the guest powers itself off, and should when ctx ends.
type Guest = vmtest.Guest

// Host is a daemon that runs, and can be stopped and started again while its machines go on.
type Host struct {
	Endpoint   daemon.Endpoint
	Hypervisor *vmtest.Hypervisor

	t      testing.TB
	on     daemon.Backend
	config daemon.Config
	stop   context.CancelFunc
	ended  chan error
}

// Start runs a daemon with a state of its own until the test ends. guest plays every machine's guest; nil is one that
// does nothing. edits change the daemon's configuration. No machine is prestarted: a test that lets forks fail would race with
// that.
func Start(t testing.TB, guest Guest, edits ...func(*daemon.Config)) *Host {
	t.Helper()
	return StartOn(t, guest, func(h *vmtest.Hypervisor) daemon.Backend { return h }, edits...)
}

// StartOn is Start on a backend that is not, or not only, in memory.
func StartOn(t testing.TB, guest Guest, on func(*vmtest.Hypervisor) daemon.Backend, edits ...func(*daemon.Config)) *Host {
	t.Helper()
	if guest == nil {
		guest = vmtest.Idle
	}
	dir := t.TempDir()
	h := &Host{t: t, Hypervisor: vmtest.New(guest), config: daemon.Config{
		StateDir: filepath.Join(dir, "state"), RunDir: filepath.Join(dir, "run"), GuestDir: guestDir(t),
		Listen: "127.0.0.1:0", Prestart: -1, Log: slog.New(slog.NewTextHandler(testWriter{t}, nil)),
	}}
	for _, edit := range edits {
		edit(&h.config)
	}
	h.on = on(h.Hypervisor)
	h.Run()
	t.Cleanup(func() {
		if h.stop != nil {
			h.Stop()
		}
	})
	return h
}

// Run starts the daemon again after Stop, on the same address, state and machines.
func (h *Host) Run() {
	h.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready := make(chan daemon.Endpoint, 1)
	h.stop, h.ended = cancel, make(chan error, 1)
	go func() {
		h.ended <- daemon.RunOn(ctx, h.config, h.on, func(e daemon.Endpoint) { ready <- e })
	}()
	select {
	case h.Endpoint = <-ready:
		h.config.Listen = h.Endpoint.Address()
	case err := <-h.ended:
		h.t.Fatalf("daemon ended at start: %v", err)
	}
}

// Stop stops the daemon; the machines go on.
func (h *Host) Stop() {
	h.t.Helper()
	h.stop()
	if err := <-h.ended; err != nil {
		h.t.Errorf("daemon: %v", err)
	}
	h.stop = nil
}

// guestDir makes boot artefacts that are good enough for machines in memory.
func guestDir(t testing.TB) string {
	dir := t.TempDir()
	for _, name := range []string{"vmlinux", "bzImage", "initramfs.cpio", "blank.vmdk", "volume.vmdk"} {
		content := "test " + name
		if name == "volume.vmdk" {
			content = vmtest.Whole + "\n67108864\n" // 64 MiB
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// testWriter logs to the test.
type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(string(p))
	return len(p), nil
}

// Config is the configuration with which the daemon runs.
func (h *Host) Config() daemon.Config { return h.config }
