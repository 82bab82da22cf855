package vsock

import (
	"encoding/binary"
	"errors"
	"os"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// fakeQEMU is a peer whose memory is an arena and whose descriptors are those of the test.
type fakeQEMU struct{ *arena }

func (fakeQEMU) eventfd(fd int) (*os.File, error) {
	own, err := unix.Dup(fd)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(own), "eventfd"), nil
}

func newEventfd(t *testing.T) int {
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// vhostTest sends ioctls as QEMU does.
type vhostTest struct {
	*vhost
	t *testing.T
	d *driver
}

// argument is where the arguments of ioctls lie in the arena.
const argument = 200 << 10

func newVhostTest(t *testing.T) vhostTest {
	dev := NewDevice(false, silent())
	d := newMuteDriver(t, dev)
	v := &vhost{log: silent(), dev: dev, peer: fakeQEMU{d.arena}}
	t.Cleanup(v.close)
	return vhostTest{v, t, d}
}

// request sends an ioctl whose argument is made of numbers of 4 or 8 bytes, and returns what became of the argument.
func (v vhostTest) request(r uint32, numbers ...any) ([]byte, error) {
	v.t.Helper()
	var b []byte
	for _, n := range numbers {
		var err error
		if b, err = binary.Append(b, binary.LittleEndian, n); err != nil {
			v.t.Fatal(err)
		}
	}
	copy(v.d.b[argument:], b)
	err := v.ioctl(r, arenaBase+argument)
	return v.d.b[argument : argument+64], err
}

func (v vhostTest) must(r uint32, numbers ...any) []byte {
	v.t.Helper()
	b, err := v.request(r, numbers...)
	if err != nil {
		v.t.Fatalf("request %#x: %v", r, err)
	}
	return b
}

func TestVhostLifeCycle(t *testing.T) {
	v := newVhostTest(t)
	if f := le.Uint64(v.must(vhostGetFeatures)); f&(1<<32) == 0 {
		t.Errorf("features %#x lack VERSION_1", f)
	}
	v.must(vhostSetOwner)
	v.must(vhostVsockSetGuestCID, uint64(3))
	v.must(vhostSetMemTable, uint32(1), uint32(0), uint64(0), uint64(len(v.d.b)), uint64(arenaBase), uint64(0))
	calls := [2]int{newEventfd(t), newEventfd(t)}
	for i := range v.d.rings {
		a := v.d.queues([2]uint16{})[i].addrs
		n := uint32(i)
		v.must(vhostSetVringNum, n, uint32(testQueue))
		v.must(vhostSetVringBase, n, uint32(0))
		v.must(vhostSetVringAddr, n, uint32(0), a.desc, a.used, a.avail, uint64(0))
		v.must(vhostSetVringKick, n, int32(newEventfd(t)))
		v.must(vhostSetVringCall, n, int32(calls[i]))
	}
	v.d.offerAll()
	v.d.send(encode(header{srcCID: 3, dstCID: HostCID, srcPort: 7, dstPort: 51, kind: typeStream, op: opRequest}, ""))
	v.must(vhostVsockSetRunning, int32(1))
	poll := []unix.PollFd{{Fd: int32(calls[queueOut]), Events: unix.POLLIN}}
	if _, err := unix.Poll(poll, -1); err != nil { // until the refusal has come and the guest is interrupted
		t.Fatal(err)
	}
	if p, ok := v.d.receive(); !ok || parseHeader(p).op != opReset {
		t.Errorf("heard %x", p)
	}
	v.must(vhostVsockSetRunning, int32(0))
	for i, want := range []uint32{1, 1} {
		if got := le.Uint32(v.must(vhostGetVringBase, uint32(i), uint32(0))[4:]); got != want {
			t.Errorf("base of queue %d: %d", i, got)
		}
	}
}

func TestVhostRefuses(t *testing.T) {
	v := newVhostTest(t)
	for name, c := range map[string]struct {
		request uint32
		numbers []any
		errno   syscall.Errno
	}{
		"unknown request":   {0x4008AF99, nil, syscall.ENOTTY},
		"third queue":       {vhostSetVringNum, []any{uint32(2), uint32(16)}, syscall.ENOBUFS},
		"third queue, addr": {vhostSetVringAddr, []any{uint32(2)}, syscall.ENOBUFS},
		"memory table":      {vhostSetMemTable, []any{uint32(maxRegions + 1)}, syscall.E2BIG},
		"large CID":         {vhostVsockSetGuestCID, []any{uint64(1) << 40}, syscall.EINVAL},
		"reserved CID":      {vhostVsockSetGuestCID, []any{uint64(2)}, 0},
		"empty region":      {vhostSetMemTable, []any{uint32(1), uint32(0), [4]uint64{}}, 0},
		"no rings":          {vhostVsockSetRunning, []any{int32(1)}, 0},
	} {
		_, err := v.request(c.request, c.numbers...)
		if err == nil || (c.errno != 0 && !errors.Is(err, c.errno)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
