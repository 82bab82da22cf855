package unpack

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
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
)

// Layers as tools and people make them, which every other reader takes.

// TestTrailingBytes: what is behind the two zero blocks that end a tar is read and means nothing, whatever it is.
func TestTrailingBytes(t *testing.T) {
	needRoot(t)
	whole := layerOf(t, file("f", "x"))
	for name, trailer := range map[string][]byte{
		"a byte": {0}, "a letter": []byte("x"), "a line": []byte("# signed\n"), "zero blocks": make([]byte, 20*tarBlock),
		"a block and a bit": bytes.Repeat([]byte("x"), tarBlock+1), "another tar": layerOf(t, file("hidden", "y")),
		"more than is held": bytes.Repeat([]byte("x"), 3*readSize+1),
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			in := bytes.NewReader(append(bytes.Clone(whole), trailer...))
			if _, err := Layer(t.Context(), root, in, Limits{}); err != nil || in.Len() != 0 {
				t.Errorf("%v, %d bytes were not read", err, in.Len())
			}
			expect(t, root, `-rw-r--r-- f "x"`)
		})
	}
}

// TestEnds are other ends of a tar: some writers leave out one zero block or both. Within padding a tar does not end.
func TestEnds(t *testing.T) {
	needRoot(t)
	whole := layerOf(t, file("f", "x"))
	for name, c := range map[string]struct {
		layer []byte
		want  error
	}{
		"no zero block":            {whole[:len(whole)-2*tarBlock], nil},
		"one zero block":           {whole[:len(whole)-tarBlock], nil},
		"one and a half":           {whole[:len(whole)-tarBlock/2], io.ErrUnexpectedEOF},
		"half a zero block":        {whole[:len(whole)-tarBlock*3/2], io.ErrUnexpectedEOF},
		"one zero block, then not": {append(bytes.Clone(whole[:len(whole)-tarBlock]), bytes.Repeat([]byte("x"), tarBlock)...), tar.ErrHeader},
		"padding cut off":          {whole[:len(whole)-2*tarBlock-1], io.ErrUnexpectedEOF},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Layer(t.Context(), t.TempDir(), bytes.NewReader(c.layer), Limits{}); !errors.Is(err, c.want) {
				t.Errorf("error %v, want %v", err, c.want)
			}
		})
	}
}

// TestFileWithSlash: an entry of a file's type whose name ends with a slash is a directory, and has no content.
func TestFileWithSlash(t *testing.T) {
	needRoot(t)
	root := t.TempDir()
	applyRaw(t, root,
		raw("./", tar.TypeReg, nil), raw("app0/", tar.TypeReg, nil, ustar), raw("app0/in", tar.TypeReg, []byte("x")),
		raw("app0/empty//", tar.TypeReg, nil), raw("full/", tar.TypeReg, bytes.Repeat([]byte("skipped"), 1000)), raw("full/in", tar.TypeReg, []byte("y")),
		raw("cont/", tar.TypeCont, nil), raw("old/", 0, nil), raw("a/../b/", tar.TypeReg, nil),
		rawPAX(tar.TypeXHeader, [2]string{"mtime", "-1.5"}), raw("pax/", tar.TypeReg, []byte("z"), ustar), raw("pax/in", tar.TypeReg, nil))
	want := []string{
		`drw-r--r-- app0`, `drw-r--r-- app0/empty`, `-rw-r--r-- app0/in "x"`, `drw-r--r-- b`, `drw-r--r-- cont`,
		`drw-r--r-- full`, `-rw-r--r-- full/in "y"`, `drw-r--r-- old`, `drw-r--r-- pax`, `-rw-r--r-- pax/in ""`,
	}
	expect(t, root, want...)
	applyRaw(t, root, raw("app0/", tar.TypeReg, nil)) // what is in it stays
	expect(t, root, want...)
	if st := stat(t, filepath.Join(root, "app0")); st.Mtim.Nano() != when.Unix()*1e9 {
		t.Errorf("modified at %d, want %d", st.Mtim.Nano(), when.Unix()*1e9)
	}
}

func applyRaw(t *testing.T, root string, entries ...[]byte) {
	t.Helper()
	if _, err := Layer(t.Context(), root, bytes.NewReader(tarOf(entries...)), Limits{}); err != nil {
		t.Fatal(err)
	}
}

