package initramfs_test

import (
	"bytes"
	"errors"
	"flag"
	"math/rand/v2"
	"os"
	"os/exec"
	"reflect"
	"strings"
	"testing"

	"github.com/containervm/containervm/initramfs"
)

var update = flag.Bool("update", false, "write the golden files anew")

func archive(t *testing.T, entries []initramfs.Entry) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := initramfs.Write(&b, entries); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestContentGolden(t *testing.T) {
	const golden = "testdata/content.cpio"
	got := archive(t, initramfs.Content([]byte("#!/init\n")))
	if *update {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("the archive differs from %s (go test -update writes it anew):\n%q\nwant\n%q", golden, got, want)
	}
}

func TestOrderOfEntriesDoesNotMatter(t *testing.T) {
	entries := initramfs.Content([]byte("x"))
	want := archive(t, entries)
	for range 10 {
		rand.Shuffle(len(entries), func(i, j int) { entries[i], entries[j] = entries[j], entries[i] })
		if !bytes.Equal(archive(t, entries), want) {
			t.Fatalf("another archive for the order %v", entries)
		}
	}
}

func TestWriteRefuses(t *testing.T) {
	file := func(name string) initramfs.Entry {
		return initramfs.Entry{Name: name, Mode: initramfs.ModeRegular | 0o644}
	}
	for why, entries := range map[string][]initramfs.Entry{
		"two of that name":    {file("a"), file("a")},
		"is not in the arch":  {file("a/b")},
		"its directory":       {file("a"), file("a/b")},
		"not a clean path":    {file("/a")},
		"clean path relative": {file("../a")},
		"reserved":            {file("")},
		"has a NUL":           {file("a\x00b")},
		"longer than":         {file(strings.Repeat("a", 4096))},
		"no known type":       {{Name: "a", Mode: 0o644}},
		"have content":        {{Name: "a", Mode: initramfs.ModeDir, Data: []byte("x")}},
		"have device numbers": {{Name: "a", Mode: initramfs.ModeRegular, Major: 1}},
	} {
		err := initramfs.Write(&bytes.Buffer{}, entries)
		if err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("Write(%v) = %v, want an error with %q", entries, err, why)
		}
	}
}

// The kernel's own reader is what counts; cpio(1) stands for it where no VM is at hand.
func TestCpioReadsIt(t *testing.T) {
	if _, err := exec.LookPath("cpio"); err != nil {
		t.Skip("no cpio here (try: apt-get install cpio)")
	}
	cmd := exec.Command("cpio", "-t", "--quiet")
	cmd.Stdin = bytes.NewReader(archive(t, initramfs.Content([]byte("12345"))))
	out, err := cmd.CombinedOutput()
	if err != nil || string(out) != "dev\ndev/console\ninit\n" {
		t.Errorf("cpio -t: %v\n%s", err, out)
	}
}

func TestReadRefusesALargeArchive(t *testing.T) {
	data := archive(t, initramfs.Content(make([]byte, 1000)))
	if _, err := initramfs.Read(bytes.NewReader(data), 500); !errors.Is(err, initramfs.ErrFormat) {
		t.Errorf("Read = %v, want ErrFormat", err)
	}
}

// FuzzRead: what Read accepts, Write writes again, byte by byte; what it refuses, it refuses by ErrFormat.
func FuzzRead(f *testing.F) {
	seed := func(entries []initramfs.Entry) {
		var b bytes.Buffer
		if err := initramfs.Write(&b, entries); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
	}
	seed(nil)
	seed(initramfs.Content([]byte("odd")))
	seed([]initramfs.Entry{{Name: "l", Mode: initramfs.ModeSymlink | 0o777, Data: []byte("init")}})
	f.Add([]byte("070701FFFFFFFF"))
	f.Fuzz(func(t *testing.T, data []byte) {
		entries, err := initramfs.Read(bytes.NewReader(data), 1<<20)
		if err != nil {
			if !errors.Is(err, initramfs.ErrFormat) {
				t.Fatalf("Read: %v is not ErrFormat", err)
			}
			return
		}
		if again := archive(t, entries); !bytes.Equal(again, data) {
			t.Fatalf("wrote %q, read %q", again, data)
		}
	})
}

// FuzzRoundTrip: whatever Write accepts, Read gives back.
func FuzzRoundTrip(f *testing.F) {
	f.Add("init", uint32(0o755), []byte("content"))
	f.Add("a", uint32(0), []byte(nil))
	f.Fuzz(func(t *testing.T, name string, perm uint32, data []byte) {
		if len(data) == 0 {
			data = nil
		}
		entries := []initramfs.Entry{{Name: name, Mode: initramfs.ModeRegular | perm&0o7777, Data: data}}
		var b bytes.Buffer
		if initramfs.Write(&b, entries) != nil {
			return
		}
		got, err := initramfs.Read(&b, 1<<20)
		if err != nil || !reflect.DeepEqual(got, entries) {
			t.Fatalf("Read = %v, %v; want %v", got, err, entries)
		}
	})
}
