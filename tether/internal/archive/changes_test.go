package archive

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/containervm/containervm/tether/internal/unpack"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// disk is an ext4 in a file.
type disk struct{ file string }

func newDisk(t *testing.T) disk {
	t.Helper()
	needRoot(t)
	d := disk{filepath.Join(t.TempDir(), "disk")}
	must(t, os.WriteFile(d.file, nil, 0o600))
	must(t, os.Truncate(d.file, 32<<20))
	if out, err := exec.Command("/sbin/mke2fs", "-q", "-F", "-t", "ext4", "-O", "^has_journal", d.file).CombinedOutput(); err != nil {
		t.Skipf("cannot make a file system: %v: %s", err, out)
	}
	return d
}

// copy is a copy of a disk that is not mounted, as a container's is of its image's.
func (d disk) copy(t *testing.T) disk {
	t.Helper()
	data, err := os.ReadFile(d.file)
	must(t, err)
	other := disk{filepath.Join(t.TempDir(), "copy")}
	must(t, os.WriteFile(other.file, data, 0o600))
	return other
}

// mount mounts the disk until the test ends, or unmount is called.
func (d disk) mount(t *testing.T) (dir string, unmount func()) {
	t.Helper()
	dir = t.TempDir()
	if out, err := exec.Command("mount", "-o", "loop", d.file, dir).CombinedOutput(); err != nil {
		t.Skipf("cannot mount a disk: %v: %s", err, out)
	}
	mounted := true
	unmount = func() {
		if mounted {
			mounted = false
			must(t, unix.Unmount(dir, 0))
		}
	}
	t.Cleanup(unmount)
	return dir, unmount
}

// compare returns the layer of a root over what it was made of, and the names that have changed.
func compare(t *testing.T, before, now string, own ...string) (layer []byte, names string) {
	t.Helper()
	f := New(Options{Disk: now, Own: own, Base: func(context.Context, string) (int, error) { return Within(before) }})
	var out bytes.Buffer
	_, err := f.Export(t.Context(), &tetherv1.ExportRequest{Content: tetherv1.ExportRequest_CHANGES}, &out)
	must(t, err)
	layer = bytes.Clone(out.Bytes())
	out.Reset()
	_, err = f.Export(t.Context(), &tetherv1.ExportRequest{Content: tetherv1.ExportRequest_CHANGED_NAMES}, &out)
	must(t, err)
	var lines []string
	for in := json.NewDecoder(&out); in.More(); {
		var c change
		must(t, in.Decode(&c))
		lines = append(lines, c.Path+" "+string("CAD"[c.Kind]))
	}
	slices.Sort(lines)
	return layer, strings.Join(lines, "\n")
}

// later waits until the clock of file systems has moved on: what is changed now has another time of change.
func later(t *testing.T) {
	var before, now unix.Timespec
	must(t, unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &before))
	for now = before; now == before; {
		must(t, unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &now))
	}
}

func sh(t *testing.T, dir, script string) {
	t.Helper()
	cmd := exec.Command("sh", "-ec", script)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", script, err, out)
	}
}

// TestChanges: the names are those that Docker tells, and what the tether itself has put on the disk is not among them.
func TestChanges(t *testing.T) {
	base := newDisk(t)
	dir, unmount := base.mount(t)
	sh(t, dir, `mkdir -p bin etc p/q/r p/z same proc; echo 1 >p/q/r/f; echo 2 >p/q/r/g; echo >p/z/1; echo >bin/a; ln -s a bin/b; echo >same/x; chmod 700 same; echo old >etc/passwd; ln -s ../x etc/hosts`)
	unmount()
	copied := base.copy(t)
	before, _ := base.mount(t)
	now, _ := copied.mount(t)
	if layer, names := compare(t, before, now); names != "" || len(layer) != 1024 {
		t.Errorf("nothing has changed: %q, a layer of %d bytes", names, len(layer))
	}
	later(t)
	sh(t, now, `echo 3 >p/q/r/f; rm -r p/z; echo >p/z; ln p/q/r/g p/q/r/gg; rm bin/b; mkdir -p new/sub; echo >new/sub/f; chmod 755 same; rm etc/hosts; echo >etc/hosts; echo >etc/resolv.conf; mkdir dev; echo >dev/.cvm-swap; echo >.cvm-x; echo >same/x`)
	_, names := compare(t, before, now, "/etc/hosts", "/etc/resolv.conf")
	want := strings.Join([]string{
		"/bin C", "/bin/b D", "/new A", "/new/sub A", "/new/sub/f A", "/p C", "/p/q C", "/p/q/r C", "/p/q/r/f C", "/p/q/r/gg A", "/p/z C", "/same C", "/same/x C",
	}, "\n")
	if names != want {
		t.Errorf("changes are\n%s\nwant\n%s", names, want)
	}
}

