package unpack

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// needRoot skips where owners and devices cannot be set.
func needRoot(t testing.TB) {
	if os.Geteuid() != 0 {
		t.Skip("unpacking sets owners and makes devices: run the test as root")
	}
}

var when = time.Unix(1700000000, 123456789)

// file, dir, symlink and so on are entries of a layer for tests.
func file(name, content string) *tarEntry {
	return &tarEntry{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(content))}, content}
}

func dirEntry(name string, mode int64) *tarEntry {
	return &tarEntry{tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: mode}, ""}
}

func symlink(name, target string) *tarEntry {
	return &tarEntry{tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}, ""}
}

func hardLink(name, target string) *tarEntry {
	return &tarEntry{tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target}, ""}
}

type tarEntry struct {
	h       tar.Header
	content string
}

// with changes the header.
func (e *tarEntry) with(change func(h *tar.Header)) *tarEntry {
	change(&e.h)
	return e
}

func layerOf(t testing.TB, entries ...*tarEntry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		if e.h.ModTime.IsZero() {
			e.h.ModTime = when
		}
		if e.h.Format = tar.FormatPAX; e.h.Typeflag == tar.TypeXGlobalHeader {
			e.h.ModTime = time.Time{}
		}
		if err := w.WriteHeader(&e.h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func apply(t testing.TB, root string, entries ...*tarEntry) {
	t.Helper()
	if _, err := Layer(t.Context(), root, bytes.NewReader(layerOf(t, entries...)), Limits{}); err != nil {
		t.Fatal(err)
	}
}

// tree lists what is below root: path, type and mode, and content or target.
func list(t testing.TB, root string) string {
	t.Helper()
	var out strings.Builder
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		info, err := d.Info()
		if err != nil {
			return err
		}
		fmt.Fprintf(&out, "%v %s", info.Mode(), rel)
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			target, _ := os.Readlink(path)
			out.WriteString(" -> " + target)
		case info.Mode().IsRegular():
			content, _ := os.ReadFile(path)
			fmt.Fprintf(&out, " %q", content)
		}
		out.WriteString("\n")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func expect(t testing.TB, root string, want ...string) {
	t.Helper()
	if got := strings.TrimSpace(list(t, root)); got != strings.Join(want, "\n") {
		t.Errorf("tree is\n%s\nwant\n%s", got, strings.Join(want, "\n"))
	}
}

func stat(t testing.TB, path string) unix.Stat_t {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st
}

func TestTypesAndModes(t *testing.T) {
	needRoot(t)
	root := t.TempDir()
	long := strings.Repeat("long/", 40) + strings.Repeat("n", 200)
	device := func(name string, kind byte, major, minor int64) *tarEntry {
		return &tarEntry{tar.Header{Typeflag: kind, Name: name, Mode: 0o660, Devmajor: major, Devminor: minor, Gid: 6}, ""}
	}
	apply(t, root,
		dirEntry("./", 0o755),
		dirEntry("./tmp/", 0o1777),
		dirEntry("var/mail", 0o2775).with(func(h *tar.Header) { h.Gid = 8 }),
		file("var/mail/root-owned", "x"),
		dirEntry("var/mail/sub", 0o755),
		file("/bin/su", "su").with(func(h *tar.Header) { h.Mode, h.Uid, h.Gid = 0o4755, 1, 2 }),
		file("secret", "s").with(func(h *tar.Header) { h.Mode = 0o600 }),
		file("open", "").with(func(h *tar.Header) { h.Mode = 0o777 }),
		symlink("link", "/etc/passwd"),
		hardLink("bin/su2", "./bin/su"),
		device("null", tar.TypeChar, 1, 3),
		device("disk", tar.TypeBlock, 259, 70000),
		device("pipe", tar.TypeFifo, 0, 0),
		file(long, "deep"),
		&tarEntry{tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "x"}}, ""},
	)
	for path, want := range map[string]struct {
		mode     uint32
		uid, gid uint32
	}{
		"tmp":                 {unix.S_IFDIR | 0o1777, 0, 0},
		"var":                 {unix.S_IFDIR | 0o755, 0, 0},
		"var/mail":            {unix.S_IFDIR | 0o2775, 0, 8},
		"var/mail/root-owned": {unix.S_IFREG | 0o644, 0, 0},
		"var/mail/sub":        {unix.S_IFDIR | 0o755, 0, 0},
		"bin/su":              {unix.S_IFREG | 0o4755, 1, 2},
		"bin/su2":             {unix.S_IFREG | 0o4755, 1, 2},
		"secret":              {unix.S_IFREG | 0o600, 0, 0},
		"open":                {unix.S_IFREG | 0o777, 0, 0},
		"null":                {unix.S_IFCHR | 0o660, 0, 6},
		"disk":                {unix.S_IFBLK | 0o660, 0, 6},
		"pipe":                {unix.S_IFIFO | 0o660, 0, 6},
		long:                  {unix.S_IFREG | 0o644, 0, 0},
	} {
		st := stat(t, filepath.Join(root, path))
		if st.Mode != want.mode || st.Uid != want.uid || st.Gid != want.gid {
			t.Errorf("%s: mode %o of %d:%d, want %o of %d:%d", path, st.Mode, st.Uid, st.Gid, want.mode, want.uid, want.gid)
		}
	}
	if st := stat(t, filepath.Join(root, "disk")); unix.Major(st.Rdev) != 259 || unix.Minor(st.Rdev) != 70000 {
		t.Errorf("device %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	}
	if stat(t, filepath.Join(root, "bin/su")).Ino != stat(t, filepath.Join(root, "bin/su2")).Ino {
		t.Error("the hard link is a file of its own")
	}
	for _, path := range []string{"tmp", "var/mail", "bin/su", "link", "null", "secret"} {
		if got := stat(t, filepath.Join(root, path)).Mtim; got.Nano() != when.UnixNano() {
			t.Errorf("%s: modified at %d, want %d", path, got.Nano(), when.UnixNano())
		}
	}
}

// TestUmaskIsUntouched shows that the process keeps its umask.
func TestUmaskIsUntouched(t *testing.T) {
	needRoot(t)
	before := unix.Umask(0o027)
	defer unix.Umask(before)
	root := t.TempDir()
	apply(t, root, file("f", "").with(func(h *tar.Header) { h.Mode = 0o666 }))
	expect(t, root, `-rw-rw-rw- f ""`)
	if got := unix.Umask(0o027); got != 0o027 {
		t.Errorf("the umask became %o", got)
	}
}

func TestReplace(t *testing.T) {
	needRoot(t)
	root := t.TempDir()
	apply(t, root,
		dirEntry("a", 0o700), file("a/b", "1"), dirEntry("a/c", 0o755), file("f", "old"), symlink("s", "a"),
		dirEntry("d", 0o700).with(func(h *tar.Header) { h.Uid = 5 }), file("d/kept", "k"), symlink("bin", "usr/bin"), dirEntry("usr/bin", 0o755))
	apply(t, root,
		file("a", "now a file"), dirEntry("f", 0o711), file("f/in", "x"), dirEntry("s", 0o755), file("s/in", "y"),
		dirEntry("d", 0o755), file("bin/sh", "through a link within the root"))
	expect(t, root,
		`-rw-r--r-- a "now a file"`,
		`Lrwxrwxrwx bin -> usr/bin`,
		`drwxr-xr-x d`,
		`-rw-r--r-- d/kept "k"`,
		`drwx--x--x f`,
		`-rw-r--r-- f/in "x"`,
		`drwxr-xr-x s`,
		`-rw-r--r-- s/in "y"`,
		`drwxr-xr-x usr`,
		`drwxr-xr-x usr/bin`,
		`-rw-r--r-- usr/bin/sh "through a link within the root"`)
	if st := stat(t, filepath.Join(root, "d")); st.Uid != 0 {
		t.Errorf("d belongs to %d still", st.Uid)
	}
}

// TestReplaceInSubdirectory: what makes way lies in a directory whose descriptor is kept for the next entries.
func TestReplaceInSubdirectory(t *testing.T) {
	needRoot(t)
	root := t.TempDir()
	layer := []*tarEntry{
		dirEntry("bin", 0o755), file("bin/busybox", "b"), symlink("bin/ps", "busybox"), hardLink("bin/sh", "bin/busybox"),
		dirEntry("bin/sub", 0o755), file("bin/sub/x", "1"), symlink("bin/top", "busybox"),
	}
	apply(t, root, layer...)
	apply(t, root, layer...)
	apply(t, root, file("bin/sub/y", "2"), file("bin/ps", "no link"), dirEntry("bin/sub", 0o700), symlink("bin/sub/x", "y"), file("bin/zz", "3"))
	expect(t, root,
		`drwxr-xr-x bin`,
		`-rw-r--r-- bin/busybox "b"`,
		`-rw-r--r-- bin/ps "no link"`,
		`-rw-r--r-- bin/sh "b"`,
		`drwx------ bin/sub`,
		`Lrwxrwxrwx bin/sub/x -> y`,
		`-rw-r--r-- bin/sub/y "2"`,
		`Lrwxrwxrwx bin/top -> busybox`,
		`-rw-r--r-- bin/zz "3"`)
}

func TestWhiteouts(t *testing.T) {
	needRoot(t)
	lower := []*tarEntry{
		dirEntry("a", 0o755), file("a/1", "1"), file("a/2", "2"), dirEntry("a/sub", 0o755), file("a/sub/3", "3"),
		file("b", "b"), symlink("c", "a"),
	}
	for name, c := range map[string]struct {
		upper []*tarEntry
		want  []string
	}{
		"one file": {[]*tarEntry{file("a/.wh.1", "")},
			[]string{`drwxr-xr-x a`, `-rw-r--r-- a/2 "2"`, `drwxr-xr-x a/sub`, `-rw-r--r-- a/sub/3 "3"`, `-rw-r--r-- b "b"`, `Lrwxrwxrwx c -> a`}},
		"a tree": {[]*tarEntry{file(".wh.a", "")},
			[]string{`-rw-r--r-- b "b"`, `Lrwxrwxrwx c -> a`}},
		"a link, not its target": {[]*tarEntry{file(".wh.c", ""), file(".wh.b", "")},
			[]string{`drwxr-xr-x a`, `-rw-r--r-- a/1 "1"`, `-rw-r--r-- a/2 "2"`, `drwxr-xr-x a/sub`, `-rw-r--r-- a/sub/3 "3"`}},
		"before the layer's own": {[]*tarEntry{file(".wh.a", ""), file("a/new", "n"), file(".wh.b", ""), file("b", "B")},
			[]string{`drwxr-xr-x a`, `-rw-r--r-- a/new "n"`, `-rw-r--r-- b "B"`, `Lrwxrwxrwx c -> a`}},
		"behind the layer's own": {[]*tarEntry{file("a/sub/new", "n"), file(".wh.a", ""), file("b", "B"), file(".wh.b", "")},
			[]string{`drwxr-xr-x a`, `drwxr-xr-x a/sub`, `-rw-r--r-- a/sub/new "n"`, `-rw-r--r-- b "B"`, `Lrwxrwxrwx c -> a`}},
		"opaque": {[]*tarEntry{dirEntry("a", 0o700), file("a/.wh..wh..opq", ""), file("a/4", "4")},
			[]string{`drwx------ a`, `-rw-r--r-- a/4 "4"`, `-rw-r--r-- b "b"`, `Lrwxrwxrwx c -> a`}},
		"opaque, last": {[]*tarEntry{file("a/4", "4"), symlink("a/sub/l", "3"), file("a/.wh..wh..opq", "")},
			[]string{`drwxr-xr-x a`, `-rw-r--r-- a/4 "4"`, `drwxr-xr-x a/sub`, `Lrwxrwxrwx a/sub/l -> 3`, `-rw-r--r-- b "b"`, `Lrwxrwxrwx c -> a`}},
		"of nothing": {[]*tarEntry{file("none/.wh.x", ""), file("b/.wh.x", ""), file(".wh.none", ""), file("b/.wh..wh..opq", ""), file(".wh..wh.plnk", "")},
			[]string{`drwxr-xr-x a`, `-rw-r--r-- a/1 "1"`, `-rw-r--r-- a/2 "2"`, `drwxr-xr-x a/sub`, `-rw-r--r-- a/sub/3 "3"`, `-rw-r--r-- b "b"`, `Lrwxrwxrwx c -> a`}},
		"all": {[]*tarEntry{file(".wh..wh..opq", "")}, []string{""}},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			apply(t, root, lower...)
			apply(t, root, c.upper...)
			expect(t, root, c.want...)
		})
	}
}

