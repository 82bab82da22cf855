package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/containervm/containervm/tether/internal/rawio"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// ttyGrace is how long a terminal may stay silent after its process has ended before its output counts as complete.
// The kernel moves terminal output in the background, so there is no other sign while someone holds the terminal open.
const ttyGrace = 250 * time.Millisecond

// stdio is a process's standard streams: the child's ends, and ours.
type stdio struct {
	child  [3]int
	input  stdin    // nil: the process's stdin is /dev/null
	output *os.File // of a terminal: the master
	errors *os.File // nil with a terminal
}

// stdin is our end of a process's standard input.
type stdin interface {
	io.WriteCloser
	SetWriteDeadline(time.Time) error
}

// input is one writer's use of a stdin that several share.
type input struct {
	ctx context.Context
	stdin
}

// Write ends with the writer's context: the deadline of the shared stdin expires then, and other writers that wait set it back and
// go on. The context is checked after the deadline was set back, because one that ends later lets the deadline expire again.
func (i *input) Write(p []byte) (n int, err error) {
	stop := context.AfterFunc(i.ctx, func() { _ = i.stdin.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	for {
		_ = i.stdin.SetWriteDeadline(time.Time{})
		if i.ctx.Err() != nil {
			return n, context.Cause(i.ctx)
		}
		part, err := i.stdin.Write(p[n:])
		n += part
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
	}
}

// openPipes makes the streams of a process without a terminal.
func openPipes(stdin bool, owner account) (_ *stdio, err error) {
	s := &stdio{child: [3]int{-1, -1, -1}}
	defer func() {
		if err != nil {
			s.closeChild()
			s.closeOurs()
		}
	}()
	if stdin {
		var file *os.File
		if file, s.child[0], err = pipe(1, owner); err != nil {
			return nil, err
		}
		s.input = file
	} else if s.child[0], err = unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return nil, fmt.Errorf("cannot open /dev/null of the container: %w", err)
	}
	if s.output, s.child[1], err = pipe(0, owner); err != nil {
		return nil, err
	}
	s.errors, s.child[2], err = pipe(0, owner)
	return s, err
}

// pipe makes a pipe whose end ours (0 read, 1 write) is for the poller and whose other end, blocking and owned by the
// process's user so that it can open /dev/stdout, is for the child.
func pipe(ours int, owner account) (*os.File, int, error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return nil, -1, fmt.Errorf("cannot make pipe: %w", err)
	}
	err := unix.SetNonblock(p[ours], true)
	if err == nil {
		err = unix.Fchown(p[1-ours], int(owner.uid), int(owner.gid))
	}
	if err != nil {
		_ = unix.Close(p[0])
		_ = unix.Close(p[1])
		return nil, -1, fmt.Errorf("cannot set up pipe: %w", err)
	}
	return os.NewFile(uintptr(p[ours]), "pipe"), p[1-ours], nil
}

// openTerminal makes a terminal in the devpts instance whose directory pts is open.
func openTerminal(pts int, size *tetherv1.Window, stdin bool, owner account) (*stdio, error) {
	fd, err := unix.Openat(pts, "ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open terminal: %w", err)
	}
	master := os.NewFile(uintptr(fd), "ptmx")
	slave, err := openSlave(fd, size, owner)
	if err != nil {
		_ = master.Close()
		return nil, fmt.Errorf("cannot set up terminal: %w", err)
	}
	s := &stdio{child: [3]int{slave, slave, slave}, output: master}
	if stdin {
		s.input = terminalInput{master}
	}
	return s, nil
}

func openSlave(master int, size *tetherv1.Window, owner account) (int, error) {
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return -1, err
	}
	if size != nil {
		if err := setWindow(master, size); err != nil {
			return -1, err
		}
	}
	// By descriptor, not by name: no path of the container is involved.
	slave, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		return -1, errno
	}
	if err := unix.Fchown(int(slave), int(owner.uid), -1); err != nil {
		_ = unix.Close(int(slave))
		return -1, err
	}
	return int(slave), nil
}

// mountConsole makes the terminal of master the /dev/console of the calling thread's root, as runc does.
func mountConsole(master *os.File) error {
	var number uint32
	err := control(master, func(fd int) (err error) {
		number, err = unix.IoctlGetUint32(fd, unix.TIOCGPTN)
		return err
	})
	if err == nil {
		err = unix.Mknod("/dev/console", unix.S_IFREG|0o600, 0)
	}
	if err == nil {
		err = unix.Mount(fmt.Sprintf("/dev/pts/%d", number), "/dev/console", "", unix.MS_BIND, "")
	}
	if err != nil {
		return fmt.Errorf("cannot make /dev/console of the container: %w", err)
	}
	return nil
}

