package image

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"testing"
)

// BenchmarkContent is the host's share of an unpack: decompression and digests, without any VM.
func BenchmarkContent(b *testing.B) {
	plain := make([]byte, 32<<20)
	random := rand.NewChaCha8([32]byte{})
	for i := 0; i < len(plain); i += 512 { // half of each block is noise: about what a root file system compresses to
		random.Read(plain[i : i+256])
	}
	for name, data := range map[string][]byte{"plain": plain, "gzip": gzipped(plain), "zstd": zstandard(plain)} {
		b.Run(name, func(b *testing.B) {
			c := content{size: int64(len(data)), open: func(context.Context) (io.ReadCloser, error) {
				return io.NopCloser(bytes.NewReader(data)), nil
			}}
			b.SetBytes(int64(len(plain)))
			for b.Loop() {
				if _, err := c.copyTo(b.Context(), io.Discard, nil, func(int64) {}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