func TestXattrs(t *testing.T) {
	needRoot(t)
	root := t.TempDir()
	capability := "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" // cap_net_bind_service+ep
	attributes := func(h *tar.Header) {
		h.Uid = 7
		h.PAXRecords = map[string]string{"SCHILY.xattr.user.note": "a\x00b", "SCHILY.xattr.security.capability": capability}
	}
	if err := unix.Setxattr(root, "user.test", []byte("x"), 0); err != nil {
		t.Skipf("the file system of %s has no extended attributes (%v): set TMPDIR to one on ext4", root, err)
	}
	apply(t, root,
		file("f", "x").with(attributes),
		dirEntry("d", 0o755).with(func(h *tar.Header) { h.PAXRecords = map[string]string{"SCHILY.xattr.user.note": "dir"} }),
		symlink("l", "nowhere").with(func(h *tar.Header) { h.PAXRecords = map[string]string{"SCHILY.xattr.user.note": "not on links"} }))
	for _, c := range []struct{ path, name, want string }{
		{"f", "user.note", "a\x00b"}, {"f", "security.capability", capability}, {"d", "user.note", "dir"},
	} {
		got := make([]byte, 100)
		n, err := unix.Lgetxattr(filepath.Join(root, c.path), c.name, got)
		if err != nil || string(got[:n]) != c.want {
			t.Errorf("%s of %s: %q, %v; want %q", c.name, c.path, got[:max(n, 0)], err, c.want)
		}
	}
}

