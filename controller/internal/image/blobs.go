package image

import (
	"context"
	"crypto/rand"
	"fmt"
	"hash"
	"io"
	"path"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/containervm/containervm/controller/internal/vsphere"
)

// blobDir is where the layers' bytes are kept as they came, by their digests. What has the suffix is not complete.
const (
	blobDir       = "cvm/blobs/sha256"
	unfinished    = ".partial"
	blobKeyPrefix = "blob:"
)

// blob is the tar of a layer, perhaps compressed, as a file of the datastore that nothing writes to any more.
type blob struct {
	Size   int64         `json:"size"`   // bytes of the file
	Type   string        `json:"type"`   // OCI media type
	DiffID digest.Digest `json:"diffID"` // of what is in it
}

func blobPath(d digest.Digest) string { return blobDir + "/" + d.Encoded() }

// blobKey is a blob's key for locks and pins: a chain ID may be the same digest.
func blobKey(d digest.Digest) digest.Digest { return blobKeyPrefix + d }

// blobOf is the digest that a file's name says, which is no blob's when the file is another.
func blobOf(f vsphere.FileInfo) digest.Digest {
	return digest.NewDigestFromEncoded(digest.SHA256, f.Name)
}

// keeper takes a layer's bytes and writes them to the datastore while someone else reads them too. It has one user at a time, who
// ends it by drop in any case.
type keeper struct {
	s       *Store
	partial string // path of the file until it has its name; empty: it was never begun, or it has its name
	cancel  context.CancelFunc
	pipe    *io.PipeWriter
	done    chan error // has the end of the upload
	blob    blob
	digest  digest.Digest // set by finish
	hash    hash.Hash     // nil: who writes knows the digest
}

// begin starts the upload of bytes of a media type.
func (k *keeper) begin(ctx context.Context, mediaType string, hash hash.Hash) {
	r, w := io.Pipe()
	ctx, k.cancel = context.WithCancel(ctx)
	k.partial, k.pipe, k.hash = path.Join(blobDir, strings.ToLower(rand.Text())+unfinished), w, hash
	k.blob, k.done = blob{Type: mediaType}, make(chan error, 1)
	go func(partial string) {
		err := k.s.host.Upload(ctx, partial, r)
		if err != nil {
			r.CloseWithError(fmt.Errorf("cannot keep the layer: %w", err)) // whoever writes is told
		}
		k.done <- err
	}(k.partial)
}

func (k *keeper) Write(p []byte) (int, error) {
	n, err := k.pipe.Write(p)
	k.blob.Size += int64(n)
	if k.hash != nil {
		k.hash.Write(p[:n])
	}
	return n, err
}

// finish says that all is written, and waits for the upload. known is the digest if there is no hash.
func (k *keeper) finish(known, diffID digest.Digest) error {
	k.pipe.Close()
	err := <-k.done
	k.done = nil
	k.cancel()
	if err != nil {
		return fmt.Errorf("cannot keep the layer: %w", err)
	}
	k.digest, k.blob.DiffID = known, diffID
	if k.hash != nil {
		k.digest = digest.NewDigest(digest.SHA256, k.hash)
	}
	return nil
}

// drop ends an upload that was not finished, and deletes what did not become a blob, also when ctx has ended.
func (k *keeper) drop(ctx context.Context) {
	if k.partial == "" {
		return
	}
	k.pipe.CloseWithError(context.Canceled)
	k.cancel()
	if k.done != nil {
		<-k.done
		k.done = nil
	}
	k.s.drop(ctx, k.partial)
	k.partial = ""
}

// name gives the finished blob its name, unless it is there. The caller holds the lock of its key, and adds it to the index.
func (k *keeper) name(ctx context.Context) error {
	if k.s.hasBlob(k.digest, k.blob.DiffID) {
		return nil
	}
	if err := k.s.host.MoveFile(ctx, k.partial, blobPath(k.digest)); err != nil {
		return fmt.Errorf("cannot give the layer's blob its name: %w", err)
	}
	k.partial = ""
	return nil
}

func (s *Store) hasBlob(d, diffID digest.Digest) bool {
	b, ok := s.index.Read().Blobs[d]
	return ok && b.DiffID == diffID
}

// addBlob makes a finished blob part of the index, alone.
func (s *Store) addBlob(ctx context.Context, k *keeper) error {
	unlock, err := s.locks.lock(ctx, blobKey(k.digest))
	if err != nil {
		return err
	}
	defer unlock()
	if s.hasBlob(k.digest, k.blob.DiffID) {
		return nil
	}
	if err := k.name(ctx); err != nil {
		return err
	}
	err = s.index.Commit(ctx, func(x *index) error {
		x.Blobs[k.digest] = k.blob
		return nil
	})
	if err != nil {
		s.drop(ctx, blobPath(k.digest))
	}
	return err
}

// openBlob reads a blob of the datastore.
func (s *Store) openBlob(ctx context.Context, d digest.Digest) (io.ReadCloser, error) {
	r, err := s.host.Download(ctx, blobPath(d))
	if err != nil {
		return nil, fmt.Errorf("cannot read the blob %s: %w", d, err)
	}
	return r, nil
}

// mediaTypeOf is that of a layer by how it is compressed; empty: what is compressed so has no place in an image.
func mediaTypeOf(c compression) string {
	switch c {
	case uncompressed:
		return ocispec.MediaTypeImageLayer
	case byGzip:
		return ocispec.MediaTypeImageLayerGzip
	case byZstd:
		return ocispec.MediaTypeImageLayerZstd
	}
	return ""
}
