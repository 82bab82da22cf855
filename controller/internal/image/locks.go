package image

import (
	"context"
	"sync"

	"github.com/opencontainers/go-digest"
)

// locks are locks by digest: of a chain ID while its layer is unpacked or its file deleted, of an image ID while the image is
// installed. The package comment has their order.
type locks struct {
	mu   sync.Mutex
	held map[digest.Digest]chan struct{}
}

// lock waits until key is free or ctx ends.
func (l *locks) lock(ctx context.Context, key digest.Digest) (unlock func(), err error) {
	for {
		unlock, busy := l.tryLock(key)
		if busy == nil {
			return unlock, nil
		}
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// tryLock returns the way to unlock, or else a channel that is closed when the holder unlocks.
func (l *locks) tryLock(key digest.Digest) (unlock func(), busy <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if ch, ok := l.held[key]; ok {
		return nil, ch
	}
	if l.held == nil {
		l.held = map[digest.Digest]chan struct{}{}
	}
	free := make(chan struct{})
	l.held[key] = free
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.held, key)
		close(free)
	}, nil
}
