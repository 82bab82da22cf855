package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/containervm/containervm/tether/internal/unpack"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root for owners, devices and mounts; try: sudo go test")
	}
}

// filesOf are those of a container whose root is dir.
func filesOf(dir string) *Files {
	return New(Options{
		Root: func() (int, error) { return Within(dir) }, Disk: dir,
		User: func(string) (int, int, error) { return 12, 34, nil },
	})
}

// tree makes a small root: what leads out of it leads back into it.
func tree(t *testing.T) string {
	t.Helper()
	outer := t.TempDir()
	must(t, os.WriteFile(outer+"/secret", []byte("the host's"), 0o600))
	dir := outer + "/root"
	for _, d := range []string{"d/sub", "etc", "dev"} {
		must(t, os.MkdirAll(dir+"/"+d, 0o755))
	}
	must(t, os.WriteFile(dir+"/d/f", []byte("hi\n"), 0o644))
	for name, to := range map[string]string{
		"ld": "/d", "d/lf": "f", "dangling": "/nope/x", "out": "../../secret", "d/up": "../../../../../../secret", "loop": "loop", "chain": "ld/lf",
	} {
		must(t, os.Symlink(to, dir+"/"+name))
	}
	return dir
}

// TestStat: names, and where links lead, are Docker's.
func TestStat(t *testing.T) {
	f := filesOf(tree(t))
	for path, want := range map[string]string{
		"/": "/ dir ", "": "/ dir ", "d": "d dir ", "/d/": "d dir ", "/d/.": ". dir ", "/ld": "ld link /d", "/ld/": "ld dir ", "/ld/.": ". dir ",
		"/d/lf": "lf link /d/f", "ld/f": "f file ", "/d/../d//./f": "f file ", "/..": "/ dir ", "/dangling": "dangling link /nope/x",
		"/out": "out link /secret", "/d/up": "up link /secret", "/chain": "chain link /d/f", "/loop": "loop link /loop",
	} {
		r, err := f.Stat(path)
		must(t, err)
		kind := map[uint32]string{unix.S_IFDIR: "dir", unix.S_IFREG: "file", unix.S_IFLNK: "link"}[r.Mode&unix.S_IFMT]
		if got := fmt.Sprintf("%s %s %s", r.Name, kind, r.LinkTarget); got != want {
			t.Errorf("%q is %q, want %q", path, got, want)
		}
	}
	for path, want := range map[string]error{
		"/none": ErrNotFound, "/out/": ErrNotFound, "/d/f/": unix.ENOTDIR, "/loop/": unix.ELOOP, "a\x00b": ErrInvalid, strings.Repeat("a/", 4000): ErrInvalid,
	} {
		if _, err := f.Stat(path); !errors.Is(err, want) {
			t.Errorf("%.20q: %v, want %v", path, err, want)
		}
	}
}

// export returns the names of an export, and its entries by them.
func export(t *testing.T, f *Files, req *tetherv1.ExportRequest) ([]string, map[string]*tar.Header, map[string]string) {
	t.Helper()
	var out bytes.Buffer
	_, err := f.Export(t.Context(), req, &out)
	must(t, err)
	in := tar.NewReader(&out)
	var names []string
	headers, content := map[string]*tar.Header{}, map[string]string{}
	for {
		h, err := in.Next()
		if err == io.EOF {
			return names, headers, content
		}
		must(t, err)
		data, err := io.ReadAll(in)
		must(t, err)
		names = append(names, h.Name)
		headers[h.Name], content[h.Name] = h, string(data)
	}
}