// TestHardLinksAcrossLayers: a link's target may lie in a lower layer; what a later layer puts in its place leaves the link.
func TestHardLinksAcrossLayers(t *testing.T) {
	needRoot(t)
	root := t.TempDir()
	apply(t, root, dirEntry("usr/bin", 0o755), file("usr/bin/a", "1"), symlink("bin", "usr/bin"), symlink("soft", "usr/bin/a"))
	apply(t, root, hardLink("b", "usr/bin/a"), hardLink("usr/c", "bin/a"), hardLink("soft2", "soft"), hardLink("d", "x/../b"))
	inode := stat(t, filepath.Join(root, "usr/bin/a")).Ino
	for _, name := range []string{"b", "usr/c", "d"} {
		if got := stat(t, filepath.Join(root, name)).Ino; got != inode {
			t.Errorf("%s is inode %d, want %d", name, got, inode)
		}
	}
	apply(t, root, file("usr/bin/a", "2"), file(".wh.d", ""), hardLink("usr/c", "usr/bin/a"))
	expect(t, root,
		`-rw-r--r-- b "1"`, `Lrwxrwxrwx bin -> usr/bin`, `Lrwxrwxrwx soft -> usr/bin/a`, `Lrwxrwxrwx soft2 -> usr/bin/a`,
		`drwxr-xr-x usr`, `drwxr-xr-x usr/bin`, `-rw-r--r-- usr/bin/a "2"`, `-rw-r--r-- usr/c "2"`)
}

// TestOpaqueDirectories: each opaque layer hides all that is below it in its directory, and nothing beside.
func TestOpaqueDirectories(t *testing.T) {
	needRoot(t)
	root := t.TempDir()
	apply(t, root,
		dirEntry("d", 0o700).with(func(h *tar.Header) { h.Uid = 5 }), file("d/1", "1"), dirEntry("d/sub", 0o755), file("d/sub/2", "2"),
		dirEntry("e", 0o755), file("e/3", "3"), symlink("link", "e"))
	apply(t, root, file("d/.wh..wh..opq", ""), dirEntry("d/sub", 0o711), file("d/sub/4", "4"))
	expect(t, root,
		`drwx------ d`, `drwx--x--x d/sub`, `-rw-r--r-- d/sub/4 "4"`, `drwxr-xr-x e`, `-rw-r--r-- e/3 "3"`, `Lrwxrwxrwx link -> e`)
	if st := stat(t, filepath.Join(root, "d")); st.Uid != 5 {
		t.Errorf("d belongs to %d, which no entry said", st.Uid)
	}
	apply(t, root, dirEntry("d", 0o755), file("d/sub/5", "5"), file("d/sub/.wh..wh..opq", ""), file("d/.wh.sub", ""), file("link/.wh..wh..opq", ""))
	expect(t, root, `drwxr-xr-x d`, `drwx--x--x d/sub`, `-rw-r--r-- d/sub/5 "5"`, `drwxr-xr-x e`, `Lrwxrwxrwx link -> e`)
	apply(t, root, file("d/.wh..wh..opq", ""), file("e/.wh..wh..opq", ""), file("e/.wh..wh..opq", ""), file("new/.wh..wh..opq", ""), file("new/6", "6"))
	expect(t, root, `drwxr-xr-x d`, `drwxr-xr-x e`, `Lrwxrwxrwx link -> e`, `drwxr-xr-x new`, `-rw-r--r-- new/6 "6"`)
}

// TestLargeOwners: IDs above 2³¹, as user namespaces and directory services give them, of each type of entry.
func TestLargeOwners(t *testing.T) {
	needRoot(t)
	const uid, gid = 3_000_000_000, 1<<32 - 2
	root := t.TempDir()
	large := func(h *tar.Header) { h.Uid, h.Gid = uid, gid }
	gnu := func(h []byte) { // as GNU tar writes what octal digits cannot say
		for i, id := range []uint32{uid, gid} {
			field := h[atUID+8*i:][:8]
			clear(field)
			field[0] = 0x80
			binary.BigEndian.PutUint32(field[4:], id)
		}
	}
	apply(t, root,
		file("file", "x").with(large), dirEntry("dir", 0o755).with(large), symlink("link", "file").with(large),
		(&tarEntry{tar.Header{Typeflag: tar.TypeFifo, Name: "pipe"}, ""}).with(large))
	applyRaw(t, root, raw("gnu", tar.TypeReg, nil, gnu), raw("gnu-dir/", tar.TypeDir, nil, gnu))
	for _, name := range []string{"file", "dir", "link", "pipe", "gnu", "gnu-dir"} {
		if st := stat(t, filepath.Join(root, name)); st.Uid != uid || st.Gid != gid {
			t.Errorf("%s belongs to %d:%d, want %d:%d", name, st.Uid, st.Gid, uid, uint32(gid))
		}
	}
}

