package peer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"
)

// Descriptors of QEMU, in the order of exec.Cmd.ExtraFiles.
const (
	qmpFD    = 3
	serialFD = 4
	stateFD  = 5
)

// timeout ends what hangs: the slowest thing measured is the restore of some gigabytes, or a burst of boots.
const timeout = 3 * time.Minute

// vm is a running QEMU.
type vm struct {
	cmd     *exec.Cmd
	qmp     *qmp
	serial  *net.UnixConn
	console []byte // what the guest wrote and no one took
	stderr  bytes.Buffer
	begin   time.Time // of its program
	cancel  context.CancelFunc
}

// start runs QEMU. state is the file that it inherits as stateFD, or nil. The clock begins before the fork of the process.
func start(ctx context.Context, program string, args []string, state *os.File) (*vm, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	v := &vm{cancel: cancel}
	qmpConn, qmpFile, err := pair()
	if err != nil {
		cancel()
		return nil, err
	}
	defer qmpFile.Close()
	serial, serialFile, err := pair()
	if err != nil {
		cancel()
		return nil, errors.Join(err, qmpConn.Close())
	}
	defer serialFile.Close()
	v.qmp, v.serial = newQMP(qmpConn), serial
	v.cmd = exec.CommandContext(ctx, program, args...)
	v.cmd.Stderr = &v.stderr
	v.cmd.ExtraFiles = []*os.File{qmpFile, serialFile}
	if state != nil {
		v.cmd.ExtraFiles = append(v.cmd.ExtraFiles, state)
	}
	v.begin = time.Now()
	if err := v.cmd.Start(); err != nil {
		cancel()
		return nil, errors.Join(fmt.Errorf("cannot start QEMU: %w", err), qmpConn.Close(), serial.Close())
	}
	return v, nil
}

// pair is a connected pair of sockets: ours, and a file for a child.
func pair() (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot make a pair of sockets: %w", err)
	}
	ours := os.NewFile(uintptr(fds[0]), "ours")
	defer ours.Close() // FileConn has a descriptor of its own
	theirs := os.NewFile(uintptr(fds[1]), "theirs")
	conn, err := net.FileConn(ours)
	if err != nil {
		return nil, nil, errors.Join(err, theirs.Close())
	}
	return conn.(*net.UnixConn), theirs, nil
}

// end kills QEMU and waits until all that it held is free.
func (v *vm) end() error {
	defer v.cancel()
	err := v.cmd.Process.Kill()
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	v.cmd.Wait() // killed, by design
	return errors.Join(err, v.qmp.conn.Close(), v.serial.Close())
}

// pid is QEMU's.
func (v *vm) pid() int { return v.cmd.Process.Pid }

// say writes to the guest's console.
func (v *vm) say(text string) error {
	_, err := v.serial.Write([]byte(text))
	return err
}

// maxConsole bounds what is kept of a console while a word is awaited.
const maxConsole = 1 << 20

// hear waits until the guest has written word, and forgets the console up to its end.
func (v *vm) hear(word string) error {
	for buf := make([]byte, 4096); ; {
		if _, rest, ok := bytes.Cut(v.console, []byte(word)); ok {
			v.console = rest
			return nil
		}
		n, err := v.serial.Read(buf)
		if v.console = append(v.console, buf[:n]...); len(v.console) > maxConsole {
			return fmt.Errorf("no %q in the first MiB of the console", word)
		}
		if err != nil {
			v.cmd.Process.Kill() // it may hang with a closed console; only an ended process has a whole stderr
			v.cmd.Wait()
			return fmt.Errorf("no %q from the machine: %w; its console: %q; QEMU says: %s", word, err, v.console, v.stderr.Bytes())
		}
	}
}
