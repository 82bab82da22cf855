package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/frames/unixsocket"
	"github.com/containervm/containervm/hostd-bridge/internal/guestinfo"
	"github.com/containervm/containervm/hostd-bridge/internal/qemu/qmp"
	"github.com/containervm/containervm/hostd-bridge/internal/vmlog"
	"github.com/containervm/containervm/hostd-bridge/internal/vsock"
	"github.com/containervm/containervm/tether/link"
)

// startTimeout is how long QEMU may take to run its CPUs.
const startTimeout = 30 * time.Second

// machine is the virtual machine of this process.
type machine struct {
	cfg    Config
	id     Identity
	dir    string // the run directory: the Config's, then the Identity's
	log    *slog.Logger
	qemu   *qemuProcess
	qmp    *qmp.Client
	events qemuEvents
	vsock  vsock.Transport
	marks  *timeline

	// What the guest talks to, from begin on.
	info    *guestinfo.Store
	out     *vmlog.Log
	con     *console
	serving sync.WaitGroup // connections of the guest

	strangers atomic.Bool // one of them was not the tether's

	// Only the owner touches these: first the goroutine that starts the machine, which then calls own.
	state runState
	ram   *os.File // the guest's memory; of a child its template's, over which QEMU has private pages
	saved *os.File // of a frozen machine: its device state
	slot  slot
	disks dataDisks
	cards cards

	operations chan operation // for the owner
	unwanted   chan struct{}  // closed by giveUp
	giveUp     func()
	frozen     chan struct{} // closed when the fork point of a frozen machine can be had
	ended      chan struct{} // closed when exit is set and written
	exit       Exit
}

// startMachine starts QEMU; its CPUs do not run. A machine that it returns is handed to own in the end, or to abandon.
func startMachine(cfg Config, lock *os.File, log *slog.Logger) (*machine, error) {
	m := &machine{
		cfg: cfg, dir: cfg.RunDir, log: log, events: newQEMUEvents(), marks: newTimeline(), slot: newSlot(cfg),
		operations: make(chan operation), unwanted: make(chan struct{}), frozen: make(chan struct{}), ended: make(chan struct{}),
	}
	m.disks = newDataDisks(m.events.deleted)
	m.giveUp = sync.OnceFunc(func() { close(m.unwanted) })
	state, err := m.openMemory()
	if err != nil {
		return nil, err
	}
	if state != nil {
		defer state.Close()
	}
	if m.qemu, err = startQEMU(cfg, lock, m.ram, state); err != nil {
		return nil, err
	}
	if cfg.Kernel {
		m.vsock = vsock.NewKernel(cfg.CID)
	} else { // QEMU asks for the device while it starts
		dev := vsock.NewDevice(cfg.Child, log)
		m.vsock = dev
		go m.intercept(dev) // ends with QEMU
	}
	m.cards = newCards(cfg, m.qemu.cards, log)
	m.qmp = qmp.New(m.qemu.control, m.events.take)
	return m, nil
}

// openMemory makes the memory of a machine that boots, or opens the inherited files of a child's template. state is nil for a
// machine that boots.
func (m *machine) openMemory() (state *os.File, err error) {
	if !m.cfg.Child {
		m.ram, err = newMemory(ramName, int64(m.cfg.MemoryMiB)<<20)
		return nil, err
	}
	unix.CloseOnExec(templateRAM)
	unix.CloseOnExec(templateState)
	m.ram = os.NewFile(templateRAM, ramName)
	inherited := os.NewFile(templateState, "state")
	defer inherited.Close()
	// All children of the template share the inherited file's offset: this one needs an offset of its own.
	if state, err = os.Open(fmt.Sprintf("/proc/self/fd/%d", templateState)); err != nil {
		return nil, fmt.Errorf("cannot open the template's state: %w", err)
	}
	return state, nil
}

// withStderr adds what QEMU said.
func withStderr(err error, runDir string) error {
	if said := strings.TrimSpace(string(tail(qemuLogPath(runDir), 2048))); said != "" {
		return fmt.Errorf("%w: %s", err, said)
	}
	return err
}

// handshake waits for QEMU.
func (m *machine) handshake(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := m.qmp.Handshake(ctx); err != nil {
		return fmt.Errorf("cannot bring up QEMU: %w", err)
	}
	if m.cfg.Child {
		if err := m.readyToLoad(ctx); err != nil {
			return err
		}
	}
	m.marks.mark(hostapi.MarkPrepared)
	return nil
}

// assume gives the machine its identity: it moves to the machine's own directory and makes its socket there.
func (m *machine) assume(id Identity) (*net.UnixListener, error) {
	m.id = id
	if id.RunDir != m.dir {
		if err := unix.Rename(m.dir, id.RunDir); err != nil { // os.Rename takes no empty directory's place
			return nil, fmt.Errorf("cannot move into the machine's directory: %w", err)
		}
		m.dir = id.RunDir
	}
	return unixsocket.Listen(socketPath(m.dir))
}

// begin lets the CPUs run.
func (m *machine) begin(ctx context.Context) error {
	if err := m.check(stateRunning); err != nil {
		return err
	}
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
		if err := m.slot.attachRehearsal(ctx, m.qmp, m.id.Rehearsal); err != nil {
			return err
		}
	}
	if m.cfg.Child {
		if err := errors.Join(m.checkDisks(), m.plugAll(ctx, true)); err != nil {
			return err
		}
		if err := m.load(ctx); err != nil {
			return err
		}
	}
	if err := m.plugAll(ctx, false); err != nil {
		return err
	}
	if err := m.cards.begin(ctx, m.qmp, m.id); err != nil {
		return err
	}
	if err := m.resume(ctx); err != nil {
		return err
	}
	m.marks.mark(hostapi.MarkResumed)
	return nil
}

