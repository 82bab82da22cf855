package unpack

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
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

