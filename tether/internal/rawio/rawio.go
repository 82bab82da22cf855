// Package rawio reads and writes descriptors without telling Go's scheduler of the system calls.
//
// In an emulated machine a call that copies a few pages takes longer than the 20 µs after which the scheduler takes it for one
// that blocks: it then wakes another thread to go on in its place, and with one processor, as most containers have, each
// such call costs several switches of threads and a timer. Calls on non-blocking descriptors never block.
package rawio

import (
	"io"
	"net"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// File is a descriptor that the runtime's poller knows, so one that is non-blocking.
type File struct{ raw syscall.RawConn }

// New returns the File of an open file or connection, which must stay open while it is used.
func New(c syscall.Conn) (File, error) {
	raw, err := c.SyscallConn()
	return File{raw}, err
}

// Read waits for at least one byte. It ends with the deadline and the close of what New was given.
func (f File) Read(p []byte) (n int, err error) {
	if len(p) == 0 {
		return 0, nil
	}
	perr := f.raw.Read(func(fd uintptr) (done bool) {
		n, done, err = again(func() (uintptr, syscall.Errno) {
			n, _, errno := unix.RawSyscall(unix.SYS_READ, fd, uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)))
			return n, errno
		})
		return done
	})
	switch {
	case perr != nil:
		return 0, perr
	case err == nil && n == 0:
		return 0, io.EOF
	}
	return n, err
}

// Write writes parts one behind the other, in as few system calls as the descriptor allows.
func (f File) Write(parts ...[]byte) (total int, err error) {
	iovs := make([]unix.Iovec, 0, 2)
	for _, p := range parts {
		if len(p) > 0 {
			iov := unix.Iovec{Base: &p[0]}
			iov.SetLen(len(p))
			iovs = append(iovs, iov)
		}
	}
	for len(iovs) > 0 && err == nil {
		var n int
		perr := f.raw.Write(func(fd uintptr) (done bool) {
			n, done, err = again(func() (uintptr, syscall.Errno) {
				n, _, errno := unix.RawSyscall(unix.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&iovs[0])), uintptr(len(iovs)))
				return n, errno
			})
			return done
		})
		if perr != nil {
			err = perr
		}
		total += n
		iovs = advance(iovs, n)
	}
	return total, err
}

// Conn is a connection whose bytes are moved by a File.
type Conn struct {
	net.Conn
	file File
}

// NewConn returns c as a Conn, or c itself when it is no descriptor.
func NewConn(c net.Conn) net.Conn {
	if s, ok := c.(syscall.Conn); ok {
		if file, err := New(s); err == nil {
			return &Conn{Conn: c, file: file}
		}
	}
	return c
}

func (c *Conn) Read(p []byte) (int, error) { return c.file.Read(p) }

func (c *Conn) Write(p []byte) (int, error) { return c.file.Write(p) }

// WriteParts writes parts one behind the other.
func (c *Conn) WriteParts(parts ...[]byte) (int, error) { return c.file.Write(parts...) }

// again calls a system call until no signal interrupts it. It is not done when the descriptor is not ready.
func again(call func() (uintptr, syscall.Errno)) (n int, done bool, err error) {
	for {
		r, errno := call()
		switch errno {
		case 0:
			return int(r), true, nil
		case unix.EINTR:
		case unix.EAGAIN:
			return 0, false, nil
		default:
			return 0, true, errno
		}
	}
}

// advance drops n bytes.
func advance(iovs []unix.Iovec, n int) []unix.Iovec {
	for len(iovs) > 0 && n >= int(iovs[0].Len) {
		n -= int(iovs[0].Len)
		iovs = iovs[1:]
	}
	if n > 0 {
		iovs[0].Base = (*byte)(unsafe.Add(unsafe.Pointer(iovs[0].Base), n))
		iovs[0].SetLen(int(iovs[0].Len) - n)
	}
	return iovs
}
