package supervisor

import (
	"bytes"
	"errors"
	"os"
	"strconv"
	"syscall"
	"testing"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/internal/smaps"
)

func TestMemoryIsCopiedWithoutZeros(t *testing.T) {
	src, err := newMemory("src", 4<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	dst, err := newMemory("dst", 4<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer dst.Close()
	page := bytes.Repeat([]byte("x"), pageSize)
	for at, b := range map[int64][]byte{0: page, 2 << 20: page, 2<<20 + pageSize: zeroPage[:], 4<<20 - pageSize: page} {
		if _, err := src.WriteAt(b, at); err != nil {
			t.Fatal(err)
		}
	}
	if err := copyPages(t.Context(), dst, src); err != nil {
		t.Fatal(err)
	}
	got, want := make([]byte, 4<<20), make([]byte, 4<<20)
	if _, err := dst.ReadAt(got, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := src.ReadAt(want, 0); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the copy differs: %v", err)
	}
	if n := resident(dst); n != 3*pageSize {
		t.Errorf("the copy has %d bytes of pages", n)
	}
}

// TestUsage: a child's pages are those that it has written to, a template's are of a file; what is mapped of QEMU's own files
// counts once it was written to.
func TestUsage(t *testing.T) {
	got := usageOf([]smaps.Mapping{
		{Name: "/memfd:cvm-ram (deleted)", Size: 512 << 10, Anonymous: 3 << 10, PrivateDirty: 5 << 10},
		{Name: "/usr/bin/qemu-system-x86_64", Size: 20 << 10, PrivateDirty: 100},
		{Name: "/memfd:other-cvm-ram (deleted)", Size: 4, Anonymous: 4, PrivateDirty: 4},
		{Size: 8 << 10, Anonymous: 7 << 10, PrivateDirty: 7 << 10},
	})
	if want := (hostapi.Memory{GuestPrivateKiB: 3 << 10, OverheadKiB: 100 + 4 + 7<<10}); got != want {
		t.Errorf("usage %+v, want %+v", got, want)
	}
}

func TestSealedMemoryIsFinal(t *testing.T) {
	f, err := newMemory("sealed", pageSize)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := seal(f); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("x"), 0); !errors.Is(err, syscall.EPERM) {
		t.Errorf("write: %v", err)
	}
	if err := f.Truncate(0); !errors.Is(err, syscall.EPERM) {
		t.Errorf("truncate: %v", err)
	}
	again, err := os.OpenFile("/proc/self/fd/"+strconv.Itoa(int(f.Fd())), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if _, err := again.WriteAt([]byte("x"), 0); !errors.Is(err, syscall.EPERM) {
		t.Errorf("write by a second descriptor: %v", err)
	}
}
