package image

import (
	"bytes"
	"io"
	"os"
	"testing"
)

// FuzzDecompress: what a client or a registry sends neither ends this process nor is anything but data or an error.
func FuzzDecompress(f *testing.F) {
	text := bytes.Repeat([]byte("content "), 100)
	f.Add(text)
	for _, compress := range []func([]byte) []byte{gzipped, zstandard, skippable} {
		f.Add(compress(text))
	}
	for _, name := range []string{"image.tar.xz", "image.tar.bz2"} {
		data, err := os.ReadFile("testdata/" + name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		plain, err := Decompress(bytes.NewReader(data))
		if err != nil {
			return
		}
		defer plain.Close()
		io.Copy(io.Discard, io.LimitReader(plain, 1<<20)) // an error is as good
	})
}