// TestOddTimes: times before 1970, with a fraction or not, and those that a file system cannot hold, which it bends.
func TestOddTimes(t *testing.T) {
	needRoot(t)
	root := t.TempDir()
	moon := time.Date(1969, 7, 20, 20, 17, 39, 250_000_000, time.UTC)
	at := func(when time.Time) func(h *tar.Header) { return func(h *tar.Header) { h.ModTime = when } }
	apply(t, root,
		file("file", "x").with(at(moon)), dirEntry("dir", 0o755).with(at(moon)), file("dir/in", ""), symlink("link", "x").with(at(moon)),
		file("far", "").with(at(time.Unix(1<<40, 0))), file("ancient", "").with(at(time.Unix(-1<<40, 0))))
	applyRaw(t, root,
		raw("gnu", tar.TypeReg, nil, func(h []byte) { copy(h[atTime:][:12], "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe") }),
		raw("gnu-least", tar.TypeReg, nil, func(h []byte) { copy(h[atTime:][:12], "\xff\xff\xff\xff\x80\x00\x00\x00\x00\x00\x00\x00") }),
		raw("gnu-most", tar.TypeReg, nil, func(h []byte) { copy(h[atTime:][:12], "\x80\x00\x00\x00\x7f\xff\xff\xff\xff\xff\xff\xff") }))
	for name, want := range map[string]int64{"file": moon.UnixNano(), "dir": moon.UnixNano(), "link": moon.UnixNano(), "gnu": -2e9} {
		if got := stat(t, filepath.Join(root, name)).Mtim; got.Nano() != want {
			t.Errorf("%s: modified at %d, want %d", name, got.Nano(), want)
		}
	}
}

// TestLongNames: names of the 255 bytes that a file system allows, and what is done with them.
func TestLongNames(t *testing.T) {
	needRoot(t)
	root := t.TempDir()
	name := func(first string) string { return first + strings.Repeat("n", 255-len(first)) }
	latin := "caf\xe9"                                 // no UTF-8
	wide := strings.Repeat("\u00e9", 127) + "e"        // 255 bytes of it
	deep := strings.Repeat(name("deep")+"/", 15) + "f" // a path of 3841 bytes
	apply(t, root,
		dirEntry(name("dir"), 0o755), file(name("dir")+"/"+name("in"), "1"), file(name("file"), "2"), symlink(name("link"), name("file")),
		hardLink(name("hard"), name("file")), file(wide, "3"), file(name("gone"), "4"), dirEntry(name("gone-dir"), 0o755), file(deep, "5"))
	applyRaw(t, root, raw(latin, tar.TypeReg, []byte("6")))
	if _, err := os.Lstat(filepath.Join(root, deep)); err != nil {
		t.Error(err)
	}
	apply(t, root, file(".wh."+name("gone"), ""), file(".wh."+name("gone-dir"), ""), file(".wh."+name("deep"), ""))
	expect(t, root,
		`-rw-r--r-- `+latin+` "6"`, `drwxr-xr-x `+name("dir"), `-rw-r--r-- `+name("dir")+`/`+name("in")+` "1"`, `-rw-r--r-- `+name("file")+` "2"`,
		`-rw-r--r-- `+name("hard")+` "2"`, `Lrwxrwxrwx `+name("link")+` -> `+name("file"), `-rw-r--r-- `+wide+` "3"`)
}

// TestManyLayers: 126, the deepest image that Docker makes, each of which changes what those below it have.
func TestManyLayers(t *testing.T) {
	needRoot(t)
	root := t.TempDir()
	const layers = 126
	for n := range layers {
		entries := []*tarEntry{
			file("same", fmt.Sprint(n)), dirEntry("d", 0o700+int64(n%8)), file(fmt.Sprintf("d/%d", n), "x"), symlink("latest", fmt.Sprintf("d/%d", n)),
		}
		if n > 0 {
			entries = append(entries, file(fmt.Sprintf("d/.wh.%d", n-1), ""), hardLink(fmt.Sprintf("link-%d", n%2), fmt.Sprintf("link-%d", (n-1)%2)))
		} else {
			entries = append(entries, file("link-0", "first"))
		}
		apply(t, root, entries...)
	}
	expect(t, root,
		`drwx---r-x d`, `-rw-r--r-- d/125 "x"`, `Lrwxrwxrwx latest -> d/125`, `-rw-r--r-- link-0 "first"`, `-rw-r--r-- link-1 "first"`, `-rw-r--r-- same "125"`)
}

