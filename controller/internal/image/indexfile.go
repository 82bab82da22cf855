package image

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// commitTimeout bounds the write of the index; it goes on when the client who caused it has left.
const commitTimeout = time.Minute

// indexFile is the index on the datastore, and the queue of changes to it. Nobody else writes the file.
//
// Readers have the last index that the datastore holds and wait for nobody. Of those who commit, one at a time has the turn:
// it applies all changes that wait, and uploads the result once. While it does, the changes of others queue up for the next
// turn.
type indexFile struct {
	files   Files
	holds   atomic.Pointer[index] // what the datastore holds; replaced whole, by the one who has the turn
	turn    chan struct{}         // has an element while someone has the turn
	mu      sync.Mutex            // guards waiting; nothing else is locked, and nobody waits, while it is held
	waiting []*update
}

// update is a commit that waits, or is being written.
type update struct {
	apply func(*index) error
	done  chan struct{} // closed when err is set
	err   error
}

func newIndexFile(files Files) *indexFile {
	return &indexFile{files: files, turn: make(chan struct{}, 1)}
}

// open reads the file. The error is of class errdefs.ErrNotFound when there is none.
func (f *indexFile) open(ctx context.Context) error {
	r, err := f.files.Download(ctx, indexPath)
	if err != nil {
		return err
	}
	defer r.Close()
	data, err := readAll(r, MaxIndexBytes)
	if err != nil {
		return err
	}
	x, err := decodeIndex(data)
	if err != nil {
		return err
	}
	f.holds.Store(x)
	return nil
}

// create writes the first index.
func (f *indexFile) create(ctx context.Context) error {
	f.holds.Store(newIndex())
	return f.commit(ctx, func(*index) error { return nil })
}

// read returns what the datastore holds. It must not be changed.
func (f *indexFile) read() *index { return f.holds.Load() }

// commit changes the index: on the datastore first, then for readers. When apply or the write fails, it changes nothing for
// readers. apply is called once, perhaps by another goroutine that commits; it must wait for nothing, as all who commit wait
// for it. It sees the changes before it that are written together with its own, and fails with them when the write does.
func (f *indexFile) commit(ctx context.Context, apply func(*index) error) error {
	c := &update{apply: apply, done: make(chan struct{})}
	f.mu.Lock()
	f.waiting = append(f.waiting, c)
	f.mu.Unlock()
	select {
	case <-c.done:
	case f.turn <- struct{}{}:
		f.write(ctx, f.take())
		<-f.turn
	}
	return c.err
}

func (f *indexFile) take() []*update {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := f.waiting
	f.waiting = nil
	return all
}

// write applies updates and uploads the result. The caller has the turn.
func (f *indexFile) write(ctx context.Context, updates []*update) {
	next := f.read()
	var applied []*update
	for _, c := range updates {
		trial := next.clone() // a change that fails may have begun
		if c.err = c.apply(trial); c.err == nil {
			next, applied = trial, append(applied, c)
		}
	}
	if len(applied) > 0 {
		err := f.upload(ctx, next)
		if err == nil {
			f.holds.Store(next)
		}
		for _, c := range applied {
			c.err = err
		}
	}
	for _, c := range updates {
		close(c.done)
	}
}

func (f *indexFile) upload(ctx context.Context, x *index) error {
	data, err := json.Marshal(x)
	if err != nil {
		return fmt.Errorf("cannot encode the image index: %w", err)
	}
	if len(data) > MaxIndexBytes {
		return fmt.Errorf("cannot write the image index: it would be larger than %d bytes; remove images", MaxIndexBytes)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitTimeout)
	defer cancel()
	if err := f.files.Upload(ctx, indexPath, bytes.NewReader(data)); err != nil {
		return fmt.Errorf("cannot write the image index: %w", err)
	}
	return nil
}