func setWindow(fd int, w *tetherv1.Window) error {
	if w.Rows > 65535 || w.Columns > 65535 {
		return fmt.Errorf("window of %d rows and %d columns: %w", w.Rows, w.Columns, unix.EINVAL)
	}
	return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: uint16(w.Rows), Col: uint16(w.Columns)})
}

func (s *stdio) closeChild() {
	for i, fd := range s.child {
		if fd >= 0 && (i == 0 || fd != s.child[0]) {
			_ = unix.Close(fd)
		}
	}
}

func (s *stdio) closeOurs() {
	if s.input != nil {
		_ = s.input.Close()
	}
	for _, f := range []*os.File{s.output, s.errors} {
		if f != nil {
			_ = f.Close()
		}
	}
}

// terminalInput is stdin by way of a terminal.
type terminalInput struct{ master *os.File }

func (t terminalInput) Write(p []byte) (int, error) { return t.master.Write(p) }

// SetWriteDeadline is that of the terminal.
func (t terminalInput) SetWriteDeadline(at time.Time) error { return t.master.SetWriteDeadline(at) }

// Close types the end-of-file character if the terminal takes one: closing the terminal would end its output too.
func (t terminalInput) Close() error {
	var eof []byte
	err := control(t.master, func(fd int) error {
		attr, err := unix.IoctlGetTermios(fd, unix.TCGETS)
		if err == nil && attr.Lflag&unix.ICANON != 0 {
			eof = []byte{attr.Cc[unix.VEOF]}
		}
		return err
	})
	if err != nil || eof == nil {
		return err
	}
	_, err = t.master.Write(eof)
	return err
}

// control calls f with the descriptor of file, which stays open meanwhile.
func control(file *os.File, f func(fd int) error) error {
	conn, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var ferr error
	if err := conn.Control(func(fd uintptr) { ferr = f(int(fd)) }); err != nil {
		return err
	}
	return ferr
}

// pump moves a process's output into a ring until all that the process wrote is there.
type pump struct {
	file     *os.File
	ring     *Ring
	terminal bool
	done     chan struct{}
}

func startPump(file *os.File, terminal bool) *pump {
	p := &pump{file: file, ring: NewRing(RingSize), terminal: terminal, done: make(chan struct{})}
	go p.run()
	return p
}

func (p *pump) run() {
	defer p.file.Close()
	err := p.fill()
	if errors.Is(err, os.ErrDeadlineExceeded) { // see finish
		err = p.rest()
	}
	p.ring.End()
	close(p.done)
	if err == nil {
		// Descendants that hold the stream go on writing into nothing, as they would to a log that nobody reads: a closed
		// pipe would kill them.
		_ = p.file.SetReadDeadline(time.Time{})
		_, _ = io.Copy(io.Discard, p.file)
	}
}

// fill moves what the process writes.
func (p *pump) fill() error {
	file, err := rawio.New(p.file)
	if err == nil {
		_, err = p.ring.ReadFrom(&bulkReader{File: file, widen: p.widen})
	}
	return err
}

// widePipe is the size of a pipe that was found full, in bytes. The process then writes for all of its time slice before it
// waits for us, where it would at 64 KiB: each turn costs an emulated machine its cached translations of addresses.
const widePipe = 1 << 20

func (p *pump) widen() {
	if !p.terminal {
		_ = control(p.file, func(fd int) error { // smaller ones work too
			_, err := unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, widePipe)
			return err
		})
	}
}

// bulkReader calls widen once, when it has read as much as a pipe holds.
type bulkReader struct {
	rawio.File
	widen func()
}

func (b *bulkReader) Read(p []byte) (int, error) {
	n, err := b.File.Read(p)
	if n >= usualPipe && b.widen != nil {
		b.widen()
		b.widen = nil
	}
	return n, err
}

// finish says that the process has ended, so that what its descendants write later is not waited for.
func (p *pump) finish() { _ = p.file.SetReadDeadline(time.Unix(1, 0)) }

// rest reads what an ended process has left behind: of a pipe exactly that, of a terminal until it falls silent.
func (p *pump) rest() error {
	if p.terminal {
		_ = p.file.SetReadDeadline(time.Now().Add(ttyGrace))
		_, err := p.ring.ReadFrom(p.file)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		return err
	}
	_ = p.file.SetReadDeadline(time.Time{})
	var left int
	err := control(p.file, func(fd int) (err error) {
		left, err = unix.IoctlGetInt(fd, unix.TIOCINQ)
		return err
	})
	if err != nil {
		return err
	}
	_, err = p.ring.ReadFrom(io.LimitReader(p.file, int64(left)))
	return err
}