// serveGuest opens the files that the guest's output goes to, and listens for its guestinfo and log connections.
func (m *machine) serveGuest() (err error) {
	if m.cfg.Child && m.cfg.Hardware.Token == "" {
		return errors.New("cannot tell the fork's tether from its container: its source was started by an older version; start that anew")
	}
	if m.con, err = copyConsole(ConsolePath(m.id.HomeDir), m.qemu.console); err != nil {
		return err
	}
	first := func() { m.marks.mark(hostapi.MarkFirstByte) }
	if m.out, err = vmlog.Open(m.id.HomeDir, m.id.Log, runMarker(m.id), time.Now(), first); err != nil {
		return err
	}
	m.info = guestinfo.New(m.id.Guestinfo, guestinfo.Hooks{Token: m.cfg.Hardware.Token, Freeze: m.freeze, Set: m.guestSet})
	hello := sync.OnceFunc(func() { m.marks.mark(hostapi.MarkHello) })
	err = m.listen(link.ServiceGuestinfo, func(c net.Conn) error {
		hello()
		return m.info.Serve(c)
	})
	if err != nil {
		return err
	}
	return m.listen(link.ServiceLog, func(c net.Conn) error {
		if err := m.info.Admit(c); err != nil {
			return err
		}
		return m.out.Receive(c, time.Now)
	})
}

func (m *machine) intercept(dev *vsock.Device) {
	if err := m.qemu.interceptor.Serve(m.qemu.cmd.Process.Pid, dev, m.log); err != nil {
		m.log.Error("the guest's vsock is dead", "err", err)
	}
}

// listen accepts the guest's connections to a service.
func (m *machine) listen(s link.Service, handle func(net.Conn) error) error {
	l, err := m.vsock.Listen(link.HostPort(m.cfg.CID, s))
	if err != nil {
		return err
	}
	m.serving.Go(func() { m.accept(l, s, handle) })
	return nil
}

// accept handles connections until the listener ends. A connection is closed when it was handled to its end: a guest that has
// ended its half and then reads end of file knows that all it sent was taken. One that failed is reset, so that the guest
// does not read that.
func (m *machine) accept(l net.Listener, s link.Service, handle func(net.Conn) error) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		m.serving.Go(func() {
			defer c.Close()
			if err := handle(c); err != nil {
				if !errors.Is(err, guestinfo.ErrStranger) {
					m.log.Warn("connection of the guest failed", "service", s, "err", err)
				} else if m.strangers.CompareAndSwap(false, true) { // one is worth a word
					m.log.Warn("connection of the guest refused, and others like it will be", "service", s, "err", err)
				}
				if a, ok := c.(interface{ Abort() error }); ok { // not the kernel's
					_ = a.Abort() // the machine may have ended already
				}
			}
		})
	}
}

// qemuEvents are what QEMU reports by itself.
type qemuEvents struct {
	shutdown *shutdown     // the first of them; may be read when the connection of QMP is done
	resets   chan struct{} // holds a RESET that systemReset has not taken yet
	loaded   chan error    // how the loading of a child's state has ended
	deleted  chan string   // devices that were taken out, by their IDs; it holds all that there can be
}

func newQEMUEvents() qemuEvents {
	return qemuEvents{resets: make(chan struct{}, 1), loaded: make(chan error, 1), deleted: make(chan string, units)}
}

// take is called by the goroutine that reads QMP.
func (q *qemuEvents) take(e qmp.Event) {
	switch e.Name {
	case "SHUTDOWN":
		s := new(shutdown)
		if err := json.Unmarshal(e.Data, s); err == nil && q.shutdown == nil {
			q.shutdown = s
		}
	case "RESET":
		select {
		case q.resets <- struct{}{}:
		default:
		}
	case "MIGRATION":
		q.migration(e.Data)
	case "DEVICE_DELETED":
		var d struct{ Device string }
		if err := json.Unmarshal(e.Data, &d); err != nil || d.Device == "" {
			return // a part of a device that has a name itself
		}
		select {
		case q.deleted <- d.Device:
		default: // of no disk
		}
	}
}

// drain takes all that a QEMU has left behind that has ended.
func (m *machine) drain() {
	<-m.qmp.Done()
	m.cards.close()
	m.vsock.Close()
	m.info.Close()
	m.out.LetGo()
	m.serving.Wait() // what the guest sent is in the log and in guestinfo
	<-m.con.done
	if m.con.err != nil {
		m.log.Error("the console's file is not complete", "err", m.con.err)
	}
}

// report writes how the machine ended, and lets followers of its log come to their end.
func (m *machine) report() {
	e := ending{
		killed: m.isUnwanted(), shutdown: m.events.shutdown, waitErr: m.qemu.err, guest: m.info.Guest(),
		console: tail(ConsolePath(m.id.HomeDir), panicSearch),
		stderr:  strings.TrimSpace(string(tail(qemuLogPath(m.dir), 2048))),
	}
	m.exit = e.exit()
	m.exit.At, m.exit.Run = time.Now().UTC(), m.id.Run
	if err := writeExit(m.dir, m.exit); err != nil {
		m.log.Error("cannot write the machine's last report", "err", err)
	}
	m.out.Finish()
	close(m.ended)
}

// isUnwanted reports whether the machine's end was asked for.
func (m *machine) isUnwanted() bool {
	select {
	case <-m.unwanted:
		return true
	default:
		return false
	}
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
