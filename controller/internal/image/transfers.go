package image

import (
	"context"
	"os"
	"sync"

	"github.com/opencontainers/go-digest"
)

// transfers are the blobs that pulls are downloading, or have downloaded and still need: several pulls of different images that want the
// same blob at a time make one download. Its zero value has none.
type transfers struct {
	mu     sync.Mutex // held for no longer than it takes to look
	active map[digest.Digest]*transfer
}

// transfer is one download. It is that of the pull which began it, with its credentials; when that fails, the next one tries by itself.
type transfer struct {
	done  chan struct{} // closed when file and err are set
	file  *os.File
	err   error
	users int // guarded by the lock of transfers; the last one closes the file
}

// get returns the file of a blob, by fetch unless another pull fetches it; waits is called before that is waited for. The caller calls release
// when it needs the file no more.
func (t *transfers) get(ctx context.Context, blob digest.Digest, waits func(), fetch func() (*os.File, error)) (f *os.File, release func(), err error) {
	for {
		x, mine := t.join(blob)
		if mine {
			x.file, x.err = fetch()
			close(x.done)
		} else {
			waits()
		}
		select {
		case <-x.done:
			err = x.err
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
		if err == nil {
			return x.file, sync.OnceFunc(func() { t.leave(blob, x) }), nil
		}
		t.leave(blob, x)
		if mine || ctx.Err() != nil {
			return nil, nil, err
		}
	}
}

// join takes part in a blob's transfer, which it begins if there is none.
func (t *transfers) join(blob digest.Digest) (x *transfer, mine bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	x = t.active[blob]
	if mine = x == nil; mine {
		x = &transfer{done: make(chan struct{})}
		if t.active == nil {
			t.active = map[digest.Digest]*transfer{}
		}
		t.active[blob] = x
	}
	x.users++
	return x, mine
}

// leave takes no more part. Nobody joins a transfer that failed, or that nobody needs.
func (t *transfers) leave(blob digest.Digest, x *transfer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	x.users--
	failed := false
	select {
	case <-x.done:
		failed = x.err != nil
	default:
	}
	if (failed || x.users == 0) && t.active[blob] == x {
		delete(t.active, blob)
	}
	if x.users == 0 && x.file != nil {
		x.file.Close()
	}
}