// TestLayerNames: what no layer can say is refused by name, rather than said wrong.
func TestLayerNames(t *testing.T) {
	needRoot(t)
	before, now := t.TempDir(), t.TempDir()
	must(t, os.MkdirAll(now+"/a", 0o755))
	must(t, os.WriteFile(now+"/a/.wh.b", nil, 0o600))
	f := New(Options{Disk: now, Base: func(context.Context, string) (int, error) { return Within(before) }})
	_, err := f.Export(t.Context(), &tetherv1.ExportRequest{Content: tetherv1.ExportRequest_CHANGES}, &bytes.Buffer{})
	if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "a/.wh.b") {
		t.Error(err)
	}
}

// TestLayerMakesTheRoot: the layer of any changes, unpacked over what the root was made of, is the root.
func TestLayerMakesTheRoot(t *testing.T) {
	for seed := range uint64(8) {
		r := rand.New(rand.NewPCG(seed, 8))
		base := newDisk(t)
		dir, unmount := base.mount(t)
		for range 60 {
			mutate(t, r, dir)
		}
		unmount()
		copied, third := base.copy(t), base.copy(t)
		before, _ := base.mount(t)
		now, _ := copied.mount(t)
		later(t)
		for range 40 {
			mutate(t, r, now)
		}
		layer, names := compare(t, before, now)
		made, _ := third.mount(t)
		if _, err := unpack.Layer(t.Context(), made, bytes.NewReader(layer), unpack.Limits{}); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if got, want := list(t, made), list(t, now); got != want {
			t.Fatalf("seed %d: the layer makes\n%s\nof the root\n%s\nchanges\n%s", seed, got, want, names)
		}
	}
}

// mutate changes something in a tree.
func mutate(t *testing.T, r *rand.Rand, root string) {
	t.Helper()
	var dirs, files, all []string
	must(t, filepath.WalkDir(root, func(name string, d os.DirEntry, err error) error {
		must(t, err)
		switch {
		case strings.Contains(name, "lost+found"):
			return nil
		case d.IsDir():
			dirs = append(dirs, name)
		case d.Type().IsRegular():
			files = append(files, name)
		}
		if name != root {
			all = append(all, name)
		}
		return nil
	}))
	pick := func(names []string) string { return names[r.IntN(len(names))] }
	fresh := func() string { return filepath.Join(pick(dirs), fmt.Sprintf("n%d", r.IntN(12))) }
	at := fresh()
	switch kind := r.IntN(13); {
	case kind == 0 || len(files) == 0:
		_ = os.Mkdir(at, 0o755)
		_ = os.WriteFile(at, bytes.Repeat([]byte("x"), r.IntN(9000)), 0o644) // fails where there is a directory
	case kind == 1:
		_ = os.RemoveAll(pick(all))
	case kind == 2:
		_ = os.RemoveAll(at)
		must(t, os.WriteFile(at, []byte("in its place"), 0o600))
	case kind == 3:
		_ = os.RemoveAll(at)
		must(t, os.Mkdir(at, 0o700))
	case kind == 4:
		_ = os.Rename(pick(all), at)
	case kind == 5:
		_ = os.Chmod(pick(files), os.FileMode(r.IntN(0o1000))|os.ModeSetuid)
	case kind == 6:
		must(t, os.Lchown(pick(all), r.IntN(5), r.IntN(5)))
	case kind == 7:
		must(t, unix.Setxattr(pick(files), "user.x", []byte{byte(r.IntN(256)), 0, '='}, 0))
	case kind == 8:
		_ = os.Link(pick(files), at)
	case kind == 9:
		_ = os.Symlink(fmt.Sprintf("to%d", r.IntN(5)), at)
	case kind == 10:
		must(t, os.Chmod(pick(dirs), 0o711))
		must(t, unix.Setxattr(pick(dirs), "user.d", []byte("d"), 0))
	case kind == 11:
		_ = unix.Mknod(at, unix.S_IFCHR|0o600, int(unix.Mkdev(uint32(r.IntN(9)), 7)))
	case kind == 12:
		must(t, os.Chtimes(pick(files), time.Time{}, time.Unix(int64(r.IntN(1e9)), 5)))
	}
}