// TestExportNames: the names of an archive begin with the last one of its path.
func TestExportNames(t *testing.T) {
	f := filesOf(tree(t))
	for path, want := range map[string]string{
		"/d": "d/ d/f d/lf d/sub/ d/up", "/d/.": "./ ./f ./lf ./sub/ ./up", "/ld": "ld", "/ld/": "ld/ ld/f ld/lf ld/sub/ ld/up", "/ld/f": "f", "/out": "out",
	} {
		names, _, _ := export(t, f, &tetherv1.ExportRequest{Path: path})
		slices.Sort(names)
		if got := strings.Join(names, " "); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
	names, _, _ := export(t, f, &tetherv1.ExportRequest{Path: "/"})
	if !slices.Contains(names, "/") || !slices.Contains(names, "/d/f") {
		t.Errorf("the root: %v", names)
	}
	names, _, _ = export(t, f, &tetherv1.ExportRequest{Content: tetherv1.ExportRequest_ROOT})
	if slices.Contains(names, "/") || !slices.Contains(names, "d/f") {
		t.Errorf("a root's own files: %v", names)
	}
	if _, err := f.Export(t.Context(), &tetherv1.ExportRequest{Path: "/none"}, io.Discard); !errors.Is(err, ErrNotFound) {
		t.Errorf("nothing: %v", err)
	}
}

// TestRoundTrip: what is exported and imported again is the same: kinds, owners, modes, times to the nanosecond, attributes, hard links, holes, and names
// of any length and bytes. Sockets are left out.
func TestRoundTrip(t *testing.T) {
	needRoot(t)
	from, to := t.TempDir(), t.TempDir()
	long := strings.Repeat("n", 255)
	must(t, os.MkdirAll(from+"/"+long+"/"+long, 0o755))
	must(t, os.WriteFile(from+"/"+long+"/"+long+"/umlaut-ä-\xff", []byte("x"), 0o640))
	must(t, os.WriteFile(from+"/setuid", []byte("program"), 0o755))
	must(t, os.Chown(from+"/setuid", 3000000, 65536))
	must(t, os.Chmod(from+"/setuid", 0o755|os.ModeSetuid))
	must(t, unix.Setxattr(from+"/setuid", "security.capability", []byte("\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0))
	must(t, os.Link(from+"/setuid", from+"/second"))
	must(t, unix.Mkfifo(from+"/pipe", 0o600))
	must(t, unix.Mknod(from+"/null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	must(t, os.Symlink("/nowhere", from+"/link"))
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	must(t, err)
	defer unix.Close(socket)
	must(t, unix.Bind(socket, &unix.SockaddrUnix{Name: from + "/socket"}))
	hole, err := os.Create(from + "/hole")
	must(t, err)
	must(t, hole.Truncate(3<<20))
	_, err = hole.WriteAt([]byte("in the middle"), 1<<20)
	must(t, err)
	must(t, hole.Close())
	must(t, os.Chtimes(from+"/hole", time.Time{}, time.Unix(1234567890, 123456789)))
	must(t, os.Chmod(from+"/"+long, 0o700|os.ModeSticky))

	var out bytes.Buffer
	_, err = filesOf(from).Export(t.Context(), &tetherv1.ExportRequest{Path: "/."}, &out)
	must(t, err)
	_, err = filesOf(to).Import(t.Context(), &tetherv1.ImportRequest{Path: "/"}, &out)
	must(t, err)
	must(t, os.Remove(from+"/socket"))
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, to, []unix.Timespec{{}, {}}, 0)) // the directory itself keeps what it has
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, from, []unix.Timespec{{}, {}}, 0))
	if a, b := list(t, from), list(t, to); a != b {
		t.Errorf("from\n%s\nto\n%s", a, b)
	}
}

// list describes a tree: all that a copy keeps.
func list(t *testing.T, dir string) string {
	t.Helper()
	var out []string
	first := map[uint64]string{}
	must(t, filepath.WalkDir(dir, func(name string, _ os.DirEntry, err error) error {
		must(t, err)
		var st unix.Stat_t
		must(t, unix.Lstat(name, &st))
		rel := strings.TrimPrefix(name, dir)
		line := fmt.Sprintf("%q %o %d:%d %d.%d rdev %d", rel, st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec, st.Rdev)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			data, err := os.ReadFile(name)
			must(t, err)
			line += fmt.Sprintf(" %d bytes %x", len(data), hash(data))
		case unix.S_IFLNK:
			target, err := os.Readlink(name)
			must(t, err)
			line += " -> " + target
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR && st.Nlink > 1 {
			if first[st.Ino] == "" {
				first[st.Ino] = rel
			}
			line += " is " + first[st.Ino]
		}
		names, err := listXattrs(func(buf []byte) (int, error) { return unix.Llistxattr(name, buf) })
		must(t, err)
		slices.Sort(names)
		for _, attr := range names {
			value, err := xattr(attr, func(attr string, buf []byte) (int, error) { return unix.Lgetxattr(name, attr, buf) })
			must(t, err)
			line += fmt.Sprintf(" %s=%x", attr, value)
		}
		out = append(out, line)
		return nil
	}))
	slices.Sort(out)
	return strings.Join(out, "\n")
}

func hash(data []byte) uint64 {
	h := uint64(14695981039346656037)
	for _, b := range data {
		h = (h ^ uint64(b)) * 1099511628211
	}
	return h
}

// TestImport: Docker's rules of what is extracted where.
func TestImport(t *testing.T) {
	needRoot(t)
	tarOf := func(headers ...*tar.Header) io.Reader {
		var out bytes.Buffer
		w := tar.NewWriter(&out)
		for _, h := range headers {
			must(t, w.WriteHeader(h))
			_, err := io.WriteString(w, strings.Repeat("x", int(h.Size)))
			must(t, err)
		}
		must(t, w.Close())
		return &out
	}
	file := func(name string) *tar.Header {
		return &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: 2, Mode: 0o640, Uid: 1, Gid: 2}
	}
	dirOf := func(name string) *tar.Header {
		return &tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o711}
	}
	for name, c := range map[string]struct {
		req  *tetherv1.ImportRequest
		tar  io.Reader
		want error
		look string // of a file that is there afterwards, with its mode and owner
	}{
		"file":               {&tetherv1.ImportRequest{Path: "/d"}, tarOf(file("new")), nil, "d/new 100640 1:2"},
		"by a link":          {&tetherv1.ImportRequest{Path: "/ld"}, tarOf(file("new")), nil, "d/new 100640 1:2"},
		"over a link":        {&tetherv1.ImportRequest{Path: "/"}, tarOf(file("out")), nil, "out 100640 1:2"},
		"owner":              {&tetherv1.ImportRequest{Path: "/", Owner: "someone"}, tarOf(file("new")), nil, "new 100640 12:34"},
		"whiteout's name":    {&tetherv1.ImportRequest{Path: "/d"}, tarOf(file(".wh.f")), nil, "d/.wh.f 100640 1:2"},
		"the directory":      {&tetherv1.ImportRequest{Path: "/d"}, tarOf(dirOf(".")), nil, "d 40755 0:0"},
		"no directory":       {&tetherv1.ImportRequest{Path: "/d/f"}, tarOf(file("new")), ErrInvalid, ""},
		"nothing":            {&tetherv1.ImportRequest{Path: "/none"}, tarOf(file("new")), ErrNotFound, ""},
		"out":                {&tetherv1.ImportRequest{Path: "/d"}, tarOf(file("../../x")), unpack.ErrEscape, ""},
		"file for directory": {&tetherv1.ImportRequest{Path: "/"}, tarOf(file("d")), nil, "d 100640 1:2"},
		"kernel's own":       {&tetherv1.ImportRequest{Path: "/proc"}, tarOf(file("x")), ErrInvalid, ""},
		"cut off":            {&tetherv1.ImportRequest{Path: "/d"}, io.LimitReader(tarOf(file("new")), 700), io.ErrUnexpectedEOF, ""},
	} {
		dir := tree(t)
		if name == "kernel's own" {
			dir = "/"
		}
		_, err := filesOf(dir).Import(t.Context(), c.req, c.tar)
		if !errors.Is(err, c.want) || (c.want == nil) != (err == nil) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if at, want, ok := strings.Cut(c.look, " "); ok {
			var st unix.Stat_t
			must(t, unix.Lstat(dir+"/"+at, &st))
			if got := fmt.Sprintf("%o %d:%d", st.Mode, st.Uid, st.Gid); got != want {
				t.Errorf("%s: %s, want %s", name, got, want)
			}
		}
		if text, err := os.ReadFile(filepath.Dir(dir) + "/secret"); dir != "/" && (err != nil || string(text) != "the host's") {
			t.Errorf("%s: outside the root: %q, %v", name, text, err)
		}
	}
	for _, h := range []*tar.Header{file("d"), dirOf("d/f")} {
		_, err := filesOf(tree(t)).Import(t.Context(), &tetherv1.ImportRequest{Path: "/", NoOverwriteDirNonDir: true}, tarOf(h))
		var replaced *unpack.ReplaceError
		if !errors.As(err, &replaced) || !strings.HasPrefix(replaced.Error(), "cannot overwrite ") {
			t.Errorf("a replacement that was not wanted: %v", err)
		}
	}
}

