package vsock

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"syscall"
)

// vhost ioctl requests, x86-64 (include/uapi/linux/vhost.h).
const (
	vhostGetFeatures        = 0x8008AF00
	vhostSetFeatures        = 0x4008AF00
	vhostSetOwner           = 0x0000AF01
	vhostResetOwner         = 0x0000AF02
	vhostSetMemTable        = 0x4008AF03
	vhostSetVringNum        = 0x4008AF10
	vhostSetVringAddr       = 0x4028AF11
	vhostSetVringBase       = 0x4008AF12
	vhostGetVringBase       = 0xC008AF12
	vhostSetVringKick       = 0x4008AF20
	vhostSetVringCall       = 0x4008AF21
	vhostSetVringErr        = 0x4008AF22
	vhostSetBackendFeatures = 0x4008AF25
	vhostGetBackendFeatures = 0x8008AF26
	vhostVsockSetGuestCID   = 0x4008AF60
	vhostVsockSetRunning    = 0x4004AF61
)

// vhostFeatures are VIRTIO_F_VERSION_1, and VHOST_F_LOG_ALL without which QEMU refuses to migrate the device. What
// changes rings (indirect descriptors, event index) is switched off at QEMU's device.
const vhostFeatures = 1<<32 | 1<<26

// peer is QEMU, whose ioctls are answered.
type peer interface {
	memory
	// eventfd returns a duplicate of QEMU's descriptor fd.
	eventfd(fd int) (*os.File, error)
}

// vhost plays /dev/vhost-vsock for one QEMU process.
type vhost struct {
	log  *slog.Logger
	dev  *Device
	peer peer

	mu      sync.Mutex // of what follows: the ioctls come one by one, interrupts from everywhere
	cid     uint64
	regions regions
	queues  [2]vhostQueue
	kicks   sync.WaitGroup
}

type vhostQueue struct {
	num        uint32
	addrs      ringAddrs
	base       uint16
	kick, call *os.File
}

// ioctl answers one request; arg is an address in QEMU's memory.
func (v *vhost) ioctl(request uint32, arg uint64) error {
	switch request {
	case vhostSetOwner, vhostResetOwner, vhostSetVringErr, vhostSetFeatures, vhostSetBackendFeatures:
		return nil
	case vhostGetFeatures:
		return v.put64(arg, vhostFeatures)
	case vhostGetBackendFeatures:
		return v.put64(arg, 0)
	case vhostSetMemTable:
		return v.setMemTable(arg)
	case vhostSetVringNum, vhostSetVringBase, vhostGetVringBase, vhostSetVringKick, vhostSetVringCall:
		return v.vring(request, arg)
	case vhostSetVringAddr:
		return v.setVringAddr(arg)
	case vhostVsockSetGuestCID:
		return v.setGuestCID(arg)
	case vhostVsockSetRunning:
		return v.setRunning(arg)
	}
	return syscall.ENOTTY
}

func (v *vhost) get(arg uint64, b []byte) error {
	return v.peer.readv([][]byte{b}, []span{{arg, len(b)}})
}

func (v *vhost) put64(arg uint64, value uint64) error {
	b := binary.LittleEndian.AppendUint64(nil, value)
	return v.peer.writev([][]byte{b}, []span{{arg, len(b)}})
}

func (v *vhost) setGuestCID(arg uint64) error {
	var b [8]byte
	if err := v.get(arg, b[:]); err != nil {
		return err
	}
	v.cid = binary.LittleEndian.Uint64(b[:])
	if v.cid > MaxCID {
		return syscall.EINVAL
	}
	return CheckCID(uint32(v.cid))
}

// setMemTable takes a struct vhost_memory.
func (v *vhost) setMemTable(arg uint64) error {
	var head [8]byte
	if err := v.get(arg, head[:]); err != nil {
		return err
	}
	n := binary.LittleEndian.Uint32(head[:])
	if n > maxRegions {
		return syscall.E2BIG
	}
	b := make([]byte, 32*n)
	if err := v.get(arg+8, b); err != nil {
		return err
	}
	rs := make(regions, n)
	for i := range rs {
		e := b[32*i:]
		le := binary.LittleEndian
		rs[i] = region{guest: le.Uint64(e), size: le.Uint64(e[8:]), host: le.Uint64(e[16:])}
	}
	if err := rs.check(); err != nil {
		return err
	}
	v.regions = rs
	v.dev.setRegions(rs)
	return nil
}

