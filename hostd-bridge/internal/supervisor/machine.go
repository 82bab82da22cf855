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

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/guestinfo"
	"github.com/containervm/containervm/hostd-bridge/internal/jail"
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
	files  Files
	id     Identity
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
	sets  fdsets
	slot  slot
	disks dataDisks
	cards cards

	joins *joins // connections with switches, which the daemon makes

	operations chan operation // for the owner
	unwanted   chan struct{}  // closed by giveUp
	giveUp     func()
	frozen     chan struct{} // closed when the fork point of a frozen machine can be had
	ended      chan struct{} // closed when exit is set and written
	exit       Exit
}

// startMachine starts QEMU; its CPUs do not run. A machine that it returns is handed to own in the end, or to abandon.
func startMachine(cfg Config, files Files, log *slog.Logger) (*machine, error) {
	m := &machine{
		cfg: cfg, files: files, log: log, events: newQEMUEvents(), marks: newTimeline(), slot: newSlot(cfg), joins: newJoins(),
		operations: make(chan operation), unwanted: make(chan struct{}), frozen: make(chan struct{}), ended: make(chan struct{}),
	}
	m.disks = newDataDisks(m.events.deleted)
	m.giveUp = sync.OnceFunc(func() { close(m.unwanted) })
	m.ram = files.RAM
	var err error
	if !cfg.Child {
		if m.ram, err = newMemory(ramName, int64(m.cfg.MemoryMiB)<<20); err != nil {
			return nil, err
		}
	}
	if m.qemu, err = startQEMU(cfg, files, m.ram); err != nil {
		return nil, err
	}
	closeAll(append([]*os.File{files.Kernel, files.Initrd, files.State}, files.captures...)) // QEMU's alone
	if cfg.Kernel {
		m.vsock = vsock.NewKernel(cfg.CID)
		if m.qemu.interceptor != nil {
			go m.intercept(nil) // ends with QEMU
		}
	} else { // QEMU asks for the device while it starts
		dev := vsock.NewDevice(cfg.Child, log)
		m.vsock = dev
		go m.intercept(dev) // ends with QEMU
	}
	m.cards = newCards(cfg, m.qemu.cards, m.joins, log)
	m.qmp = qmp.New(m.qemu.control, m.events.take)
	return m, nil
}

// withStderr adds what QEMU said.
func (m *machine) withStderr(err error) error {
	if said := m.stderr(); said != "" {
		return fmt.Errorf("%w: %s", err, said)
	}
	return err
}

func (m *machine) stderr() string { return strings.TrimSpace(string(tail(m.files.qemuLog, 2048))) }

// handshake waits for QEMU.
func (m *machine) handshake(ctx context.Context) error {
	if m.cfg.Confined { // QEMU has nothing of a guest's yet, and no other program is started
		if err := jail.ConfineSelf(m.cfg.Kernel); err != nil {
			return err
		}
	}
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
	if m.id.Root.Levels > 0 {
		if err := m.attachRoot(ctx, m.id.Root); err != nil {
			return err
		}
	}
	if m.id.Rehearsal.Levels > 0 {
		if err := m.attachRehearsal(ctx, m.id.Rehearsal); err != nil {
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
	if err := m.keepConnections(); err != nil {
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

// keepConnections takes the connections that cards have with their switches from the beginning.
func (m *machine) keepConnections() error {
	for i, slot := range m.id.Joined {
		f := m.id.Connections[i]
		conn, err := unixConn(f)
		f.Close()
		if err != nil {
			return err
		}
		if slot < 0 || slot >= len(m.id.Cards) {
			conn.Close()
			return fmt.Errorf("cannot join slot %d with a network: no card is there", slot)
		}
		m.joins.keep(slot, m.id.Cards[slot], conn)
	}
	return nil
}

// serveGuest opens the files that the guest's output goes to, and listens for its guestinfo and log connections.
func (m *machine) serveGuest() (err error) {
	if m.cfg.Child && m.cfg.Hardware.Token == "" {
		return errors.New("cannot tell the fork's tether from its container: its source was started by an older version; start that anew")
	}
	m.con = copyConsole(m.id.Console, m.qemu.console)
	home, err := os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", m.id.Home.Fd())) // it is a descriptor, perhaps of a path alone
	if err != nil {
		return fmt.Errorf("cannot use the directory of the log: %w", err)
	}
	first := func() { m.marks.mark(hostapi.MarkFirstByte) }
	if m.out, err = vmlog.Open(home, m.id.Log, runMarker(m.id), time.Now(), first); err != nil {
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
	m.joins.close()
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
		killed: m.isUnwanted(), denied: m.qemu.denied.Load(), shutdown: m.events.shutdown, waitErr: m.qemu.err, guest: m.info.Guest(),
		console: tail(m.con.file, panicSearch),
		stderr:  m.stderr(),
	}
	m.exit = e.exit()
	m.exit.At, m.exit.Run = time.Now().UTC(), m.id.Run
	if err := writeExit(m.files.exit, m.exit); err != nil {
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

// writeExit writes exit.json, which is empty. Whoever reads it before it is whole finds no report.
func writeExit(f *os.File, x Exit) error {
	b, err := json.Marshal(x)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(b, 0)
	return err
}
