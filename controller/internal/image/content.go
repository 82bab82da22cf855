package image

import (
	"bufio"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
)

// content is the tar of a layer, perhaps compressed.
type content struct {
	diffID digest.Digest // of the uncompressed tar, as the image's configuration demands it; empty: unknown before
	digest digest.Digest // of the bytes that open returns; empty: not to be checked
	size   int64         // of the bytes that open returns; 0: unknown
	open   func(ctx context.Context) (io.ReadCloser, error)
	// arrived is closed when all of it is there, or will never be; nil: it is.
	arrived <-chan struct{}
	// compress: it is made here, as a plain tar, and is to be kept compressed.
	compress bool
}

// id is how progress calls the layer: by the digest that the registry knows, where there is one.
func (c content) id() string {
	if c.digest != "" {
		return shortID(c.digest)
	}
	return shortID(c.diffID)
}

// copyTo writes the uncompressed tar to w and returns its digest. It fails when a digest is not the demanded one, but
// w has had the bytes by then. read is told how many bytes of the source were read so far. keep, if not nil, gets the bytes as they are
// in the source, or compressed by gzip if compress is set or the source is compressed in a way that images do not know.
func (c content) copyTo(ctx context.Context, w io.Writer, keep *keeper, read func(int64)) (digest.Digest, error) {
	src, err := c.open(ctx)
	if err != nil {
		return "", err
	}
	defer src.Close()
	b := bufio.NewReaderSize(src, 512) // of the looks ahead the smallest that makes no reads small
	head, err := b.Peek(magicBytes)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	how := compressionOf(head)
	raw := &meter{r: b, read: read}
	if how != uncompressed && keep != nil || c.digest != "" && c.digest != c.diffID {
		raw.hash = sha256.New()
	}
	var packed *gzip.Writer
	switch mediaType := mediaTypeOf(how); {
	case keep == nil:
	case mediaType == "" || c.compress:
		keep.begin(ctx, mediaTypeOf(byGzip), sha256.New())
		packed = gzip.NewWriter(keep)
		w = io.MultiWriter(w, packed)
	default:
		keep.begin(ctx, mediaType, nil)
		raw.tee = keep
	}
	diffID, err := inflate(w, raw)
	if err != nil {
		return "", err
	}
	got := cmp.Or(raw.sum(), diffID)
	if c.diffID != "" && diffID != c.diffID {
		return "", invalid("the digest of its content is %s, not %s as the image's configuration demands", diffID, c.diffID)
	}
	if c.digest != "" && got != c.digest {
		return "", invalid("its digest is %s, not %s", got, c.digest)
	}
	if packed != nil {
		if err := packed.Close(); err != nil {
			return "", err
		}
	}
	if keep != nil {
		return diffID, keep.finish(got, diffID)
	}
	return diffID, nil
}

// inflate copies the uncompressed content of raw to w, and reads raw to its end.
func inflate(w io.Writer, raw io.Reader) (digest.Digest, error) {
	plain, err := Decompress(raw)
	if err != nil {
		return "", err
	}
	defer plain.Close()
	sum := sha256.New()
	limited := &limitReader{plain, MaxLayerBytes, fmt.Sprintf("the uncompressed layer (at most %d bytes)", int64(MaxLayerBytes))}
	if _, err := io.CopyBuffer(io.MultiWriter(w, sum), limited, make([]byte, readBuffer)); err != nil {
		return "", err
	}
	if _, err := io.Copy(io.Discard, raw); err != nil { // what follows the compressed stream belongs to its digest
		return "", err
	}
	return digest.NewDigest(digest.SHA256, sum), nil
}

// meter counts, and hashes when it has a hash, what is read through it; tee, if any, gets it too.
type meter struct {
	r    io.Reader
	tee  io.Writer
	n    int64
	hash hash.Hash
	read func(int64)
}

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	if m.hash != nil {
		m.hash.Write(p[:n])
	}
	m.n += int64(n)
	m.read(m.n)
	if m.tee != nil && n > 0 {
		if _, failed := m.tee.Write(p[:n]); failed != nil {
			return n, failed
		}
	}
	return n, err
}

func (m *meter) sum() digest.Digest {
	if m.hash == nil {
		return ""
	}
	return digest.NewDigest(digest.SHA256, m.hash)
}