// TestReadOnly: what is mounted read-only is refused in Docker's words, which say whether it is the root.
func TestReadOnly(t *testing.T) {
	needRoot(t)
	dir := tree(t)
	must(t, unix.Mount("tmpfs", dir+"/d/sub", "tmpfs", unix.MS_RDONLY, ""))
	t.Cleanup(func() { _ = unix.Unmount(dir+"/d/sub", unix.MNT_DETACH) })
	_, err := filesOf(dir).Import(t.Context(), &tetherv1.ImportRequest{Path: "/d/sub"}, strings.NewReader(""))
	if !errors.Is(err, ErrReadOnly) || err.Error() != "mounted volume is marked read-only" {
		t.Errorf("a volume: %v", err)
	}
	_, err = filesOf(dir+"/d/sub").Import(t.Context(), &tetherv1.ImportRequest{Path: "/"}, strings.NewReader(""))
	if !errors.Is(err, ErrReadOnly) || err.Error() != "container rootfs is marked read-only" {
		t.Errorf("the root: %v", err)
	}
}

// changing is where an export goes while the file that is read changes.
type changing struct {
	bytes.Buffer
	once func()
}

func (c *changing) Write(p []byte) (int, error) {
	if c.once != nil {
		c.once()
		c.once = nil
	}
	return c.Buffer.Write(p)
}