func TestRefused(t *testing.T) {
	needRoot(t)
	for name, c := range map[string]struct {
		entries []*tarEntry
		want    error
		words   string
	}{
		"parent":         {[]*tarEntry{file("../x", "")}, ErrEscape, `cannot unpack "../x"`},
		"parent within":  {[]*tarEntry{file("a/../../x", "")}, ErrEscape, `".."`},
		"link parent":    {[]*tarEntry{hardLink("x", "../outside")}, ErrEscape, `hard link to "../outside"`},
		"whiteout":       {[]*tarEntry{file(".wh...", "")}, ErrEscape, `".wh..."`},
		"whiteout dot":   {[]*tarEntry{file("a/.wh..", "")}, ErrEscape, `"a/.wh.."`},
		"link out":       {[]*tarEntry{symlink("s", "/.."), hardLink("x", "s/outside")}, unix.ENOENT, `"s/outside"`},
		"link to itself": {[]*tarEntry{file("x", ""), hardLink("x", "./x")}, ErrUnsupported, ``},
		"through proc":   {[]*tarEntry{symlink("s", "/proc/self/root"), file("s/x", "")}, unix.EEXIST, ``},
		"content":        {[]*tarEntry{file("x", strings.Repeat("x", 1001))}, ErrTooLarge, `1001 bytes where 1000 are left of 1000`},
		"entries":        {[]*tarEntry{file("1", ""), file("2", ""), file("3", ""), file("4", ""), file("5", "")}, ErrTooLarge, `"5"`},
		"implied":        {[]*tarEntry{file("1/2/3/4/5", "")}, ErrTooLarge, `entries`},
		"name":           {[]*tarEntry{file(strings.Repeat("x", 5000), "")}, ErrTooLarge, `5000 bytes`},
		"depth":          {[]*tarEntry{file(strings.Repeat("x/", 300)+"f", "")}, ErrTooLarge, `256 elements`},
		"element":        {[]*tarEntry{file(strings.Repeat("x", 300), "")}, unix.ENAMETOOLONG, ``},
		"owner":          {[]*tarEntry{file("x", "").with(func(h *tar.Header) { h.Uid = 1<<32 - 1 })}, ErrUnsupported, `owner 4294967295:0`},
		"root a link":    {[]*tarEntry{symlink("./", "/etc")}, ErrUnsupported, ``},
	} {
		t.Run(name, func(t *testing.T) {
			outer := t.TempDir()
			root := filepath.Join(outer, "root")
			if err := os.Mkdir(root, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(outer, "outside"), []byte("o"), 0o644); err != nil {
				t.Fatal(err)
			}
			_, err := Layer(t.Context(), root, bytes.NewReader(layerOf(t, c.entries...)), Limits{MaxBytes: 1000, MaxEntries: 4})
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.words) {
				t.Errorf("error %v, want %v with %q", err, c.want, c.words)
			}
			if names, _ := filepath.Glob(filepath.Join(outer, "*")); len(names) != 2 {
				t.Errorf("beside the root there are %v", names)
			}
			if st := stat(t, filepath.Join(outer, "outside")); st.Nlink != 1 {
				t.Error("something links to a file outside")
			}
		})
	}
}

