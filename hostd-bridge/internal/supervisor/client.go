package supervisor

import (
	"bytes"
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
	"github.com/containervm/containervm/hostd-bridge/internal/plainfile"
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
	conn    *net.UnixConn
	runDir  string
}

// Prestart starts process as the supervisor of a machine with the run directory runDir, and returns when its QEMU is there. The supervisor is of a
// session of its own; once it has an Identity it outlives the caller, and without one it ends with it. files are what QEMU is to find; the caller
// closes them.
//
// The run directory is the caller's alone: what of it is the machine's, it gets as open files.
func Prestart(ctx context.Context, process *exec.Cmd, runDir string, cfg Config, files Files) (_ *Prestarted, err error) {
	p := &Prestarted{process: process, runDir: runDir}
	release := func() {
		closeAll([]*os.File{files.lock, files.qemuLog, files.exit, files.listener})
		closeAll(files.captures)
	}
	defer release()
	if err := files.make(runDir, cfg); err != nil {
		return nil, fmt.Errorf("cannot start the supervisor: %w", err)
	}
	if err := p.start(cfg); err != nil {
		return nil, fmt.Errorf("cannot start the supervisor: %w", err)
	}
	err = p.tell(ctx, cfg, files.all()...)
	release() // the supervisor has them, and Close waits until nobody holds the lock any more
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// start starts the process.
func (p *Prestarted) start(cfg Config) error {
	log, err := plainfile.Create(ownLogPath(p.runDir), 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	ours, theirs, err := controlPair()
	if err != nil {
		return err
	}
	defer theirs.Close()
	p.conn = ours
	p.process.Stdin, p.process.Stderr = theirs, log
	if p.process.SysProcAttr == nil {
		p.process.SysProcAttr = &syscall.SysProcAttr{}
	}
	p.process.SysProcAttr.Setsid = true
	if err := cfg.start(p.process); err != nil {
		ours.Close()
		return err
	}
	return nil
}

// make makes the files of a run directory that are the machine's.
func (f *Files) make(runDir string, cfg Config) (err error) {
	if f.lock, err = takeLock(runDir); err != nil {
		return err
	}
	if f.qemuLog, err = plainfile.Create(qemuLogPath(runDir), 0o600); err != nil {
		return err
	}
	if f.exit, err = plainfile.Create(exitPath(runDir), 0o600); err != nil { // that of the last machine goes
		return err
	}
	l, err := unixsocket.Listen(socketPath(runDir))
	if err != nil {
		return err
	}
	defer l.Close()
	if f.listener, err = l.File(); err != nil {
		return err
	}
	if !cfg.Capture {
		return nil
	}
	for _, id := range cfg.Cards {
		capture, err := plainfile.Create(CapturePath(runDir, id), 0o600)
		if err != nil {
			return err
		}
		f.captures = append(f.captures, capture)
		if err := capture.Chmod(0o666); err != nil { // QEMU opens it anew, as a user of its own; nobody else enters the directory
			return err
		}
	}
	return nil
}

// takeLock takes the lock of the processes of the machine in runDir. The supervisor and QEMU inherit it, so it is free only when both are gone.
func takeLock(runDir string) (*os.File, error) {
	f, err := plainfile.Check(os.OpenFile(lockPath(runDir), os.O_RDWR|os.O_CREATE|plainfile.Safe, 0o600))
	if err != nil {
		return nil, fmt.Errorf("cannot open the machine's lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot start a machine in %s: another one runs there: %w", runDir, err)
	}
	return f, nil
}

// Begin gives the machine its identity and returns when it runs. Its run directory becomes runDir, which exists and is empty unless it is
// the one that it has. It ends the Prestarted, also when it fails. The caller closes the files of the identity.
func (p *Prestarted) Begin(ctx context.Context, runDir string, id Identity) (*Client, error) {
	if runDir != p.runDir {
		if err := unix.Rename(p.runDir, runDir); err != nil { // os.Rename takes no empty directory's place
			return nil, errors.Join(fmt.Errorf("cannot move into the machine's directory: %w", err), p.Close())
		}
		p.runDir = runDir
	}
	if err := p.tell(ctx, id, id.files()...); err != nil {
		p.Close()
		return nil, err
	}
	c, err := p.client(ctx)
	if err != nil { // nobody would know of a machine that goes on
		p.Close()
		return nil, err
	}
	p.conn.Close()
	go p.process.Wait() // reaps it, whenever it ends
	return c, nil
}

// client returns a Client of the process if it can be reached.
func (p *Prestarted) client(ctx context.Context) (*Client, error) {
	c := &Client{runDir: p.runDir}
	conn, err := c.dial(ctx)
	if err != nil {
		return nil, err
	}
	conn.Close()
	if err := c.watch(p.process.Process.Pid); err != nil {
		return nil, err
	}
	return c, nil
}

// Close abandons the machine: its processes are gone when it returns. Not after Begin.
func (p *Prestarted) Close() error {
	p.conn.Close()
	p.process.Process.Kill() // QEMU dies with it
	_ = p.process.Wait()     // the kill is its error
	err := AwaitEnd(context.Background(), p.runDir)
	if gone := os.Remove(socketPath(p.runDir)); !errors.Is(gone, os.ErrNotExist) {
		err = errors.Join(err, gone)
	}
	return err
}

// tell sends a document with files and takes the Result.
func (p *Prestarted) tell(ctx context.Context, document any, files ...*os.File) error {
	stop := context.AfterFunc(ctx, func() { p.process.Process.Kill() })
	defer stop()
	var r Result
	err := sendFrame(p.conn, document, files...)
	if err == nil || errors.Is(err, syscall.EPIPE) { // it has said why it went
		err = readFrame(p.conn, &r)
	}
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("cannot start the machine: %w", context.Cause(ctx))
	case err != nil:
		return fmt.Errorf("cannot start the machine: its supervisor ended without an answer: %w: %s", err, p.said())
	case r.Error != "":
		return errors.New(r.Error)
	}
	return nil
}

// said is the end of what the supervisor has logged.
func (p *Prestarted) said() []byte {
	log, err := plainfile.Open(ownLogPath(p.runDir))
	if err != nil {
		return nil
	}
	defer log.Close()
	return tail(log, 2048)
}

// Connect finds the supervisor of the machine in runDir.
func Connect(ctx context.Context, runDir string) (*Client, error) {
	c := &Client{runDir: runDir}
	pid, err := c.who(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot identify the supervisor: %w", err)
	}
	if pid == os.Getpid() { // never: it would be killed in the supervisor's stead
		return nil, errors.New("cannot identify the supervisor: this process answers")
	}
	if err := c.watch(pid); err != nil {
		return nil, err
	}
	return c, nil
}

// who is the process that answers. The kernel says it: the socket was made by a daemon, and a process without privileges can name no other.
func (c *Client) who(ctx context.Context) (pid int, err error) {
	conn, err := c.dial(ctx)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if err := passCredentials(conn); err != nil {
		return 0, err
	}
	if err := writeFrame(conn, request{Op: opWho}); err != nil {
		return 0, err
	}
	first, oob := make([]byte, 1), make([]byte, unix.CmsgSpace(unix.SizeofUcred)+unix.CmsgSpace(4*253))
	n, got, _, _, err := conn.ReadMsgUnix(first, oob)
	if err != nil || n == 0 {
		return 0, errors.Join(io.ErrUnexpectedEOF, err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:got])
	if err != nil {
		return 0, err
	}
	for _, m := range messages {
		if cred, err := unix.ParseUnixCredentials(&m); err == nil {
			pid = int(cred.Pid)
		} else if fds, err := unix.ParseUnixRights(&m); err == nil { // nobody sends any
			for _, fd := range fds {
				unix.Close(fd)
			}
		}
	}
	if pid <= 0 { // of no process that this one sees
		return 0, errors.New("the process that answers has no ID here")
	}
	var answer reply
	if err := readFrame(io.MultiReader(bytes.NewReader(first), conn), &answer); err != nil {
		return 0, err
	}
	return pid, nil // one of an older version knows no such operation, and has answered all the same
}

// passCredentials has the kernel say with what is read who has sent it (SO_PASSCRED of unix(7)).
func passCredentials(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	ctl := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1) })
	return errors.Join(ctl, err)
}

