package image

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/containervm/containervm/controller/internal/feed"
	"github.com/containervm/containervm/controller/internal/indexfile"
	"github.com/containervm/containervm/controller/internal/record"
	"github.com/containervm/containervm/controller/internal/vsphere"
)

// Paths on the datastore.
const (
	indexPath     = "cvm/images.json"
	layerDir      = "cvm/layers"
	diskSuffix    = ".vmdk"
	partialSuffix = ".partial.vmdk"
)

// Store is the images of one datastore. It is the only writer of the index and of the layers. All methods may be
// called by several goroutines. The package comment says who owns which state, and the order of the locks.
type Store struct {
	host Host
	log  *slog.Logger
	feed *feed.Feed

	index *indexfile.File[index]
	pins  *pins
	locks locks
	// transfers are shared by all pulls.
	transfers transfers
	slots     chan struct{} // one element for each unpacker VM
	loads     chan struct{} // one element for each archive that is being read
	pulls     chan struct{} // one element for each pull
	// unpackerIdle is how long an unpacker waits for layers of an image that are on their way.
	unpackerIdle time.Duration
}

// New opens the store of a host's datastore, tells events of it, and removes what an earlier controller left half done: unpacker VMs,
// disks of layers that never got their final name, and layers of images that were never complete. When there are layers but no
// index it fails, as a new index would make it delete them.
func New(ctx context.Context, host Host, events *feed.Feed, log *slog.Logger) (*Store, error) {
	s := &Store{host: host, log: log, feed: events, index: indexfile.New(host, indexFormat()), pins: newPins(), slots: make(chan struct{}, maxUnpackers), loads: make(chan struct{}, maxLoads), pulls: make(chan struct{}, maxPulls), unpackerIdle: maxUnpackerIdle}
	for _, dir := range []string{layerDir, blobDir} {
		if err := host.MakeDirectory(ctx, dir); err != nil {
			return nil, fmt.Errorf("cannot make the directory of layers: %w", err)
		}
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
	err := s.index.Open(ctx)
	if errdefs.IsNotFound(err) {
		return s.create(ctx)
	}
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", indexPath, err)
	}
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
	return s.index.Create(ctx)
}

// readAll reads all of r, which must not exceed limit bytes.
func readAll(r io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("it is larger than %d bytes", limit)
	}
	return data, err
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
	if err := s.dropLostBlobs(ctx); err != nil {
		return err
	}
	return s.index.Commit(ctx, func(x *index) error {
		x.dropUnreferenced(none)
		x.dropBlobs(none)
		return nil
	})
}

func none(digest.Digest) bool { return false }

// dropLostBlobs deletes the blobs that are not in the index, or will not be, and those that were never finished.
func (s *Store) dropLostBlobs(ctx context.Context) error {
	files, err := s.host.ListFiles(ctx, blobDir)
	if err != nil {
		return err
	}
	keep := s.index.Read().clone()
	keep.dropBlobs(none)
	for _, f := range files {
		if _, ok := keep.Blobs[blobOf(f)]; ok || blobOf(f).Validate() != nil && !strings.HasSuffix(f.Name, unfinished) {
			continue
		}
		s.log.Info("removing the blob of no image", "file", f.Name)
		if err := s.host.DeleteFile(ctx, blobDir+"/"+f.Name); err != nil {
			return err
		}
	}
	return nil
}

// dropLost deletes the disks that are not in the index, or will not be: partial ones, and layers of no image. Those that the
// index does not name go first, since no layer is above them, then the others, topmost first.
func (s *Store) dropLost(ctx context.Context) error {
	files, err := s.host.ListFiles(ctx, layerDir)
	if err != nil {
		return err
	}
	keep := s.index.Read().clone()
	turn := map[digest.Digest]int{}
	for i, chain := range keep.dropUnreferenced(none) {
		turn[chain] = i + 1
	}
	slices.SortFunc(files, func(a, b vsphere.FileInfo) int { return cmp.Compare(turn[chainOf(a)], turn[chainOf(b)]) })
	for _, f := range files {
		if _, ok := keep.Layers[chainOf(f)]; ok || !strings.HasSuffix(f.Name, diskSuffix) {
			continue
		}
		s.log.Info("removing the disk of no layer", "file", f.Name)
		if err := s.host.DeleteFile(ctx, layerDir+"/"+f.Name); err != nil {
			return err
		}
	}
	return nil
}

// chainOf is the chain ID that the name of a layer's disk says, which names no layer when the file is another.
func chainOf(f vsphere.FileInfo) digest.Digest {
	return digest.NewDigestFromEncoded(digest.SHA256, strings.TrimSuffix(f.Name, diskSuffix))
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
