package process

import (
	"os"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TestWipe: what is marked is wiped, and nothing else. The process is the test's own.
func TestWipe(t *testing.T) {
	const size = 3 * 4096
	pages := make([][]byte, 2)
	for i := range pages {
		var err error
		if pages[i], err = unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS); err != nil {
			t.Fatal(err)
		}
		defer unix.Munmap(pages[i])
	}
	marked, other := pages[0], pages[1]
	if err := unix.Madvise(marked, unix.MADV_WIPEONFORK); err != nil {
		t.Skipf("this kernel wipes nothing: %v", err)
	}
	for i := range size {
		other[i] = 1
	}
	marked[0], marked[size-1] = 1, 1 // and a page between that nobody has touched
	any, err := wipe("/proc/self")
	if !any || err != nil {
		t.Fatalf("%v, %v", any, err)
	}
	if marked[0] != 0 || marked[size-1] != 0 || other[0] != 1 || other[size-1] != 1 {
		t.Errorf("marked %d and %d, others %d and %d", marked[0], marked[size-1], other[0], other[size-1])
	}
	maps, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	defer maps.Close()
	areas, err := markedAreas(maps)
	begin := int64(uintptr(unsafe.Pointer(&marked[0])))
	if err != nil || len(areas) != 1 || areas[0] != (area{begin, begin + size}) {
		t.Errorf("areas %+v, %v", areas, err)
	}
	if _, err := wipe("/proc/none"); !os.IsNotExist(err) {
		t.Errorf("a process that has ended: %v", err)
	}
}

func FuzzMarkedAreas(f *testing.F) {
	f.Add("1000-2000 rw-p 00000000 00:00 0 \nSize: 4 kB\nVmFlags: rd wr mr mw me ac wf \n")
	f.Add("1000-2000 rw-p 00000000 00:00 0 \nVmFlags: rd wf dp \n3000-1000 \nVmFlags: wf\n-\nVmFlags:")
	f.Fuzz(func(t *testing.T, text string) {
		areas, err := markedAreas(strings.NewReader(text))
		if err == nil && len(areas) > strings.Count(text, "wf") {
			t.Errorf("%d areas", len(areas))
		}
	})
}
