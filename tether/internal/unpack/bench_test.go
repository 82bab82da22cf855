package unpack

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"testing"
)

// BenchmarkLayer unpacks a tree like a small Debian root: 7,500 files in 1,200 directories, 115 MB, most files small.
// CVM_LAYER names a tar to unpack instead.
func BenchmarkLayer(b *testing.B) {
	needRoot(b)
	layer := benchmarkTar(b)
	b.SetBytes(int64(len(layer)))
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		root, err := os.MkdirTemp(b.TempDir(), "root")
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		if _, err := Layer(b.Context(), root, bytes.NewReader(layer), Limits{}); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := os.RemoveAll(root); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// BenchmarkHeaders reads the same tar with archive/tar alone.
func BenchmarkHeaders(b *testing.B) {
	layer := benchmarkTar(b)
	b.SetBytes(int64(len(layer)))
	b.ReportAllocs()
	for b.Loop() {
		for r := tar.NewReader(bytes.NewReader(layer)); ; {
			if _, err := r.Next(); err == io.EOF {
				break
			} else if err != nil {
				b.Fatal(err)
			}
		}
	}
}

func benchmarkTar(b *testing.B) []byte {
	path := os.Getenv("CVM_LAYER")
	if path == "" {
		return debianLike(b)
	}
	layer, err := os.ReadFile(path)
	if err != nil {
		b.Fatal(err)
	}
	return layer
}

// debianLike is a tar of the sizes that a Debian root has: half of the files under 4 KiB, a few of megabytes.
func debianLike(b *testing.B) []byte {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	content := bytes.Repeat([]byte("containerVM "), 1<<18)
	add := func(h *tar.Header) {
		h.ModTime, h.Format = when, tar.FormatGNU
		if err := w.WriteHeader(h); err != nil {
			b.Fatal(err)
		}
		if _, err := w.Write(content[:h.Size]); err != nil {
			b.Fatal(err)
		}
	}
	sizes := []int64{120, 700, 1500, 3000, 9000, 30000}
	for i := range 7500 {
		dir := fmt.Sprintf("./usr/share/package-%d/part-%d", i/60, i/6)
		if i%60 == 0 {
			add(&tar.Header{Typeflag: tar.TypeDir, Name: dir[:len(dir)-len(fmt.Sprintf("/part-%d", i/6))] + "/", Mode: 0o755})
		}
		if i%6 == 0 {
			add(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755})
		}
		size := sizes[i%6]
		if i%150 == 149 {
			size = 1200000
		}
		add(&tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("%s/file-%d.txt", dir, i), Mode: 0o644, Size: size})
	}
	if err := w.Close(); err != nil {
		b.Fatal(err)
	}
	return out.Bytes()
}
