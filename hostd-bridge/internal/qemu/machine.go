package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"syscall"

	"github.com/containervm/containervm/hostd-bridge/internal/cgroup"
	"github.com/containervm/containervm/hostd-bridge/internal/supervisor"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
	"github.com/containervm/containervm/hostd-bridge/internal/vmlog"
)

// machine is a running machine, seen through its supervisor.
type machine struct {
	*supervisor.Client // SetGuestinfo, SetLog, Pause, Resume, Reset, Memory
	hypervisor         *Hypervisor
	runDir             string
	group              *cgroup.Group
	joiner             *joiner
	log                *slog.Logger

	events chan vm.Event
	stream io.ReadCloser // what events come from
	closed chan struct{}
	life   context.Context // ends with Close, and with the machine's events
	end    context.CancelFunc
	close  func() error
}

var _ vm.Machine = (*machine)(nil)

// eventsAhead is how many events wait for a reader that is at something else: what cards ask for comes behind them.
const eventsAhead = 64

// newMachine takes over the client, unless it fails; the group in any case.
func (h *Hypervisor) newMachine(ctx context.Context, c *supervisor.Client, j *joiner, group *cgroup.Group, runDir string) (*machine, error) {
	if err := c.Gone(func() { h.ungroup(group) }); err != nil {
		return nil, err
	}
	stream, err := c.Subscribe(ctx)
	if err != nil {
		return nil, err
	}
	m := &machine{
		Client: c, joiner: j, hypervisor: h, runDir: runDir, group: group, log: h.config.Log, events: make(chan vm.Event, eventsAhead),
		stream: stream, closed: make(chan struct{}),
	}
	m.life, m.end = context.WithCancel(context.Background())
	m.close = sync.OnceValue(m.release)
	go m.follow()
	return m, nil
}

// Events implements vm.Machine.
func (m *machine) Events() <-chan vm.Event { return m.events }

// follow passes on events until the last. When the supervisor ends without a last event, follow makes one.
func (m *machine) follow() {
	defer close(m.events)
	defer m.end()
	exited := false
	err := supervisor.Events(m.stream, func(e supervisor.Event) {
		if e.Exit != nil {
			exited = m.emit(vm.Event{Exit: m.limited(exitOf(e.Exit))})
			return
		}
		if len(e.Unjoined) > 0 {
			m.joiner.ask(m.life, e.Unjoined)
			return
		}
		m.emit(eventOf(e))
	})
	if exited || m.isClosed() {
		return
	}
	m.log.Warn("the events of a machine broke off", "runDir", m.runDir, "err", err)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-m.closed:
			cancel()
		case <-ctx.Done():
		}
	}()
	x, err := m.hypervisor.lastExit(ctx, m.runDir)
	if err != nil {
		m.log.Error("cannot find out how a machine ended", "runDir", m.runDir, "err", err)
		return
	}
	m.emit(vm.Event{Exit: m.limited(x)})
}

// limited says that a machine has ended because of its host's limit.
func (m *machine) limited(x *vm.Exit) *vm.Exit {
	if !x.Orderly && m.group.Killed() {
		x.Reason += ": the machine's processes took more memory of the host than their limit"
	}
	return x
}

func eventOf(e supervisor.Event) vm.Event {
	switch {
	case e.Frozen:
		return vm.Event{Frozen: true}
	case e.Mark != nil:
		return vm.Event{Mark: e.Mark}
	default:
		return vm.Event{Guestinfo: &vm.Guestinfo{Key: e.Key, Value: e.Value}}
	}
}

// emit passes one event on. It reports false after Close.
func (m *machine) emit(e vm.Event) bool {
	select {
	case m.events <- e:
		return true
	case <-m.closed:
		return false
	}
}

func (m *machine) isClosed() bool {
	select {
	case <-m.closed:
		return true
	default:
		return false
	}
}

// Dial implements vm.Machine. The connection closes by halves (CloseRead, CloseWrite).
func (m *machine) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	c, err := m.Client.Dial(ctx, port)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// Log implements vm.Machine.
func (m *machine) Log(ctx context.Context, r vmlog.Reader) (io.ReadCloser, int64, error) {
	c, at, err := m.Client.Log(ctx, r)
	if err != nil {
		return nil, 0, err
	}
	return c, at, nil
}

// AttachDisk implements vm.Machine.
func (m *machine) AttachDisk(ctx context.Context, path, parent string) error {
	image, err := m.hypervisor.image(path, parent, false)
	if err != nil {
		return err
	}
	defer image.Close()
	return m.Attach(ctx, image)
}

// DetachDisk implements vm.Machine.
func (m *machine) DetachDisk(ctx context.Context) error { return m.Detach(ctx) }

// PlugDisk implements vm.Machine.
func (m *machine) PlugDisk(ctx context.Context, disk vm.DataDisk) error {
	image, err := m.hypervisor.image(disk.Path, disk.Parent, disk.ReadOnly)
	if err != nil {
		return err
	}
	defer image.Close()
	return m.Plug(ctx, supervisor.Disk{Unit: disk.Unit, Image: image, ReadOnly: disk.ReadOnly})
}

// UnplugDisk implements vm.Machine.
func (m *machine) UnplugDisk(ctx context.Context, unit int) error {
	err := m.Unplug(ctx, unit)
	if errors.Is(err, syscall.ENODEV) {
		return fmt.Errorf("%w: %w", vm.ErrNoDisk, err)
	}
	return err
}

// LimitCPUs implements vm.Machine. The limit is that of all the machine's processes.
func (m *machine) LimitCPUs(_ context.Context, cpus float64) error {
	if err := m.hypervisor.LimitsCPUs(); err != nil {
		return err
	}
	return m.group.SetCPUs(cpus)
}

// Kill implements vm.Machine. What is left to do is not slowed down by the machine's limit.
func (m *machine) Kill(ctx context.Context) error {
	if err := m.group.SetCPUs(0); err != nil {
		m.log.Warn("a machine ends slowly", "runDir", m.runDir, "err", err)
	}
	return m.Client.Kill(ctx)
}

// SetNIC implements vm.Machine.
func (m *machine) SetNIC(ctx context.Context, slot int, nic vm.NIC) error {
	return m.joiner.set(m.life, slot, nic, func() error { return m.SetCard(ctx, slot, cardOf(nic)) })
}

// Close implements vm.Machine.
func (m *machine) Close() error { return m.close() }

func (m *machine) release() error {
	close(m.closed)
	m.end()
	m.stream.Close()
	return m.Client.Close()
}
