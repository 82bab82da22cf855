package image

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/opencontainers/go-digest"
)

const (
	// maxAttempts is how many times a download is begun or resumed; Docker's default is the same (moby, daemon/config:
	// DefaultDownloadAttempts).
	maxAttempts = 5
	// firstPause is the pause after the first attempt; each further one is twice as long.
	firstPause = 500 * time.Millisecond
)

// downloads fetches the blobs of one pull into temporary files, maxDownloads at a time, in the order of their start.
type downloads struct {
	ctx      context.Context
	shared   *transfers
	blob     opener
	say      Progress
	slots    chan struct{}
	group    sync.WaitGroup
	mu       sync.Mutex
	releases []func() // of transfers; guarded by mu
}

// opener opens a blob of size bytes at an offset.
type opener func(ctx context.Context, d digest.Digest, offset, size int64) (io.ReadCloser, error)

func newDownloads(ctx context.Context, shared *transfers, blob opener, p Progress) *downloads {
	return &downloads{ctx: ctx, shared: shared, blob: blob, say: p, slots: make(chan struct{}, maxDownloads)}
}

// start begins to fetch a layer, and returns what waits for it and opens it, and what says that it has come, or will not.
func (d *downloads) start(c content) (open func(context.Context) (io.ReadCloser, error), arrived <-chan struct{}) {
	var f *os.File
	var err error
	done := make(chan struct{})
	d.group.Go(func() {
		defer close(done)
		var release func()
		f, release, err = d.shared.get(d.ctx, c.digest, func() { d.say.status(c.id(), "Waiting") }, func() (*os.File, error) { return d.fetch(c) })
		if err != nil {
			return
		}
		d.say.status(c.id(), "Download complete")
		d.mu.Lock()
		defer d.mu.Unlock()
		d.releases = append(d.releases, release)
	})
	return func(ctx context.Context) (io.ReadCloser, error) {
		select {
		case <-done:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		if err != nil {
			return nil, err
		}
		return io.NopCloser(io.NewSectionReader(f, 0, c.size)), nil
	}, done
}

// fetch waits for a free slot, downloads a layer of exactly c.size bytes to a file and verifies its digest.
func (d *downloads) fetch(c content) (_ *os.File, err error) {
	select {
	case d.slots <- struct{}{}:
		defer func() { <-d.slots }()
	case <-d.ctx.Done():
		return nil, context.Cause(d.ctx)
	}
	f, err := tempFile(os.TempDir())
	if err != nil {
		return nil, fmt.Errorf("cannot download it: %w", err)
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	got := &fetched{Writer: &sparing{file: f}, hash: sha256.New()}
	if err := d.complete(got, c); err != nil {
		return nil, fmt.Errorf("cannot download it: %w", err)
	}
	if sum := digest.NewDigest(digest.SHA256, got.hash); sum != c.digest {
		return nil, invalid("cannot download it: verifying sha256 digest: the registry sent %s, not %s", sum, c.digest)
	}
	return f, nil
}

// complete makes attempts until all bytes are there. Each goes on where the one before was cut off.
func (d *downloads) complete(got *fetched, c content) error {
	pause := firstPause
	for attempt := 1; ; attempt++ {
		err := d.resume(got, c)
		if err == nil || attempt == maxAttempts || !errors.As(err, new(cutOff)) {
			return err
		}
		d.say.status(c.id(), "Retrying")
		select {
		case <-time.After(pause):
			pause *= 2
		case <-d.ctx.Done():
			return context.Cause(d.ctx)
		}
	}
}

// resume fetches the bytes that are missing. An error is a cutOff if another attempt may get further.
func (d *downloads) resume(got *fetched, c content) error {
	r, err := d.blob(d.ctx, c.digest, got.n, c.size)
	if err != nil {
		if got.n > 0 && mayPass(err) {
			return cutOff{err}
		}
		return err
	}
	defer r.Close()
	in := &input{r: r}
	m := &meter{r: in, n: got.n, read: func(n int64) { d.say.bytes(c.id(), "Downloading", n, c.size) }}
	_, err = io.Copy(got, io.LimitReader(m, c.size-got.n+1))
	switch {
	case got.n > c.size:
		return invalid("it is larger than %d bytes", c.size)
	case in.err != nil:
		return cutOff{in.err}
	case err == nil && got.n < c.size:
		return cutOff{io.ErrUnexpectedEOF}
	}
	return err
}

// mayPass reports whether a registry that could not be asked to go on, or would not, may do so later.
func mayPass(err error) bool {
	var refused *transport.Error
	if errors.As(err, &refused) {
		return refused.Temporary()
	}
	return !errdefs.IsInvalidArgument(err)
}

// cutOff is the error of an attempt that the network or the registry ended early.
type cutOff struct{ error }

func (c cutOff) Unwrap() error { return c.error }

// fetched is what there is of a blob.
type fetched struct {
	io.Writer
	hash hash.Hash
	n    int64
}

func (f *fetched) Write(p []byte) (int, error) {
	n, err := f.Writer.Write(p)
	f.hash.Write(p[:n])
	f.n += int64(n)
	return n, err
}

// wait waits until no download runs any more, and lets the files go. It returns only when the context of the downloads has ended
// or all are fetched.
func (d *downloads) wait() {
	d.group.Wait()
	for _, release := range d.releases {
		release()
	}
}
