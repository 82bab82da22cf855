package core

import (
	"context"
	"errors"
	"io"
	"net"
	"runtime/metrics"
	"sync"
	"syscall"
)

// copySize is the length of a buffer between the two ends of a session, in bytes. One is held only while it carries something.
const copySize = 64 << 10

var buffers = sync.Pool{New: func() any { b := make([]byte, copySize); return &b }}

func takeBuffer() *[]byte  { return buffers.Get().(*[]byte) }
func giveBuffer(b *[]byte) { buffers.Put(b) }

// splice passes bytes both ways until both ends are done or one fails: the end of a direction as the end of a direction, a reset as a
// reset. It ends both when one of the lives does.
func splice(guest *guestConn, host *net.TCPConn, lives ...context.Context) {
	var once sync.Once
	reset := func() {
		once.Do(func() {
			host.SetLinger(0) // a reset, not an end
			host.Close()
			guest.abort()
		})
	}
	for _, l := range lives {
		defer context.AfterFunc(l, reset)()
	}
	var both sync.WaitGroup
	both.Go(func() {
		err := toHost(host, guest)
		if errors.Is(err, io.EOF) {
			err = host.CloseWrite()
		}
		if err != nil {
			reset()
		}
	})
	err := toGuest(guest, host)
	if errors.Is(err, io.EOF) {
		err = guest.closeWrite()
	}
	if err != nil {
		reset()
	}
	both.Wait()
	host.Close()
	guest.close()
}

// toHost copies until an error, io.EOF at the guest's end.
func toHost(host *net.TCPConn, guest *guestConn) error {
	for {
		if err := guest.read(func(b []byte) error { _, err := host.Write(b); return err }); err != nil {
			return err
		}
	}
}

// toGuest copies until an error, io.EOF at the peer's end.
func toGuest(guest *guestConn, host *net.TCPConn) error {
	for {
		err := readHost(host, func(b []byte) error {
			if len(b) == 0 {
				return io.EOF
			}
			return guest.write(b)
		})
		if err != nil {
			return err
		}
	}
}

// readHost waits for bytes, and then calls use with a buffer of them: thousands of sessions wait, few of them have something. The
// end of a stream is no bytes.
func readHost(host syscall.Conn, use func([]byte) error) error {
	raw, err := host.SyscallConn()
	if err != nil {
		return err
	}
	var buf *[]byte
	var n int
	var failed error
	err = raw.Read(func(fd uintptr) bool {
		buf = takeBuffer()
		for {
			if n, failed = syscall.Read(int(fd), *buf); !errors.Is(failed, syscall.EINTR) {
				break
			}
		}
		if errors.Is(failed, syscall.EAGAIN) {
			giveBuffer(buf)
			return false
		}
		return true
	})
	if err != nil {
		return err
	}
	defer giveBuffer(buf)
	if failed != nil {
		return failed
	}
	return use((*buf)[:n])
}

// memoryInUse is what the process's objects take, in bytes.
func memoryInUse() int64 {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	if sample[0].Value.Kind() != metrics.KindUint64 {
		return 0
	}
	return int64(sample[0].Value.Uint64())
}
