package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/containervm/containervm/controller/internal/record"
)

// Paths on the datastore.
const (
	indexPath     = "cvm/images.json"
	layerDir      = "cvm/layers"
	diskSuffix    = ".vmdk"
	partialSuffix = ".partial.vmdk"
)

// commitTimeout bounds the write of the index; it goes on when the client who caused it has left.
const commitTimeout = time.Minute

// Store is the images of one datastore. It is the only writer of the index and of the layers. All methods may be
// called by several goroutines.
type Store struct {
	host Host
	log  *slog.Logger

	index    atomic.Pointer[index] // what the datastore holds; replaced whole, by commit alone
	commitMu sync.Mutex            // one commit at a time; guards pins
	pins     map[digest.Digest]int // chain and image IDs that something in progress relies on

	locks locks
	slots chan struct{} // one element for each unpacker VM
}

// New opens the store of a host's datastore, and removes what an earlier controller left half done: unpacker VMs,
// disks of layers that were never frozen, and layers of images that never got whole. It fails rather than begins anew
// when there are layers without an index.
func New(ctx context.Context, host Host, log *slog.Logger) (*Store, error) {
	s := &Store{host: host, log: log, pins: map[digest.Digest]int{}, slots: make(chan struct{}, maxUnpackers)}
	if err := host.MakeDirectory(ctx, layerDir); err != nil {
		return nil, fmt.Errorf("cannot make the directory of layers: %w", err)
	}
	if err := s.open(ctx); err != nil {
		return nil, fmt.Errorf("cannot open the image store: %w", err)
	}
	if err := s.sweep(ctx); err != nil {
		return nil, fmt.Errorf("cannot clean up the image store: %w", err)
	}
	return s, nil
}

func (s *Store) open(ctx context.Context) error {
	x, err := readIndex(ctx, s.host)
	if errdefs.IsNotFound(err) {
		return s.create(ctx)
	}
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", indexPath, err)
	}
	s.index.Store(x)
	return nil
}

// create writes the first index, so that a missing one always means that something went wrong.
func (s *Store) create(ctx context.Context) error {
	files, err := s.host.ListFiles(ctx, layerDir)
	if err != nil {
		return err
	}
	for _, f := range files {
		if strings.HasSuffix(f.Name, diskSuffix) && !strings.HasSuffix(f.Name, partialSuffix) {
			return fmt.Errorf("%s is missing, but there are layers in %s: restore it, or remove them if no container needs them", indexPath, layerDir)
		}
	}
	s.index.Store(newIndex())
	return s.commit(ctx, func(*index) error { return nil })
}

func readIndex(ctx context.Context, files Files) (*index, error) {
	r, err := files.Download(ctx, indexPath)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, err := readAll(r, MaxIndexBytes)
	if err != nil {
		return nil, err
	}
	return decodeIndex(data)
}

// readAll reads all of r, which must not exceed limit bytes.
func readAll(r io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("it is larger than %d bytes", limit)
	}
	return data, err
}

// commit changes the index: on the datastore first, then for readers. When change or the write fails nothing is
// changed for readers.
func (s *Store) commit(ctx context.Context, change func(*index) error) error {
	s.commitMu.Lock()
	defer s.commitMu.Unlock()
	return s.commitLocked(ctx, change)
}

func (s *Store) commitLocked(ctx context.Context, change func(*index) error) error {
	next := s.index.Load().clone()
	if err := change(next); err != nil {
		return err
	}
	data, err := json.Marshal(next)
	if err != nil {
		return fmt.Errorf("cannot encode the image index: %w", err)
	}
	if len(data) > MaxIndexBytes {
		return fmt.Errorf("cannot write the image index: it would be larger than %d bytes; remove images", MaxIndexBytes)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitTimeout)
	defer cancel()
	if err := s.host.Upload(ctx, indexPath, bytes.NewReader(data)); err != nil {
		return fmt.Errorf("cannot write the image index: %w", err)
	}
	s.index.Store(next)
	return nil
}

// pin keeps layers and images from being deleted until release is called. It waits for a deletion that is decided.
func (s *Store) pin(keys []digest.Digest) (release func()) {
	s.commitMu.Lock()
	defer s.commitMu.Unlock()
	return s.pinLocked(keys)
}

func (s *Store) pinLocked(keys []digest.Digest) (release func()) {
	for _, k := range keys {
		s.pins[k]++
	}
	return sync.OnceFunc(func() {
		s.commitMu.Lock()
		defer s.commitMu.Unlock()
		for _, k := range keys {
			if s.pins[k]--; s.pins[k] == 0 {
				delete(s.pins, k)
			}
		}
	})
}

// sweep removes what no index entry names. It runs before anything is in progress.
func (s *Store) sweep(ctx context.Context) error {
	for _, vm := range s.host.VMs() {
		if vm.Extra[record.KeyRole] == record.RoleUnpacker {
			s.log.Info("removing an unpacker of an earlier run", "vm", vm.Name)
			if err := s.destroy(ctx, vm.Ref); err != nil {
				return err
			}
		}
	}
	if err := s.dropLost(ctx); err != nil {
		return err
	}
	return s.commit(ctx, func(x *index) error {
		x.dropUnreferenced(func(digest.Digest) bool { return false })
		return nil
	})
}

// dropLost deletes the disks that are not in the index, or will not be: partial ones, and layers of no image.
func (s *Store) dropLost(ctx context.Context) error {
	files, err := s.host.ListFiles(ctx, layerDir)
	if err != nil {
		return err
	}
	keep := s.index.Load().clone()
	keep.dropUnreferenced(func(digest.Digest) bool { return false })
	for _, f := range files {
		chain := digest.NewDigestFromEncoded(digest.SHA256, strings.TrimSuffix(f.Name, diskSuffix))
		if _, ok := keep.Layers[chain]; ok || !strings.HasSuffix(f.Name, diskSuffix) {
			continue
		}
		s.log.Info("removing the disk of no layer", "file", f.Name)
		if err := s.host.DeleteFile(ctx, layerDir+"/"+f.Name); err != nil {
			return err
		}
	}
	return nil
}

// diskOf is the datastore path of the topmost of chains, or of the blank disk.
func (s *Store) diskOf(chains []digest.Digest) string {
	if len(chains) == 0 {
		return s.host.Boot().Blank
	}
	return diskPath(chains[len(chains)-1])
}

func diskPath(chain digest.Digest) string { return layerDir + "/" + chain.Encoded() + diskSuffix }

var errNoLayer = errors.New("a layer of the image was deleted meanwhile; try again")