// TestFilesThatChange: a file that shrinks, grows or vanishes while it is read gives a whole archive, with the size that it had.
func TestFilesThatChange(t *testing.T) {
	for name, change := range map[string]func(file string) error{
		"shrinks":  func(file string) error { return os.Truncate(file, 10) },
		"grows":    func(file string) error { return os.Truncate(file, 5<<20) },
		"vanishes": os.Remove,
	} {
		dir := t.TempDir()
		must(t, os.WriteFile(dir+"/file", bytes.Repeat([]byte("x"), 1<<20), 0o600))
		out := &changing{once: func() { must(t, change(dir+"/file")) }}
		_, err := filesOf(dir).Export(t.Context(), &tetherv1.ExportRequest{Path: "/file"}, out)
		must(t, err)
		in := tar.NewReader(&out.Buffer)
		h, err := in.Next()
		must(t, err)
		if n, err := io.Copy(io.Discard, in); n != 1<<20 || h.Size != n || err != nil {
			t.Errorf("%s: %d of %d bytes, %v", name, n, h.Size, err)
		}
		if _, err := in.Next(); err != io.EOF {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestExportEnds: an export whose host has left ends, also one that writes nothing.
func TestExportEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := filesOf(tree(t)).Export(ctx, &tetherv1.ExportRequest{Path: "/d"}, io.Discard); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	r, w := io.Pipe()
	r.Close()
	if _, err := filesOf(tree(t)).Export(t.Context(), &tetherv1.ExportRequest{Path: "/d"}, w); !errors.Is(err, io.ErrClosedPipe) {
		t.Error(err)
	}
}

// FuzzPath: whatever path a client names, nothing outside of the root is seen, and where a link is said to lead is a clean path.
func FuzzPath(f *testing.F) {
	for _, path := range []string{"/", "/d/../../x", "ld/.", "out", "d/up/", "chain/..", "loop/x", "\x00", "/dangling/."} {
		f.Add(path)
	}
	outer := f.TempDir()
	must(f, os.WriteFile(outer+"/secret", nil, 0o600))
	must(f, os.MkdirAll(outer+"/root/d", 0o755))
	for name, to := range map[string]string{"out": "../../secret", "d/up": "../../../../secret", "ld": "/d", "loop": "loop"} {
		must(f, os.Symlink(to, outer+"/root/"+name))
	}
	files := filesOf(outer + "/root")
	f.Fuzz(func(t *testing.T, path string) {
		r, err := files.Stat(path)
		if err != nil {
			return
		}
		if r.Mode&unix.S_IFMT == unix.S_IFREG {
			t.Errorf("%q leads to a file, and the root has none", path)
		}
		if r.LinkTarget != "" && filepath.Clean(r.LinkTarget) != r.LinkTarget {
			t.Errorf("%q leads to %q", path, r.LinkTarget)
		}
		if _, err := files.Export(t.Context(), &tetherv1.ExportRequest{Path: path}, io.Discard); err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %v", path, err)
		}
	})
}
