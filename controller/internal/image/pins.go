package image

import (
	"maps"
	"sync"

	"github.com/opencontainers/go-digest"
)

// pins are the layers (by chain ID) and images (by ID) that something in progress relies on, and those that are being
// deleted: none is both. Its lock is held for no longer than it takes to look.
type pins struct {
	mu       sync.Mutex
	count    map[digest.Digest]int       // above zero
	deleting map[digest.Digest]*deletion // from the choice to the commit's end
}

// deletion is what one commit deletes from the index.
type deletion struct {
	p     *pins
	ended chan struct{}
}

func newPins() *pins {
	return &pins{count: map[digest.Digest]int{}, deleting: map[digest.Digest]*deletion{}}
}

// pin keeps keys from being deleted until release is called, which may be called again. It waits for the end of a commit that
// deletes one of them: the layer is in the index then if that failed.
func (p *pins) pin(keys []digest.Digest) (release func()) {
	release, _ = p.pinFound(func() ([]digest.Digest, error) { return keys, nil })
	return release
}

// pinFound is pin of what find returns. It calls find anew after it has waited; find must look only, as it holds the lock.
func (p *pins) pinFound(find func() ([]digest.Digest, error)) (release func(), err error) {
	for {
		release, busy, err := p.tryPin(find)
		if busy == nil {
			return release, err
		}
		<-busy // at most indexfile.CommitTimeout for each of two commits
	}
}

// tryPin returns a channel that is closed when a deletion has ended, if that is in the way.
func (p *pins) tryPin(find func() ([]digest.Digest, error)) (release func(), busy <-chan struct{}, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	keys, err := find()
	if err != nil {
		return nil, nil, err
	}
	for _, k := range keys {
		if d := p.deleting[k]; d != nil {
			return nil, d.ended, nil
		}
	}
	for _, k := range keys {
		p.count[k]++
	}
	return sync.OnceFunc(func() { p.release(keys) }), nil, nil
}

func (p *pins) release(keys []digest.Digest) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, k := range keys {
		if p.count[k]--; p.count[k] == 0 {
			delete(p.count, k)
		}
	}
}

// newDeletion begins a deletion; the caller must call end.
func (p *pins) newDeletion() *deletion { return &deletion{p: p, ended: make(chan struct{})} }

// choose makes a key part of the deletion; false: it is pinned, or part of another deletion.
func (d *deletion) choose(key digest.Digest) bool {
	d.p.mu.Lock()
	defer d.p.mu.Unlock()
	if d.p.count[key] > 0 || d.p.deleting[key] != nil {
		return false
	}
	d.p.deleting[key] = d
	return true
}

// spare takes a key out of the deletion.
func (d *deletion) spare(key digest.Digest) {
	d.p.mu.Lock()
	defer d.p.mu.Unlock()
	delete(d.p.deleting, key)
}

// end says that the commit has ended: its keys may be pinned, and are in the index no more unless it failed.
func (d *deletion) end() {
	d.p.mu.Lock()
	defer d.p.mu.Unlock()
	maps.DeleteFunc(d.p.deleting, func(_ digest.Digest, of *deletion) bool { return of == d })
	close(d.ended)
}
