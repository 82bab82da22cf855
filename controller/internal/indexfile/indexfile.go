// Package indexfile keeps a small file of the datastore that one controller alone writes, and the queue of changes to it: the
// images, the networks, the volumes.
package indexfile

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// CommitTimeout bounds the write of an index; it goes on when the client who caused it has left.
const CommitTimeout = time.Minute

// Files reads and writes the datastore; paths are relative to its root. Upload replaces a file at once or not at all. The error
// of Download is of class errdefs.ErrNotFound when there is no such file.
type Files interface {
	Upload(ctx context.Context, path string, r io.Reader) error
	Download(ctx context.Context, path string) (io.ReadCloser, error)
}

// Format says where an index is and how it is read and written. All fields are needed.
type Format[T any] struct {
	Path   string // of the file
	Name   string // for people: "the image index"
	Max    int64  // bytes of the file
	Remedy string // for people, when it would be larger: "remove images"
	New    func() *T
	Clone  func(*T) *T // a value that can be changed while the one it was made of is read
	Decode func([]byte) (*T, error)
}

// File is an index on the datastore, which is JSON, and the queue of changes to it. Nobody else writes the file.
//
// Readers have the last index that the datastore holds and wait for nobody. Of those who commit, one at a time has the turn:
// it applies all changes that wait, and uploads the result once. While it does, the changes of others queue up for the next
// turn.
type File[T any] struct {
	files   Files
	format  Format[T]
	holds   atomic.Pointer[T] // what the datastore holds; replaced whole, by the one who has the turn
	turn    chan struct{}     // has an element while someone has the turn
	mu      sync.Mutex        // guards waiting; nothing else is locked, and nobody waits, while it is held
	waiting []*update[T]
}

// update is a commit that waits, or is being written.
type update[T any] struct {
	apply func(*T) error
	done  chan struct{} // closed when err is set
	err   error
}

// New returns a file that is to be opened, or created.
func New[T any](files Files, format Format[T]) *File[T] {
	return &File[T]{files: files, format: format, turn: make(chan struct{}, 1)}
}

// Open reads the file. The error is of class errdefs.ErrNotFound when there is none.
func (f *File[T]) Open(ctx context.Context) error {
	r, err := f.files.Download(ctx, f.format.Path)
	if err != nil {
		return err
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, f.format.Max+1))
	if err != nil {
		return err
	}
	if int64(len(data)) > f.format.Max {
		return fmt.Errorf("it is larger than %d bytes", f.format.Max)
	}
	x, err := f.format.Decode(data)
	if err != nil {
		return err
	}
	f.holds.Store(x)
	return nil
}

// Create writes the first index.
func (f *File[T]) Create(ctx context.Context) error {
	f.holds.Store(f.format.New())
	return f.Commit(ctx, func(*T) error { return nil })
}

// Read returns what the datastore holds. It must not be changed.
func (f *File[T]) Read() *T { return f.holds.Load() }

// Commit changes the index: on the datastore first, then for readers. When apply or the write fails, it changes nothing for
// readers. apply is called once, perhaps by another goroutine that commits; it must wait for nothing, as all who commit wait
// for it. It sees the changes before it that are written together with its own, and fails with them when the write does.
func (f *File[T]) Commit(ctx context.Context, apply func(*T) error) error {
	c := &update[T]{apply: apply, done: make(chan struct{})}
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

func (f *File[T]) take() []*update[T] {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := f.waiting
	f.waiting = nil
	return all
}

// write applies updates and uploads the result. The caller has the turn.
func (f *File[T]) write(ctx context.Context, updates []*update[T]) {
	next := f.Read()
	var applied []*update[T]
	for _, c := range updates {
		trial := f.format.Clone(next) // a change that fails may have begun
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

func (f *File[T]) upload(ctx context.Context, x *T) error {
	data, err := json.Marshal(x)
	if err != nil {
		return fmt.Errorf("cannot encode %s: %w", f.format.Name, err)
	}
	if int64(len(data)) > f.format.Max {
		return fmt.Errorf("cannot write %s: it would be larger than %d bytes; %s", f.format.Name, f.format.Max, f.format.Remedy)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), CommitTimeout)
	defer cancel()
	if err := f.files.Upload(ctx, f.format.Path, bytes.NewReader(data)); err != nil {
		return fmt.Errorf("cannot write %s: %w", f.format.Name, err)
	}
	return nil
}