// watch takes hold of the supervisor's process.
func (c *Client) watch(pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("cannot watch the supervisor: %w", err)
	}
	c.pidfd = os.NewFile(uintptr(fd), "supervisor")
	return nil
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
	err = sendFrame(conn, r, r.files()...)
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
func (c *Client) Attach(ctx context.Context, image Image) error {
	return c.do(ctx, request{Op: opAttach, Image: image})
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

// Join gives a card the connection with its switch that it waits for. ErrNotAwaited: it waits for none, or is another one by now.
func (c *Client) Join(ctx context.Context, slot int, card Card, conn *os.File) error {
	err := c.do(ctx, request{Op: opJoin, Slot: slot, Card: card, conn: conn})
	var refused *remoteError
	if errors.As(err, &refused) {
		return ErrNotAwaited
	}
	return err
}

// ErrNotAwaited says that a card does not wait for a connection.
var ErrNotAwaited = errors.New("the card does not wait for a connection with its switch")

// Template returns the machine's fork point, whose files the caller closes. A machine that runs is stopped for a moment, and goes
// on with new disks over its own.
func (c *Client) Template(ctx context.Context, to NewDisks) (ForkPoint, error) {
	conn, err := c.open(ctx, request{Op: opTemplate, To: to})
	if err != nil {
		return ForkPoint{}, err
	}
	defer conn.Close()
	var p ForkPoint
	files, err := receiveFrame(conn, &p.Hardware)
	if err == nil {
		err = checkForkPoint(files)
	}
	if err != nil {
		closeAll(files)
		return ForkPoint{}, fmt.Errorf("cannot receive the machine's fork point: %w", err)
	}
	p.RAM, p.State = files[0], files[1]
	return p, nil
}

// checkForkPoint says why files are not those of a fork point: memory that nobody can change any more.
func checkForkPoint(files []*os.File) error {
	if len(files) != 2 {
		return fmt.Errorf("%d files came, not 2", len(files))
	}
	for _, f := range files {
		seals, err := unix.FcntlInt(f.Fd(), unix.F_GET_SEALS, 0)
		if err != nil || seals&allSeals != allSeals {
			return fmt.Errorf("a file came that can be changed (seals %#x): %w", seals, errors.Join(err, unix.EPERM))
		}
	}
	return nil
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
	f, err := plainfile.Open(lockPath(runDir))
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
// one, or not all of it.
func LastReport(runDir string) (*Exit, error) {
	f, err := plainfile.Open(exitPath(runDir))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readReport(f)
}

// readReport decodes exit.json.
func readReport(r io.Reader) (*Exit, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxReport+1))
	if err != nil {
		return nil, err
	}
	x := new(Exit)
	if len(b) > maxReport || json.Unmarshal(b, x) != nil {
		return nil, fmt.Errorf("cannot read the machine's last report: it is not whole: %w", os.ErrNotExist)
	}
	return x, nil
}

// Existed reports whether a machine was ever started in runDir.
func Existed(runDir string) bool {
	_, err := os.Stat(lockPath(runDir))
	return err == nil
}
