package vmtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"sync"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
	"github.com/containervm/containervm/hostd-bridge/internal/vmlog"
)

// handle is a hold on a machine; it implements vm.Machine.
type handle struct {
	m      *Machine
	events chan vm.Event
	closed chan struct{}
	once   sync.Once
}

func newHandle(m *Machine) *handle {
	h := &handle{m: m, events: make(chan vm.Event), closed: make(chan struct{})}
	go h.pump()
	return h
}

// pump hands out all that happened in the machine, from its start.
func (h *handle) pump() {
	defer close(h.events)
	for next := 0; ; {
		changed := h.m.signal.Changed()
		h.m.mu.Lock()
		pending := h.m.events[next:]
		h.m.mu.Unlock()
		for _, ev := range pending {
			select {
			case h.events <- ev:
			case <-h.closed:
				return
			}
			if ev.Exit != nil {
				return
			}
		}
		next += len(pending)
		select {
		case <-changed:
		case <-h.closed:
			return
		}
	}
}

// Events implements vm.Machine.
func (h *handle) Events() <-chan vm.Event { return h.events }

// SetGuestinfo implements vm.Machine.
func (h *handle) SetGuestinfo(_ context.Context, kv map[string]string) error {
	if err := h.m.hv.at(Tell); err != nil {
		return err
	}
	h.m.edit(func() {
		maps.Copy(h.m.readable, kv)
		maps.DeleteFunc(h.m.readable, func(_, v string) bool { return v == "" })
	})
	return nil
}

// Dial implements vm.Machine.
func (h *handle) Dial(_ context.Context, port uint32) (net.Conn, error) {
	h.m.mu.Lock()
	serve := h.m.listen[port]
	if h.m.frozen {
		serve = nil
	}
	h.m.mu.Unlock()
	if serve == nil {
		return nil, fmt.Errorf("cannot dial port %d: connection refused", port)
	}
	host, guest, err := pair()
	if err != nil {
		return nil, err
	}
	go serve(guest)
	return host, nil
}

// pair returns the two ends of a connection that can be half-closed, which net.Pipe cannot.
func pair() (net.Conn, net.Conn, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	defer l.Close()
	a, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return nil, nil, err
	}
	b, err := l.Accept()
	return a, b, err
}

// Log implements vm.Machine.
func (h *handle) Log(ctx context.Context, r vmlog.Reader) (io.ReadCloser, int64, error) {
	f, err := os.OpenFile(filepath.Join(h.m.Spec.HomeDir, hostapi.LogFile), os.O_RDONLY|os.O_CREATE, 0o600)
	if err != nil {
		return nil, 0, err
	}
	whence := io.SeekStart
	if r.From < 0 {
		r.From, whence = 0, io.SeekEnd
	}
	at, err := f.Seek(r.From, whence)
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return &follower{ctx: ctx, m: h.m, file: f, follow: r.Follow}, at, nil
}

// SetLog implements vm.Machine. The machine's log is in one file all the same.
func (h *handle) SetLog(_ context.Context, limits hostapi.Log) error {
	if err := h.m.hv.at(SetLog); err != nil {
		return err
	}
	h.m.edit(func() { h.m.log = limits })
	return nil
}

// follower reads a file that grows until the machine ends. The file is not embedded: its WriteTo would make io.Copy read
// to its present end and no further.
type follower struct {
	ctx    context.Context
	m      *Machine
	file   *os.File
	follow bool
}

func (f *follower) Close() error { return f.file.Close() }

func (f *follower) Read(p []byte) (int, error) {
	for {
		changed := f.m.signal.Changed()
		ended := f.m.Exit() != nil
		n, err := f.file.Read(p)
		if n > 0 || err != io.EOF || !f.follow || ended {
			return n, err
		}
		select {
		case <-changed:
		case <-f.ctx.Done():
			return 0, f.ctx.Err()
		}
	}
}

// AttachDisk implements vm.Machine.
func (h *handle) AttachDisk(_ context.Context, path, _ string) (err error) {
	h.m.edit(func() {
		if h.m.disk != "" {
			err = errors.New("the root slot is not empty")
			return
		}
		h.m.disk = path
	})
	return err
}

// DetachDisk implements vm.Machine.
func (h *handle) DetachDisk(context.Context) error {
	h.m.edit(func() { h.m.disk = "" })
	return nil
}

// PlugDisk implements vm.Machine.
func (h *handle) PlugDisk(_ context.Context, d vm.DataDisk) (err error) {
	if err := h.m.hv.at(Plug); err != nil {
		return err
	}
	h.m.edit(func() {
		if _, taken := h.m.data[d.Unit]; taken {
			err = fmt.Errorf("unit %d is taken", d.Unit)
			return
		}
		h.m.data[d.Unit] = d
	})
	return err
}

// UnplugDisk implements vm.Machine.
func (h *handle) UnplugDisk(_ context.Context, unit int) (err error) {
	if err := h.m.hv.at(Unplug); err != nil {
		return err
	}
	h.m.edit(func() {
		if _, there := h.m.data[unit]; !there {
			err = vm.ErrNoDisk
			return
		}
		delete(h.m.data, unit)
	})
	return err
}

// LimitCPUs implements vm.Machine.
func (h *handle) LimitCPUs(_ context.Context, cpus float64) error {
	if err := h.m.hv.at(LimitCPUs); err != nil {
		return err
	}
	h.m.edit(func() { h.m.limit = cpus })
	return nil
}

// SetNIC implements vm.Machine.
func (h *handle) SetNIC(_ context.Context, slot int, nic vm.NIC) error {
	if err := h.m.hv.at(SetNIC); err != nil {
		return err
	}
	h.m.edit(func() { h.m.nics[slot] = nic })
	return nil
}

// Pause implements vm.Machine.
func (h *handle) Pause(context.Context) error { return nil }

// Resume implements vm.Machine.
func (h *handle) Resume(context.Context) error { return nil }

// Reset implements vm.Machine.
func (h *handle) Reset(context.Context) error {
	h.m.edit(func() { h.m.resets++ })
	return nil
}

// Kill implements vm.Machine.
func (h *handle) Kill(ctx context.Context) error {
	h.m.cancel()
	for {
		changed := h.m.signal.Changed()
		if h.m.Exit() != nil {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Close implements vm.Machine.
func (h *handle) Close() error {
	h.once.Do(func() { close(h.closed) })
	return nil
}
