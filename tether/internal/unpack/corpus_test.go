package unpack

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"path/filepath"
	"testing"
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
