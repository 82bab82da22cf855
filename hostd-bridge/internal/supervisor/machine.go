package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/containervm/containervm/hostd-bridge/internal/guestinfo"
	"github.com/containervm/containervm/hostd-bridge/internal/qemu/qmp"
	"github.com/containervm/containervm/hostd-bridge/internal/vsock"
	"github.com/containervm/containervm/tether/link"
)

// startTimeout is how long QEMU may take to run its CPUs.
const startTimeout = 30 * time.Second

// machine is the virtual machine of this process.
type machine struct {
	cfg   Config
	id    Identity
	log   *slog.Logger
	info  *guestinfo.Store
	out   *logFile
	con   *console
	vsock vsock.Transport
	ram   *os.File // the guest's memory; of a child its template's, which it has private pages over
	qemu  *qemuProcess
	qmp   *qmp.Client
	slot  slot

	serving sync.WaitGroup // connections of the guest

	mu       sync.Mutex
	shutdown *shutdown
	killed   bool
	unwanted chan struct{} // closed with killed
	reset    chan struct{} // closed at the next RESET of QEMU
	loaded   chan error    // takes how the loading of a child's state has ended
	state    *os.File      // of a frozen machine: its device state
	frozen   chan struct{} // closed when state is set
	freezing sync.Once
	marks    []Mark
	marked   chan struct{} // closed at the next mark

	ended chan struct{} // closed when exit is set
	exit  Exit
}

// prepare starts QEMU; its CPUs do not run.
func prepare(ctx context.Context, cfg Config, lock *os.File, log *slog.Logger) (_ *machine, err error) {
	m := &machine{cfg: cfg, log: log, ended: make(chan struct{}), reset: make(chan struct{}), loaded: make(chan error, 1),
		frozen: make(chan struct{}), unwanted: make(chan struct{}), marked: make(chan struct{}), slot: newSlot(cfg)}
	var state *os.File
	if cfg.Child {
		m.ram, state = os.NewFile(templateRAM, ramName), os.NewFile(templateState, "state")
		defer state.Close()
		unix.CloseOnExec(templateRAM)
		unix.CloseOnExec(templateState)
		// Its own place in the file, not that of its brothers.
		if state, err = os.Open(fmt.Sprintf("/proc/self/fd/%d", templateState)); err != nil {
			return nil, fmt.Errorf("cannot open the template's state: %w", err)
		}
		defer state.Close()
	} else if m.ram, err = newMemory(ramName, int64(cfg.MemoryMiB)<<20); err != nil {
		return nil, err
	}
	if m.qemu, err = startQEMU(cfg, lock, m.ram, state); err != nil {
		return nil, err
	}
	if err := m.greet(ctx); err != nil {
		m.qemu.kill()
		m.vsock.Close()
		return nil, withStderr(err, cfg.RunDir)
	}
	m.mark(markPrepared)
	return m, nil
}

// withStderr adds what QEMU said.
func withStderr(err error, runDir string) error {
	if said := strings.TrimSpace(string(tail(qemuLogPath(runDir), 2048))); said != "" {
		return fmt.Errorf("%w: %s", err, said)
	}
	return err
}

// greet plays the vsock device, which QEMU asks for while it starts, and waits for QEMU.
func (m *machine) greet(ctx context.Context) error {
	if m.cfg.Kernel {
		m.vsock = vsock.NewKernel(m.cfg.CID)
	} else {
		dev := vsock.NewDevice(m.cfg.Child, m.log)
		m.vsock = dev
		go m.intercept(dev)
	}
	m.qmp = qmp.New(m.qemu.control, m.event)
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := m.qmp.Handshake(ctx); err != nil {
		return fmt.Errorf("cannot bring up QEMU: %w", err)
	}
	if !m.cfg.Child {
		return nil
	}
	return m.readyToLoad(ctx)
}

// begin gives the machine its identity and lets its CPUs run.
func (m *machine) begin(ctx context.Context, id Identity) error {
	m.id = id
	err := m.bringUp(ctx)
	if err == nil {
		m.mark(markResumed)
		go m.watch()
		return nil
	}
	m.qemu.kill()
	m.vsock.Close()
	return withStderr(err, id.RunDir)
}

