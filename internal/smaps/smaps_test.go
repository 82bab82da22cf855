package smaps

import (
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const text = `7f0000000000-7f0020000000 rw-p 00000000 00:1b 7                          /dev/shm/a b/t.ram (deleted)
Size:             524288 kB
KernelPageSize:        4 kB
Rss:               20480 kB
Private_Clean:     18000 kB
Private_Dirty:      2048 kB
Anonymous:          1024 kB
VmFlags:
7f0030000000-7f0030400000 rw-p 00000000 00:00 0 
Size:               4096 kB
Private_Dirty:      3072 kB
Anonymous:          3072 kB
VmFlags: rd wr mr mw me ac sd
`

func TestDecode(t *testing.T) {
	all, err := Decode(strings.NewReader(text))
	want := []Mapping{
		{Name: "/dev/shm/a b/t.ram (deleted)", Size: 524288, Anonymous: 1024, PrivateDirty: 2048},
		{Size: 4096, Anonymous: 3072, PrivateDirty: 3072},
	}
	if err != nil || !slices.Equal(all, want) {
		t.Errorf("Decode = %+v, %v; want %+v", all, err, want)
	}
}

func TestDecodeRefuses(t *testing.T) {
	for what, text := range map[string]string{
		"a value of nothing": "Size: 4 kB\n",
		"no number":          "0-1 rw-p 0 0 0\nSize: x kB\n",
		"no value":           "0-1 rw-p 0 0 0\nSize:\n",
		"below zero":         "0-1 rw-p 0 0 0\nAnonymous: -1 kB\n",
		"too long a line":    "0-1 rw-p 0 0 0 " + strings.Repeat("x", 1<<17) + "\n",
		"too many mappings":  strings.Repeat("0-1 rw-p 0 0 0\n", maxMappings+1),
	} {
		if all, err := Decode(strings.NewReader(text)); err == nil {
			t.Errorf("%s: %d mappings", what, len(all))
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(text)
	f.Add("0-1\nSize: 18446744073709551615")
	f.Fuzz(func(t *testing.T, text string) {
		all, err := Decode(strings.NewReader(text))
		if err != nil && all != nil {
			t.Errorf("%d mappings beside %v", len(all), err)
		}
	})
}

// TestRead asks the kernel: pages of a private mapping of a file are anonymous once they were written to.
func TestRead(t *testing.T) {
	const name, size = "smaps-test", 1 << 20
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), name)
	defer file.Close()
	if _, err := file.Write(make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	memory, err := unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(memory)
	memory[0], memory[size/2] = 1, memory[size-1] // two pages are there, one of them is its own
	all, err := Read(os.Getpid())
	i := slices.IndexFunc(all, func(m Mapping) bool { return m.Name == "/memfd:"+name+" (deleted)" })
	if err != nil || i < 0 {
		t.Fatalf("mapping %d of %d, %v", i, len(all), err)
	}
	page := uint64(os.Getpagesize()) >> 10
	if m := all[i]; m.Size != size>>10 || m.Anonymous < page || m.Anonymous > 2*page {
		t.Errorf("%+v, want %d to %d KiB of its own", m, page, 2*page)
	}
	if _, err := Read(1 << 30); err == nil {
		t.Error("a process that is not there was read")
	}
}
