package image

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// source is an image that is to come into the store.
type source struct {
	id     digest.Digest
	config []byte
	layers []content // one for each diff ID of config, lowest first
	tags   []string  // canonical
	digest string    // canonical name by digest; empty: none
}

// install unpacks the layers of src that are not there and makes it an image.
func (s *Store) install(ctx context.Context, src source, say wording, p Progress) error {
	chains, err := chainIDs(src.config)
	if err != nil {
		return err
	}
	unlock, err := s.locks.lock(ctx, src.id)
	if err != nil {
		return err
	}
	defer unlock()
	defer s.pins.pin(chains)()
	return s.installLocked(ctx, src, chains, say, p)
}

// installLocked is install by one who holds the image's lock and has pinned its chains.
func (s *Store) installLocked(ctx context.Context, src source, chains []digest.Digest, say wording, p Progress) error {
	if err := s.ensure(ctx, src.layers, chains, say, p); err != nil {
		return err
	}
	return s.addImage(ctx, src, chains)
}

// addImage makes src an image; its layers are there and pinned.
func (s *Store) addImage(ctx context.Context, src source, chains []digest.Digest) error {
	return s.index.Commit(ctx, func(x *index) error {
		for _, c := range chains {
			if _, ok := x.Layers[c]; !ok {
				return errNoLayer
			}
		}
		r, known := x.Images[src.id]
		if !known {
			r = entry{Config: src.config, Loaded: time.Now().UTC()}
		}
		r.Removed = false
		x.Images[src.id] = r
		for _, tag := range src.tags {
			x.Tags[tag] = src.id
		}
		if src.digest != "" {
			x.Digests[src.digest] = src.id
		}
		return nil
	})
}

// ensure unpacks those of the layers, lowest first, whose chain IDs the store does not have.
func (s *Store) ensure(ctx context.Context, layers []content, chains []digest.Digest, say wording, p Progress) error {
	if !slices.ContainsFunc(chains, s.lacks) {
		return nil
	}
	u, err := s.startUnpacker(ctx)
	if err != nil {
		return err
	}
	defer u.close()
	for i, c := range layers {
		if err := s.ensureLayer(ctx, u, c, chains[:i+1], say, p); err != nil {
			return fmt.Errorf("cannot unpack layer %s: %w", c.diffID, err)
		}
	}
	return nil
}

func (s *Store) lacks(chain digest.Digest) bool {
	_, ok := s.index.Read().Layers[chain]
	return !ok
}

// ensureLayer unpacks the layer that completes chains, unless someone did so before or does it now.
func (s *Store) ensureLayer(ctx context.Context, u *unpacker, c content, chains []digest.Digest, say wording, p Progress) error {
	chain := chains[len(chains)-1]
	unlock, err := s.locks.lock(ctx, chain)
	if err != nil {
		return err
	}
	defer unlock()
	if !s.lacks(chain) {
		return nil
	}
	partial, size, err := s.unpack(ctx, u, chains[:len(chains)-1], func(w io.Writer) error {
		_, err := c.copyTo(ctx, w, func(n int64) { p.bytes(c.id(), say.unpacking, n, c.size) })
		return err
	})
	if err != nil {
		return err
	}
	if err := s.addLayer(ctx, partial, chains, size); err != nil {
		s.drop(ctx, partial)
		return err
	}
	if say.unpacked != "" {
		p.status(c.id(), say.unpacked)
	}
	return nil
}

// unpack extracts the tar that feed writes to a new disk above parents. When it fails there is no disk.
func (s *Store) unpack(ctx context.Context, u *unpacker, parents []digest.Digest, feed func(io.Writer) error) (partial string, size int64, err error) {
	partial = fmt.Sprintf("%s/%s-%d%s", layerDir, u.name, len(parents), partialSuffix)
	began := time.Now()
	res, err := u.extract(ctx, partial, s.diskOf(parents), feed)
	if err != nil {
		u.close()
		s.drop(ctx, partial)
		return "", 0, err
	}
	s.log.Info("unpacked a layer", "vm", u.name, "entries", res.Entries, "bytes", res.Bytes,
		"took", time.Since(began), "inGuest", time.Duration(res.Micros)*time.Microsecond)
	return partial, int64(res.Bytes), nil
}

// addLayer gives a complete disk its final name and makes it a layer. The caller holds the lock of the chain.
func (s *Store) addLayer(ctx context.Context, partial string, chains []digest.Digest, size int64) error {
	chain, l := chains[len(chains)-1], layer{Size: size}
	if len(chains) > 1 {
		l.Parent = chains[len(chains)-2]
	}
	if err := s.host.MoveFile(ctx, partial, diskPath(chain)); err != nil {
		return fmt.Errorf("cannot give the disk its final name: %w", err)
	}
	err := s.index.Commit(ctx, func(x *index) error {
		x.Layers[chain] = l
		return nil
	})
	if err != nil {
		s.drop(ctx, diskPath(chain))
	}
	return err
}

// drop deletes a disk that will not become a layer, also when ctx has ended. It may have been
// destroyed with the unpacker that it was attached to.
func (s *Store) drop(ctx context.Context, partial string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), destroyTimeout)
	defer cancel()
	if _, err := s.host.Stat(ctx, partial); errdefs.IsNotFound(err) {
		return
	}
	if err := s.host.DeleteFile(ctx, partial); err != nil {
		s.log.Error("a partial layer is left behind; the next start removes it", "file", partial, "err", err)
	}
}
