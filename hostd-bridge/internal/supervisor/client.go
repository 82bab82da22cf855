package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/frames/unixsocket"
	"github.com/containervm/containervm/hostd-bridge/internal/vmlog"
)

// Client speaks with the supervisor of one machine. Each operation has a connection of its own.
type Client struct {
	runDir string
	pidfd  *os.File // the supervisor
}

// Prestarted is a supervisor whose QEMU is there and whose machine has no identity yet.
type Prestarted struct {
	process *exec.Cmd
	in      io.WriteCloser
	out     io.ReadCloser
	results *json.Decoder
	runDir  string
}

// Prestart starts program as the supervisor of a machine and returns when its QEMU is there. The supervisor is of a session of
// its own; once it has an Identity it outlives the caller, and without one it ends with it. files are a template's, for a
// child.
func Prestart(ctx context.Context, program string, cfg Config, files ...*os.File) (_ *Prestarted, err error) {
	p := &Prestarted{process: exec.Command(program), runDir: cfg.RunDir}
	log, err := os.Create(ownLogPath(cfg.RunDir))
	if err != nil {
		return nil, fmt.Errorf("cannot start the supervisor: %w", err)
	}
	defer log.Close()
	p.process.Dir, p.process.Stderr = cfg.RunDir, log
	p.process.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	p.process.ExtraFiles = files
	if p.in, err = p.process.StdinPipe(); err == nil {
		if p.out, err = p.process.StdoutPipe(); err == nil {
			err = cfg.start(p.process)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("cannot start the supervisor: %w", err)
	}
	p.results = json.NewDecoder(p.out)
	if err := p.tell(ctx, cfg); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// Begin gives the machine its identity and returns when it runs. It ends the Prestarted, also when it fails.
func (p *Prestarted) Begin(ctx context.Context, id Identity) (*Client, error) {
	p.runDir = id.RunDir // where it moves to
	if err := p.tell(ctx, id); err != nil {
		p.Close()
		return nil, err
	}
	c, err := Connect(ctx, id.RunDir)
	if err != nil { // nobody would know of a machine that goes on
		p.Close()
		return nil, err
	}
	p.in.Close()
	p.out.Close()
	go p.process.Wait() // reaps it, whenever it ends
	return c, nil
}

// Close abandons the machine: its processes are gone when it returns. Not after Begin.
func (p *Prestarted) Close() error {
	p.in.Close()
	p.process.Process.Kill() // QEMU dies with it
	p.out.Close()
	_ = p.process.Wait() // the kill is its error
	return AwaitEnd(context.Background(), p.runDir)
}

// tell sends a document and takes the Result.
func (p *Prestarted) tell(ctx context.Context, document any) error {
	stop := context.AfterFunc(ctx, func() { p.process.Process.Kill() })
	defer stop()
	var r Result
	err := json.NewEncoder(p.in).Encode(document)
	if err == nil || errors.Is(err, syscall.EPIPE) { // it has said why it went
		err = p.results.Decode(&r)
	}
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("cannot start the machine: %w", context.Cause(ctx))
	case err != nil:
		said := tail(ownLogPath(p.runDir), 2048)
		return fmt.Errorf("cannot start the machine: its supervisor ended without an answer: %w: %s", err, said)
	case r.Error != "":
		return errors.New(r.Error)
	}
	return nil
}

// Connect finds the supervisor of the machine in runDir.
func Connect(ctx context.Context, runDir string) (*Client, error) {
	c := &Client{runDir: runDir}
	conn, err := c.dial(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	pid, err := unixsocket.PeerPID(conn)
	if err != nil {
		return nil, fmt.Errorf("cannot identify the supervisor: %w", err)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot watch the supervisor: %w", err)
	}
	c.pidfd = os.NewFile(uintptr(fd), "supervisor")
	return c, nil
}

// PID is the supervisor's process ID, as this process sees it.
func (c *Client) PID() (int, error) {
	info, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", c.pidfd.Fd())) // pidfd_open(2)
	if err != nil {
		return 0, fmt.Errorf("cannot identify the supervisor: %w", err)
	}
	for line := range strings.Lines(string(info)) {
		if pid, ok := strings.CutPrefix(line, "Pid:"); ok {
			return strconv.Atoi(strings.TrimSpace(pid))
		}
	}
	return 0, errors.New("cannot identify the supervisor: the kernel does not say")
}

// Gone calls f in a goroutine of its own when the supervisor has ended, also after Close.
func (c *Client) Gone(f func()) error {
	fd, err := unix.FcntlInt(c.pidfd.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot watch the supervisor: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // the runtime waits, without a thread
		unix.Close(fd)
		return fmt.Errorf("cannot watch the supervisor: %w", err)
	}
	process := os.NewFile(uintptr(fd), "supervisor")
	raw, err := process.SyscallConn()
	if err != nil {
		process.Close()
		return fmt.Errorf("cannot watch the supervisor: %w", err)
	}
	go func() {
		defer process.Close()
		// Readable when the process has ended (pidfd_open(2)).
		_ = raw.Read(func(fd uintptr) bool {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
			return n > 0 || err != nil && !errors.Is(err, unix.EINTR)
		})
		f()
	}()
	return nil
}

// Close forgets the supervisor, which goes on.
func (c *Client) Close() error { return c.pidfd.Close() }

func (c *Client) dial(ctx context.Context) (*net.UnixConn, error) {
	conn, err := unixsocket.Dial(ctx, socketPath(c.runDir))
	if err != nil {
		return nil, fmt.Errorf("cannot reach the machine's supervisor: %w", err)
	}
	return conn, nil
}

// open makes a connection, sends the request and takes the reply. What follows the reply is still to be read.
func (c *Client) open(ctx context.Context, r request) (*net.UnixConn, error) {
	conn, _, err := c.ask(ctx, r)
	return conn, err
}

// ask is open that returns the reply.
func (c *Client) ask(ctx context.Context, r request) (_ *net.UnixConn, answer reply, _ error) {
	conn, err := c.dial(ctx)
	if err != nil {
		return nil, answer, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	err = writeFrame(conn, r)
	if err == nil {
		err = readFrame(conn, &answer)
	}
	if !stop() {
		err = context.Cause(ctx)
	} else if err != nil {
		err = fmt.Errorf("cannot %s: the machine's supervisor is gone: %w", r.Op, err)
	} else {
		err = answer.err()
	}
	if err != nil {
		conn.Close()
		return nil, answer, err
	}
	return conn, answer, nil
}

// do executes an operation that is over with its reply.
func (c *Client) do(ctx context.Context, r request) error {
	conn, err := c.open(ctx, r)
	if err != nil {
		return err
	}
	return conn.Close()
}

// SetGuestinfo changes what the guest reads; an empty value removes the key.
func (c *Client) SetGuestinfo(ctx context.Context, kv map[string]string) error {
	return c.do(ctx, request{Op: opSet, Set: kv})
}

// Dial connects to a vsock port of the guest. The connection closes by halves.
func (c *Client) Dial(ctx context.Context, port uint32) (*net.UnixConn, error) {
	return c.open(ctx, request{Op: opDial, Port: port})
}

// Log reads the log, and says with which offset it begins.
func (c *Client) Log(ctx context.Context, r vmlog.Reader) (log *net.UnixConn, at int64, err error) {
	log, answer, err := c.ask(ctx, request{Op: opLog, From: r.From, Follow: r.Follow, Hold: r.Hold})
	return log, answer.At, err
}

// SetLog changes how much of the log is kept.
func (c *Client) SetLog(ctx context.Context, limits hostapi.Log) error {
	return c.do(ctx, request{Op: opSetLog, Log: limits})
}

// Attach puts a disk into the empty root slot.
func (c *Client) Attach(ctx context.Context, path string) error {
	return c.do(ctx, request{Op: opAttach, Path: path})
}

// Detach empties the root slot.
func (c *Client) Detach(ctx context.Context) error { return c.do(ctx, request{Op: opDetach}) }

// Pause stops the CPUs.
func (c *Client) Pause(ctx context.Context) error { return c.do(ctx, request{Op: opPause}) }

// Resume lets the CPUs go on.
func (c *Client) Resume(ctx context.Context) error { return c.do(ctx, request{Op: opResume}) }

// Reset restarts the guest.
func (c *Client) Reset(ctx context.Context) error { return c.do(ctx, request{Op: opReset}) }

// Plug puts a data disk into the machine, whose unit must be free.
func (c *Client) Plug(ctx context.Context, disk Disk) error {
	return c.do(ctx, request{Op: opPlug, Disk: disk})
}

// Unplug takes the data disk with a unit number out. The error wraps syscall.ENODEV when there is none.
func (c *Client) Unplug(ctx context.Context, unit int) error {
	return c.do(ctx, request{Op: opUnplug, Disk: Disk{Unit: unit}})
}

// SetCard says what the network card in a slot is from now on.
func (c *Client) SetCard(ctx context.Context, slot int, card Card) error {
	return c.do(ctx, request{Op: opSetNIC, Slot: slot, Card: card})
}

// Template returns the machine's fork point, whose files the caller closes. A machine that runs is stopped for a moment, and goes
// on with new disks over its own.
func (c *Client) Template(ctx context.Context, to NewDisks) (ForkPoint, error) {
	conn, err := c.open(ctx, request{Op: opTemplate, To: to})
	if err != nil {
		return ForkPoint{}, err
	}
	defer conn.Close()
	var p ForkPoint
	if err := readFrame(conn, &p.Hardware); err != nil {
		return ForkPoint{}, fmt.Errorf("cannot receive the machine's fork point: %w", err)
	}
	files, err := receiveFiles(conn, 2)
	if err != nil {
		return ForkPoint{}, err
	}
	p.RAM, p.State = files[0], files[1]
	return p, nil
}

// QEMU is the process ID of the machine's QEMU.
func (c *Client) QEMU(ctx context.Context) (pid int, err error) {
	conn, err := c.open(ctx, request{Op: opQEMU})
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	if err := readFrame(conn, &pid); err != nil {
		return 0, fmt.Errorf("cannot learn of the machine's QEMU: %w", err)
	}
	return pid, nil
}

// Memory measures what the machine takes now.
func (c *Client) Memory(ctx context.Context) (hostapi.Memory, error) {
	conn, err := c.open(ctx, request{Op: opMemory})
	if err != nil {
		return hostapi.Memory{}, err
	}
	defer conn.Close()
	var m hostapi.Memory
	if err := readFrame(conn, &m); err != nil {
		return hostapi.Memory{}, fmt.Errorf("cannot measure the machine's memory: %w", err)
	}
	return m, nil
}

// Kill ends the machine and returns when its processes are gone. A supervisor that does not answer is killed, and QEMU
// with it.
func (c *Client) Kill(ctx context.Context) error {
	if err := c.do(ctx, request{Op: opKill}); err != nil {
		err := unix.PidfdSendSignal(int(c.pidfd.Fd()), unix.SIGKILL, nil, 0)
		if err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("cannot kill the machine's supervisor: %w", err)
		}
	}
	return AwaitEnd(ctx, c.runDir)
}

// Events calls each for every Event, beginning with all that the guest has set so far, until Exit or until conn, which
// Subscribe returned, is closed.
func Events(conn io.Reader, each func(Event)) error {
	for {
		var e Event
		if err := readFrame(conn, &e); err != nil {
			return err
		}
		each(e)
		if e.Exit != nil {
			return nil
		}
	}
}

// Subscribe begins to read the machine's events: pass what it returns to Events.
func (c *Client) Subscribe(ctx context.Context) (io.ReadCloser, error) {
	return c.open(ctx, request{Op: opEvents})
}

// AwaitEnd returns when no process of the machine in runDir exists any more.
func AwaitEnd(ctx context.Context, runDir string) error {
	f, err := os.Open(lockPath(runDir))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	free := make(chan error, 1)
	go func() { // ends with the machine's processes, at the latest
		defer f.Close()
		free <- unix.Flock(int(f.Fd()), unix.LOCK_SH)
	}()
	select {
	case err := <-free:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// LastReport reads exit.json of an ended machine. The error is os.ErrNotExist when its supervisor did not live to write
// one.
func LastReport(runDir string) (*Exit, error) {
	b, err := os.ReadFile(exitPath(runDir))
	if err != nil {
		return nil, err
	}
	x := new(Exit)
	if err := json.Unmarshal(b, x); err != nil {
		return nil, fmt.Errorf("cannot read the machine's last report: %w", err)
	}
	return x, nil
}

// Existed reports whether a machine was ever started in runDir.
func Existed(runDir string) bool {
	_, err := os.Stat(lockPath(runDir))
	return err == nil
}