func (m *machine) bringUp(ctx context.Context) (err error) {
	if m.con, err = copyConsole(ConsolePath(m.id.HomeDir), m.qemu.console); err != nil {
		return err
	}
	if m.out, err = openLog(logPath(m.id.HomeDir), runMarker(m.id.Guestinfo), time.Now()); err != nil {
		return err
	}
	m.out.first = func() { m.mark(markFirstByte) }
	m.info = guestinfo.New(m.id.Guestinfo, guestinfo.Hooks{Freeze: m.freeze, Set: m.guestSet})
	if err := m.serveGuest(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if m.id.RootDisk != "" {
		if err := m.slot.attach(ctx, m.qmp, m.id.RootDisk); err != nil {
			return err
		}
	}
	if m.id.Rehearsal != "" {
		if err := m.slot.lend(ctx, m.qmp, m.id.Rehearsal); err != nil {
			return err
		}
	}
	if m.cfg.Child {
		if err := m.load(ctx); err != nil {
			return err
		}
	}
	return m.resume(ctx)
}

// serveGuest listens for the guest's guestinfo and log connections.
func (m *machine) serveGuest() error {
	hello := sync.OnceFunc(func() { m.mark(markHello) })
	err := m.serve(link.ServiceGuestinfo, func(c net.Conn) error {
		hello()
		return m.info.Serve(c)
	})
	if err != nil {
		return err
	}
	return m.serve(link.ServiceLog, func(c net.Conn) error { return m.out.receive(c, time.Now) })
}

// mark notes a point of the machine's start.
func (m *machine) mark(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.marks = append(m.marks, Mark{Name: name, At: time.Now().UTC()})
	close(m.marked)
	m.marked = make(chan struct{})
}

// marksSince returns the marks after the first n, and a channel that is closed at the next one.
func (m *machine) marksSince(n int) ([]Mark, <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.marks[n:]), m.marked
}

func (m *machine) intercept(dev *vsock.Device) {
	if err := m.qemu.interceptor.Serve(m.qemu.cmd.Process.Pid, dev, m.log); err != nil {
		m.log.Error("the guest's vsock is dead", "err", err)
	}
}

// serve accepts the guest's connections to a service. A connection that ended is closed: a guest that has shut down its
// side and then reads end of file knows that all it sent was taken.
func (m *machine) serve(s link.Service, handle func(net.Conn) error) error {
	l, err := m.vsock.Listen(link.HostPort(m.cfg.CID, s))
	if err != nil {
		return err
	}
	m.serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			m.serving.Go(func() {
				defer c.Close()
				if err := handle(c); err != nil {
					m.log.Warn("connection of the guest failed", "service", s, "err", err)
				}
			})
		}
	})
	return nil
}

// event takes what QEMU reports.
func (m *machine) event(e qmp.Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch e.Name {
	case "SHUTDOWN":
		s := new(shutdown)
		if err := json.Unmarshal(e.Data, s); err == nil && m.shutdown == nil {
			m.shutdown = s
		}
	case "RESET":
		close(m.reset)
		m.reset = make(chan struct{})
	case "MIGRATION":
		m.migration(e.Data)
	}
}

// watch waits for QEMU's end and writes the last report.
func (m *machine) watch() {
	<-m.qemu.ended
	m.qmp.Close()
	m.vsock.Close()
	m.info.Close()
	m.serving.Wait() // what the guest sent is in the log and in guestinfo
	<-m.con.done
	if m.con.err != nil {
		m.log.Error("the console's file is not complete", "err", m.con.err)
	}
	m.mu.Lock()
	stands := m.state != nil
	e := ending{killed: m.killed, shutdown: m.shutdown, waitErr: m.qemu.err, guest: m.info.Guest(),
		console: tail(ConsolePath(m.id.HomeDir), panicSearch),
		stderr:  strings.TrimSpace(string(tail(qemuLogPath(m.id.RunDir), 2048)))}
	m.mu.Unlock()
	if stands {
		m.keep()
		e.killed = true
	}
	m.exit = e.exit()
	m.exit.At = time.Now().UTC()
	if err := writeExit(m.id.RunDir, m.exit); err != nil {
		m.log.Error("cannot write the machine's last report", "err", err)
	}
	m.out.end()
	close(m.ended)
}

// writeExit writes exit.json atomically.
func writeExit(runDir string, x Exit) error {
	b, err := json.Marshal(x)
	if err != nil {
		return err
	}
	path := exitPath(runDir)
	if err := os.WriteFile(path+".tmp", b, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".tmp", path)
}

// kill ends QEMU on request and returns when the report is written.
func (m *machine) kill() {
	m.mu.Lock()
	if !m.killed {
		m.killed = true
		close(m.unwanted)
	}
	m.mu.Unlock()
	m.qemu.kill()
	<-m.ended
}

func (m *machine) pause(ctx context.Context) error  { return m.qmp.Execute(ctx, "stop", nil, nil) }
func (m *machine) resume(ctx context.Context) error { return m.qmp.Execute(ctx, "cont", nil, nil) }

// restart resets the guest. QEMU runs with -no-reboot, by which a guest without ACPI powers off, so a reset by hand
// must change what a reset means for a moment.
func (m *machine) restart(ctx context.Context) error {
	m.mu.Lock()
	done := m.reset
	m.mu.Unlock()
	if err := m.onReboot(ctx, "reset"); err != nil {
		return err
	}
	err := m.qmp.Execute(ctx, "system_reset", nil, nil)
	if err == nil {
		select {
		case <-done:
			if dev, ok := m.vsock.(*vsock.Device); ok {
				dev.Reset()
			}
		case <-m.qemu.ended:
			err = errors.New("QEMU has ended")
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
	}
	return errors.Join(err, m.onReboot(context.WithoutCancel(ctx), "shutdown"))
}

// onReboot sets what a reboot of the guest does (QMP set-action).
func (m *machine) onReboot(ctx context.Context, action string) error {
	return m.qmp.Execute(ctx, "set-action", map[string]string{"reboot": action}, nil)
}
