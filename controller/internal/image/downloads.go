package image

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"github.com/opencontainers/go-digest"
)

// downloads fetches blobs into temporary files, maxDownloads at a time, in the order of their start.
type downloads struct {
	ctx   context.Context
	slots chan struct{}
	group sync.WaitGroup
	files []*os.File // guarded by mu
	mu    sync.Mutex
}

func newDownloads(ctx context.Context) *downloads {
	return &downloads{ctx: ctx, slots: make(chan struct{}, maxDownloads)}
}

// opener opens a blob of a registry.
type opener func(context.Context, digest.Digest) (io.ReadCloser, error)

// start begins to fetch a layer, and returns what waits for it and opens it.
func (d *downloads) start(c content, blob opener, p Progress) func(context.Context) (io.ReadCloser, error) {
	var f *os.File
	var err error
	done := make(chan struct{})
	d.group.Go(func() {
		defer close(done)
		select {
		case d.slots <- struct{}{}:
			defer func() { <-d.slots }()
			f, err = d.fetch(c, blob, p)
		case <-d.ctx.Done():
			err = context.Cause(d.ctx)
		}
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
	}
}

// fetch spools a layer of exactly c.size bytes and verifies its digest.
func (d *downloads) fetch(c content, blob opener, p Progress) (*os.File, error) {
	r, err := blob(d.ctx, c.digest)
	if err != nil {
		return nil, fmt.Errorf("cannot download it: %w", err)
	}
	defer r.Close()
	m := &meter{r: r, hash: sha256.New(), read: func(n int64) { p.bytes(c.id(), "Downloading", n, c.size) }}
	f, size, err := spool(m, c.size)
	if err != nil {
		return nil, fmt.Errorf("cannot download it: %w", err)
	}
	d.mu.Lock()
	d.files = append(d.files, f)
	d.mu.Unlock()
	if got := m.sum(); size != c.size || got != c.digest {
		return nil, invalid("the registry sent %d bytes with the digest %s, not %d with %s", size, got, c.size, c.digest)
	}
	p.status(c.id(), "Download complete")
	return f, nil
}

// wait waits until no download runs any more, and closes the files. It returns only when the context of the downloads has ended
// or all are fetched.
func (d *downloads) wait() {
	d.group.Wait()
	for _, f := range d.files {
		f.Close()
	}
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || (ip != nil && ip.IsLoopback())
}

func digestOf(canonical string) string {
	return canonical[len(repository(canonical))+1:]
}