// TestSparseFormats: the ways in which tars say where a file's holes are. What follows shows that the reader knows where it is.
func TestSparseFormats(t *testing.T) {
	needRoot(t)
	const offset, size = 1 << 19, 1 << 20
	data := bytes.Repeat([]byte("d"), 2*tarBlock)
	record := func(key string, value any) [2]string { return [2]string{"GNU.sparse." + key, fmt.Sprint(value)} }
	old := func(fields string) func(h []byte) {
		return func(h []byte) { copy(h[386:], fields); copy(h[483:], fmt.Sprintf("%011o\x00", size)) }
	}
	extended := make([]byte, tarBlock) // the old format's second header
	copy(extended, fmt.Sprintf("%011o\x00%011o\x00", offset, len(data)))
	isExtended := func(h []byte) { h[482] = 1 }
	for name, c := range map[string]struct {
		layer []byte
		hole  bool // nothing but
	}{
		"old": {raw("f", tar.TypeGNUSparse, data, old(fmt.Sprintf("%011o\x00%011o\x00", offset, len(data)))), false},
		"old, extended": {slices.Concat(
			raw("f", tar.TypeGNUSparse, nil, old(strings.Repeat("00000000000\x00", 8)), isExtended, func(h []byte) { copy(h[atSize:], fmt.Sprintf("%011o\x00", len(data))) }),
			extended, data), false},
		"old, a hole": {raw("f", tar.TypeGNUSparse, nil, old(fmt.Sprintf("%011o\x0000000000000\x00", size))), true},
		"0.0": {slices.Concat(rawPAX(tar.TypeXHeader, record("size", size), record("numblocks", 1), record("offset", offset), record("numbytes", len(data))),
			raw("f", tar.TypeReg, data, ustar)), false},
		"0.1": {slices.Concat(rawPAX(tar.TypeXHeader, record("size", size), record("numblocks", 1), record("map", fmt.Sprintf("%d,%d", offset, len(data))), record("name", "f")),
			raw("GNUSparseFile.1/f", tar.TypeReg, data, ustar)), false},
		"1.0": {slices.Concat(rawPAX(tar.TypeXHeader, record("major", 1), record("minor", 0), record("name", "f"), record("realsize", size)),
			raw("GNUSparseFile.1/f", tar.TypeReg, slices.Concat(fmt.Appendf(make([]byte, 0, tarBlock), "1\n%d\n%d\n", offset, len(data))[:tarBlock], data), ustar)), false},
		"1.0, a hole": {slices.Concat(rawPAX(tar.TypeXHeader, record("major", 1), record("minor", 0), record("name", "f"), record("realsize", size)),
			raw("GNUSparseFile.1/f", tar.TypeReg, fmt.Appendf(make([]byte, 0, tarBlock), "1\n%d\n0\n", size)[:tarBlock], ustar)), true},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			applyRaw(t, root, c.layer, raw("next", tar.TypeReg, []byte("x")))
			want := make([]byte, size)
			if !c.hole {
				copy(want[offset:], data)
			}
			if got, err := os.ReadFile(filepath.Join(root, "f")); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes, %v, not what was put in", len(got), err)
			}
			if st := stat(t, filepath.Join(root, "f")); st.Blocks*512 > 64<<10 {
				t.Errorf("it takes %d bytes on disk: the hole is filled", st.Blocks*512)
			}
			if _, err := os.Lstat(filepath.Join(root, "next")); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestExtendedHeaders: records that replace fields, that say nothing to us, or that are a tool's own.
func TestExtendedHeaders(t *testing.T) {
	needRoot(t)
	root := t.TempDir()
	long := strings.Repeat("l/", 100) + "f"
	applyRaw(t, root,
		rawPAX(tar.TypeXGlobalHeader, [2]string{"comment", "0123456789abcdef"}, [2]string{"path", "not-for-all"}, [2]string{"uid", "7"}),
		rawPAX(tar.TypeXHeader, [2]string{"path", "by-path"}, [2]string{"size", "3"}, [2]string{"uid", "1"}, [2]string{"hdrcharset", "BINARY"}),
		raw("short", tar.TypeReg, []byte("abc"), ustar),
		rawPAX(tar.TypeXHeader, [2]string{"path", "first"}, [2]string{"path", "last"}, [2]string{"linkpath", ""}, [2]string{"mtime", ""}),
		raw("short", tar.TypeReg, nil, ustar),
		rawPAX(tar.TypeXHeader, [2]string{"APK-TOOLS.checksum.SHA1", "00"}, [2]string{"LIBARCHIVE.creationtime", "1"}, [2]string{"VENDOR.x", "a=b\nc"}),
		raw("vendor", tar.TypeReg, nil, ustar),
		raw("././@LongLink", tar.TypeGNULongName, []byte(long+"\x00")), raw(long[:100], tar.TypeReg, []byte("x")),
		raw("././@LongLink", tar.TypeGNULongLink, []byte("./"+long+"\x00")), raw("hard", tar.TypeLink, nil),
		rawPAX(tar.TypeXHeader, [2]string{"linkpath", "a/../" + long}), raw("hard2", tar.TypeLink, nil, ustar),
		raw("v7", 0, []byte("y"), func(h []byte) { clear(h[atMagic:][:8]) }),
		raw("v7-dir/", 0, nil, func(h []byte) { clear(h[atMagic:][:8]) }),
	)
	apply(t, root, file(".wh.l", ""))
	expect(t, root,
		`-rw-r--r-- by-path "abc"`, `-rw-r--r-- hard "x"`, `-rw-r--r-- hard2 "x"`, `-rw-r--r-- last ""`, `-rw-r--r-- v7 "y"`, `drw-r--r-- v7-dir`, `-rw-r--r-- vendor ""`)
	if st := stat(t, filepath.Join(root, "by-path")); st.Uid != 1 {
		t.Errorf("by-path belongs to %d, want 1", st.Uid)
	}
	if st := stat(t, filepath.Join(root, "last")); st.Uid != 0 || st.Mtim.Sec != when.Unix() {
		t.Errorf("last belongs to %d, modified at %d; want 0 and %d", st.Uid, st.Mtim.Sec, when.Unix())
	}
}

// TestReplacedByOtherTypes puts each type of entry in the place of each, within one layer and from layer to layer.
func TestReplacedByOtherTypes(t *testing.T) {
	needRoot(t)
	node := func(kind byte, major, minor int64) *tarEntry {
		return &tarEntry{tar.Header{Typeflag: kind, Mode: 0o600, Devmajor: major, Devminor: minor}, ""}
	}
	kinds := []struct {
		make func() *tarEntry
		mode uint32
		rdev uint64
	}{
		{func() *tarEntry { return file("", "x") }, unix.S_IFREG | 0o644, 0},
		{func() *tarEntry { return dirEntry("", 0o755) }, unix.S_IFDIR | 0o755, 0},
		{func() *tarEntry { return symlink("", "target") }, unix.S_IFLNK | 0o777, 0},
		{func() *tarEntry { return hardLink("", "target") }, unix.S_IFREG | 0o644, 0},
		{func() *tarEntry { return node(tar.TypeFifo, 0, 0) }, unix.S_IFIFO | 0o600, 0},
		{func() *tarEntry { return node(tar.TypeChar, 0, 0) }, unix.S_IFCHR | 0o600, 0}, // overlayfs's whiteout, which means nothing here
		{func() *tarEntry { return node(tar.TypeBlock, 259, 1<<20-1) }, unix.S_IFBLK | 0o600, unix.Mkdev(259, 1<<20-1)},
	}
	root, again := t.TempDir(), t.TempDir()
	var lower, upper []*tarEntry
	for i := range kinds {
		for j := range kinds {
			name := func(h *tar.Header) { h.Name = fmt.Sprintf("%d-%d", i, j) }
			lower, upper = append(lower, kinds[i].make().with(name)), append(upper, kinds[j].make().with(name))
		}
	}
	target := file("target", "t")
	apply(t, root, append([]*tarEntry{target}, lower...)...)
	apply(t, root, upper...)
	apply(t, again, append(append([]*tarEntry{target}, lower...), upper...)...)
	for _, root := range []string{root, again} {
		for i := range kinds {
			for j, want := range kinds {
				if st := stat(t, filepath.Join(root, fmt.Sprintf("%d-%d", i, j))); st.Mode != want.mode || st.Rdev != want.rdev {
					t.Errorf("%d in the place of %d: mode %o, device %#x; want %o, %#x", j, i, st.Mode, st.Rdev, want.mode, want.rdev)
				}
			}
		}
	}
}