// TestLinksStayInside writes through links that lead out of the root, and finds all of it inside.
func TestLinksStayInside(t *testing.T) {
	needRoot(t)
	outer := t.TempDir()
	root := filepath.Join(outer, "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	apply(t, root,
		dirEntry("etc", 0o755), symlink("abs", "/etc"), symlink("up", "../../../../etc"), file("abs/1", "1"), file("up/2", "2"),
		symlink("file", "/../../etc/passwd"), file("file", "replaced, not followed"), hardLink("three", "abs/1"))
	apply(t, root, file("up/.wh.2", ""))
	expect(t, root,
		`Lrwxrwxrwx abs -> /etc`, `drwxr-xr-x etc`, `-rw-r--r-- etc/1 "1"`, `-rw-r--r-- file "replaced, not followed"`,
		`-rw-r--r-- three "1"`, `Lrwxrwxrwx up -> ../../../../etc`)
}

func TestCancel(t *testing.T) {
	needRoot(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := Layer(ctx, t.TempDir(), bytes.NewReader(layerOf(t, file("x", "x"))), Limits{})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

// TestTruncated ends the layer at each of its bytes: never a panic, and no success within an entry.
func TestTruncated(t *testing.T) {
	needRoot(t)
	whole := layerOf(t, file("a", strings.Repeat("x", 700)), symlink("l", "a"))
	const borders = 512 // an end between blocks of no entry is one that tar itself allows
	for n := 0; n < len(whole)-1024; n += 37 {
		_, err := Layer(t.Context(), t.TempDir(), bytes.NewReader(whole[:n]), Limits{})
		if err == nil && n%borders != 0 {
			t.Errorf("%d bytes of %d: no error", n, len(whole))
		}
	}
}

// TestSparse makes a file with GNU tar's header of the old format by hand: 8 KiB of data in 1 MiB of hole.
func TestSparse(t *testing.T) {
	needRoot(t)
	root := t.TempDir()
	layer := gnuSparse(t, "sparse", 1<<20, 1<<19, bytes.Repeat([]byte("d"), 8192))
	res, err := Layer(t.Context(), root, bytes.NewReader(layer), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if res.Bytes != 1<<20 {
		t.Errorf("%d bytes, want the file's length", res.Bytes)
	}
	want := make([]byte, 1<<20)
	copy(want[1<<19:], bytes.Repeat([]byte("d"), 8192))
	got, err := os.ReadFile(filepath.Join(root, "sparse"))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if st := stat(t, filepath.Join(root, "sparse")); st.Blocks*512 > 64<<10 {
		t.Errorf("it takes %d bytes on disk: the hole is filled", st.Blocks*512)
	}
}

// gnuSparse is a layer of one sparse file: an old GNU header, type 'S' (GNU tar manual, "Sparse Formats").
func gnuSparse(t testing.TB, name string, size, offset int, data []byte) []byte {
	t.Helper()
	layer := raw(name, tar.TypeGNUSparse, data, func(h []byte) {
		copy(h[386:], fmt.Sprintf("%011o\x00%011o\x00", offset, len(data)))
		copy(h[483:], fmt.Sprintf("%011o\x00", size))
	})
	return append(layer, make([]byte, 1024)...)
}
