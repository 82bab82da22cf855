package vsock

import (
	"fmt"
	"os"
	"runtime"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxPieces is IOV_MAX (include/uapi/linux/uio.h): the most pieces in one call.
const maxPieces = 1024

// process is QEMU seen from its parent: its memory by process_vm_readv(2), its descriptors by pidfd_getfd(2). Both need
// the right to trace it, which a parent has also under Yama's scope 1.
type process struct {
	pid   int
	pidfd int
	vecs  sync.Pool // *vectors
}

type vectors struct {
	local  []unix.Iovec
	remote []unix.RemoteIovec
}

func openProcess(pid int) (*process, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open process %d: %w", pid, err)
	}
	return &process{pid: pid, pidfd: fd, vecs: sync.Pool{New: func() any { return new(vectors) }}}, nil
}

func (p *process) close() { unix.Close(p.pidfd) }

// eventfd implements peer. QEMU's eventfds do not block, so the runtime can wait for them.
func (p *process) eventfd(fd int) (*os.File, error) {
	own, err := unix.PidfdGetfd(p.pidfd, fd, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot take descriptor %d of QEMU: %w", fd, err)
	}
	if err := unix.SetNonblock(own, true); err != nil {
		unix.Close(own)
		return nil, fmt.Errorf("cannot use descriptor %d of QEMU: %w", fd, err)
	}
	return os.NewFile(uintptr(own), "eventfd"), nil
}

// readv implements memory.
func (p *process) readv(local [][]byte, remote []span) error {
	return p.transfer(unix.ProcessVMReadv, local, remote)
}

// writev implements memory. The kernel copies piece by piece, in order.
func (p *process) writev(local [][]byte, remote []span) error {
	return p.transfer(unix.ProcessVMWritev, local, remote)
}

type transferFunc func(pid int, local []unix.Iovec, remote []unix.RemoteIovec, flags uint) (int, error)

// transfer does as many calls as the pieces need: mostly one. A call moves as many bytes as the shorter side has.
func (p *process) transfer(call transferFunc, local [][]byte, remote []span) error {
	v := p.vecs.Get().(*vectors)
	defer p.vecs.Put(v)
	v.fill(local, remote)
	for l, r := v.local, v.remote; len(r) > 0; {
		nl, nr := l[:min(len(l), maxPieces)], r[:min(len(r), maxPieces)]
		n, err := call(p.pid, nl, nr, 0)
		if err == nil && n < min(localBytes(nl), remoteBytes(nr)) {
			err = unix.EFAULT
		}
		if err != nil {
			return fmt.Errorf("cannot reach QEMU's memory: %w", err)
		}
		l, r = skipLocal(l, n), skipRemote(r, n)
	}
	runtime.KeepAlive(local)
	clear(v.local) // the pool must not keep the callers' buffers alive
	return nil
}

func (v *vectors) fill(local [][]byte, remote []span) {
	v.local, v.remote = v.local[:0], v.remote[:0]
	for _, b := range local {
		if len(b) > 0 {
			v.local = append(v.local, unix.Iovec{Base: &b[0], Len: uint64(len(b))})
		}
	}
	for _, s := range remote {
		if s.len > 0 {
			v.remote = append(v.remote, unix.RemoteIovec{Base: uintptr(s.addr), Len: s.len})
		}
	}
}

func localBytes(l []unix.Iovec) (n int) {
	for _, v := range l {
		n += int(v.Len)
	}
	return n
}

func remoteBytes(r []unix.RemoteIovec) (n int) {
	for _, v := range r {
		n += v.Len
	}
	return n
}

// skipLocal drops the first n bytes.
func skipLocal(l []unix.Iovec, n int) []unix.Iovec {
	for len(l) > 0 && n >= int(l[0].Len) {
		n -= int(l[0].Len)
		l = l[1:]
	}
	if n > 0 {
		l[0].Base = (*byte)(unsafe.Add(unsafe.Pointer(l[0].Base), n))
		l[0].Len -= uint64(n)
	}
	return l
}

// skipRemote drops the first n bytes.
func skipRemote(r []unix.RemoteIovec, n int) []unix.RemoteIovec {
	for len(r) > 0 && n >= r[0].Len {
		n -= r[0].Len
		r = r[1:]
	}
	if n > 0 {
		r[0].Base += uintptr(n)
		r[0].Len -= n
	}
	return r
}