// vring takes the requests whose argument is a struct vhost_vring_state or vhost_vring_file: index and value.
func (v *vhost) vring(request uint32, arg uint64) error {
	var b [8]byte
	if err := v.get(arg, b[:]); err != nil {
		return err
	}
	i, value := binary.LittleEndian.Uint32(b[:]), binary.LittleEndian.Uint32(b[4:])
	if i >= uint32(len(v.queues)) {
		return syscall.ENOBUFS // as vhost_get_vq_from_user
	}
	q := &v.queues[i]
	switch request {
	case vhostSetVringNum:
		q.num = value
	case vhostSetVringBase:
		q.base = uint16(value)
	case vhostGetVringBase:
		v.stop()
		binary.LittleEndian.PutUint32(b[4:], uint32(q.base))
		return v.peer.writev([][]byte{b[:]}, []span{{arg, len(b)}})
	case vhostSetVringKick:
		return v.setKick(int(i), int(int32(value)))
	case vhostSetVringCall:
		return v.setCall(q, int(int32(value)))
	}
	return nil
}

// setVringAddr takes a struct vhost_vring_addr.
func (v *vhost) setVringAddr(arg uint64) error {
	var b [40]byte
	if err := v.get(arg, b[:]); err != nil {
		return err
	}
	le := binary.LittleEndian
	i := le.Uint32(b[:])
	if i >= uint32(len(v.queues)) {
		return syscall.ENOBUFS
	}
	v.queues[i].addrs = ringAddrs{desc: le.Uint64(b[8:]), used: le.Uint64(b[16:]), avail: le.Uint64(b[24:])}
	return nil
}

// setCall replaces the eventfd by which the guest is interrupted; QEMU does so also while the device runs.
func (v *vhost) setCall(q *vhostQueue, fd int) error {
	f, err := v.open(fd)
	if err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if q.call != nil {
		q.call.Close()
	}
	q.call = f
	return nil
}

// setKick replaces the eventfd by which the guest kicks, and starts to listen to it.
func (v *vhost) setKick(i, fd int) error {
	f, err := v.open(fd)
	if err != nil {
		return err
	}
	q := &v.queues[i]
	if q.kick != nil {
		q.kick.Close()
	}
	q.kick = f
	if f == nil {
		return nil
	}
	work := v.dev.receive
	if i == queueOut {
		work = v.dev.buffersAdded
	}
	v.kicks.Go(func() { listen(f, work) })
	return nil
}

// open duplicates QEMU's descriptor; -1 means none.
func (v *vhost) open(fd int) (*os.File, error) {
	if fd < 0 {
		return nil, nil
	}
	return v.peer.eventfd(fd)
}

// listen calls work for each kick until the eventfd is closed.
func listen(kick *os.File, work func()) {
	var count [8]byte
	for {
		if _, err := kick.Read(count[:]); err != nil {
			return
		}
		work()
	}
}

// interrupt tells the guest that a queue has used buffers.
func (v *vhost) interrupt(i int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := signal(v.queues[i].call); err != nil {
		v.log.Error("cannot interrupt the guest for its vsock", "err", err)
	}
}

func (v *vhost) setRunning(arg uint64) error {
	var b [4]byte
	if err := v.get(arg, b[:]); err != nil {
		return err
	}
	if binary.LittleEndian.Uint32(b[:]) == 0 {
		v.stop()
		return nil
	}
	if err := CheckCID(uint32(v.cid)); err != nil {
		return err
	}
	var queues [2]queue
	for i, q := range v.queues {
		queues[i] = queue{num: q.num, addrs: q.addrs, base: q.base, interrupt: func() { v.interrupt(i) }}
	}
	if err := v.dev.start(uint32(v.cid), v.peer, v.regions, queues); err != nil {
		return fmt.Errorf("cannot start vsock: %w", err)
	}
	for _, q := range v.queues { // the work is not for QEMU's thread to wait for
		if err := signal(q.kick); err != nil {
			return fmt.Errorf("cannot start vsock: %w", err)
		}
	}
	return nil
}

// signal adds one to an eventfd; nil is none.
func signal(f *os.File) error {
	if f == nil {
		return nil
	}
	_, err := f.Write(binary.LittleEndian.AppendUint64(nil, 1))
	return err
}

// stop ends the work on the rings and keeps their positions.
func (v *vhost) stop() {
	if bases, ok := v.dev.stop(); ok {
		v.queues[queueOut].base, v.queues[queueIn].base = bases[queueOut], bases[queueIn]
	}
}

// close closes QEMU's descriptors and waits for their goroutines.
func (v *vhost) close() {
	v.dev.stop()
	for i := range v.queues {
		q := &v.queues[i]
		if q.kick != nil {
			q.kick.Close()
		}
		v.setCall(q, -1)
	}
	v.kicks.Wait()
}
