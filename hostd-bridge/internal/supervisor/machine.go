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
	"time"

	"github.com/containervm/containervm/hostd-bridge/internal/guestinfo"
	"github.com/containervm/containervm/hostd-bridge/internal/qemu/qmp"
	"github.com/containervm/containervm/hostd-bridge/internal/vsock"
	"github.com/containervm/containervm/tether/link"
)

// startTimeout is how long QEMU may take to run its CPUs.
const startTimeout = 30 * time.Second

// machine is the running virtual machine of this process.
type machine struct {
	cfg   Config
	log   *slog.Logger
	info  *guestinfo.Store
	out   *logFile
	vsock vsock.Transport
	qemu  *qemuProcess
	qmp   *qmp.Client
	slot  slot

	serving sync.WaitGroup // connections of the guest

	mu       sync.Mutex
	shutdown *shutdown
	killed   bool
	reset    chan struct{} // closed at the next RESET of QEMU

	ended chan struct{} // closed when exit is set
	exit  Exit
}

// start brings the machine up; it returns when its CPUs run.
func start(ctx context.Context, cfg Config, lock *os.File, log *slog.Logger) (*machine, error) {
	m := &machine{cfg: cfg, log: log, info: guestinfo.New(cfg.Guestinfo, time.Now), ended: make(chan struct{}),
		reset: make(chan struct{}), slot: newSlot(cfg)}
	var err error
	if m.qemu, err = startQEMU(cfg, lock); err != nil {
		return nil, err
	}
	if err := m.bringUp(ctx); err != nil {
		m.qemu.kill()
		if m.vsock != nil {
			m.vsock.Close()
		}
		return nil, withStderr(err, cfg.RunDir)
	}
	go m.watch()
	go m.boundConsole()
	return m, nil
}

// withStderr adds what QEMU said.
func withStderr(err error, runDir string) error {
	if said := strings.TrimSpace(string(tail(qemuLogPath(runDir), 2048))); said != "" {
		return fmt.Errorf("%w: %s", err, said)
	}
	return err
}

// bringUp does what remains while QEMU starts, and waits for it.
func (m *machine) bringUp(ctx context.Context) error {
	m.qmp = qmp.New(m.qemu.control, m.event)
	if err := m.startVsock(); err != nil {
		return err
	}
	var err error
	if m.out, err = openLog(logPath(m.cfg.HomeDir), time.Now()); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := m.qmp.Handshake(ctx); err != nil {
		return fmt.Errorf("cannot bring up QEMU: %w", err)
	}
	return nil
}

// startVsock plays the guest's vsock and listens for its guestinfo and log connections.
func (m *machine) startVsock() error {
	if m.cfg.Kernel {
		m.vsock = vsock.NewKernel(m.cfg.CID)
	} else {
		dev := vsock.NewDevice(m.log)
		m.vsock = dev
		go m.intercept(dev)
	}
	if err := m.serve(link.ServiceGuestinfo, func(c net.Conn) error { return m.info.Serve(c) }); err != nil {
		return err
	}
	return m.serve(link.ServiceLog, func(c net.Conn) error { return m.out.receive(c, time.Now) })
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
	}
}

// watch waits for QEMU's end and writes the last report.
func (m *machine) watch() {
	<-m.qemu.ended
	m.qmp.Close()
	m.vsock.Close()
	m.serving.Wait() // what the guest sent is in the log and in guestinfo
	m.mu.Lock()
	e := ending{killed: m.killed, shutdown: m.shutdown, waitErr: m.qemu.err, guest: m.info.Guest(),
		console: tail(ConsolePath(m.cfg.HomeDir), panicSearch),
		stderr:  strings.TrimSpace(string(tail(qemuLogPath(m.cfg.RunDir), 2048)))}
	m.mu.Unlock()
	m.exit = e.exit()
	m.exit.At = time.Now().UTC()
	if err := writeExit(m.cfg.RunDir, m.exit); err != nil {
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
	m.killed = true
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
