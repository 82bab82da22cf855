package image

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// source is an image that is to come into the store.
type source struct {
	id     digest.Digest
	config []byte
	layers []content // one for each diff ID of config, lowest first
	tags   []string  // canonical
	digest string    // canonical name by digest; empty: none
	// manifest is what it came with, and mediaType its type; empty: it came with none.
	manifest  []byte
	mediaType string
	// unpacked is what all images of a load may cost together; nil: this one is alone.
	unpacked *allowance
}

// installation is a source on its way into the store.
type installation struct {
	s       *Store
	src     source
	chains  []digest.Digest
	say     wording
	tell    Progress
	u       *unpacker     // nil: every layer is unpacked, or the next one is on its way
	idle    time.Duration // how much longer an unpacker may wait for layers
	spend   []*allowance
	release []func() // of the blobs that are pinned
}

// install unpacks the layers of src that are not there, keeps their blobs, and makes it an image.
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
	defer s.pins.pin(append(slices.Clone(chains), src.id))()
	return s.installLocked(ctx, src, chains, say, p)
}

// installLocked is install by one who holds the image's lock and has pinned it and its chains.
func (s *Store) installLocked(ctx context.Context, src source, chains []digest.Digest, say wording, p Progress) error {
	if s.complete(src.id) {
		return s.addImage(ctx, src, chains, nil)
	}
	n := &installation{s: s, src: src, chains: chains, say: say, tell: p, idle: s.unpackerIdle}
	n.spend = []*allowance{newAllowance(MaxImageBytes, fmt.Sprintf("the image's layers have more than %d bytes, uncompressed", int64(MaxImageBytes)))}
	if src.unpacked != nil {
		n.spend = append(n.spend, src.unpacked)
	}
	defer n.close()
	if slices.ContainsFunc(chains, s.lacks) {
		u, err := s.startUnpacker(ctx)
		if err != nil {
			return err
		}
		n.u = u
	}
	blobs := make([]digest.Digest, len(chains))
	for i, c := range src.layers {
		var err error
		if blobs[i], err = n.layer(ctx, c, chains[:i+1]); err != nil {
			return fmt.Errorf("cannot unpack layer %s: %w", c.diffID, err)
		}
	}
	return s.addImage(ctx, src, chains, blobs)
}

// complete reports whether an image is there with all its blobs.
func (s *Store) complete(id digest.Digest) bool { return len(s.index.Read().Images[id].Manifest) > 0 }

func (n *installation) close() {
	if n.u != nil {
		n.u.close()
	}
	for _, release := range n.release {
		release()
	}
}

// hold pins a blob, and reports whether the store has it.
func (n *installation) hold(d, diffID digest.Digest) bool {
	if d == "" {
		return false
	}
	n.release = append(n.release, n.s.pins.pin([]digest.Digest{blobKey(d)}))
	return n.s.hasBlob(d, diffID)
}

// addImage makes src an image; its layers and blobs are there and pinned. blobs may be nil for an image that is complete.
func (s *Store) addImage(ctx context.Context, src source, chains, blobs []digest.Digest) error {
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
		if len(r.Manifest) == 0 {
			if err := x.describe(&r, src, blobs); err != nil {
				return err
			}
		}
		r.Removed = false
		if len(src.tags) > 0 {
			r.Tagged = time.Now().UTC()
		}
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

// describe gives an image its manifest: the one that it came with, if that says what there is.
func (x *index) describe(r *entry, src source, blobs []digest.Digest) error {
	if c, err := decodeConfig(r.Config); err != nil || len(c.RootFS.DiffIDs) != len(blobs) {
		return errors.Join(err, errNoLayer)
	}
	layers := make([]ocispec.Descriptor, len(blobs))
	for i, d := range blobs {
		b, ok := x.Blobs[d]
		if !ok {
			return errNoLayer
		}
		layers[i] = ocispec.Descriptor{MediaType: b.Type, Digest: d, Size: b.Size}
	}
	r.Blobs = blobs
	if r.Manifest, r.Type = src.manifest, src.mediaType; fits(src.manifest, r.Config, layers) {
		return nil
	}
	made := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Layers: layers,
		Config: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: src.id, Size: int64(len(r.Config))},
	}
	text, err := json.Marshal(made)
	if err != nil {
		return fmt.Errorf("cannot encode the image's manifest: %w", err)
	}
	r.Manifest, r.Type = text, made.MediaType
	return nil
}

// fits reports whether a manifest leads to a configuration and layers.
func fits(manifest, config []byte, layers []ocispec.Descriptor) bool {
	if len(manifest) == 0 {
		return false
	}
	m, err := decodeManifest(manifest)
	return err == nil && m.Config.Size == int64(len(config)) && slices.EqualFunc(m.Layers, layers, func(a, b ocispec.Descriptor) bool {
		return a.Digest == b.Digest && a.Size == b.Size
	})
}

func (s *Store) lacks(chain digest.Digest) bool {
	_, ok := s.index.Read().Layers[chain]
	return !ok
}

// layer unpacks the layer that completes chains, unless someone did so before or does it now, and keeps its blob. It returns the
// blob's digest; the blob is pinned.
func (n *installation) layer(ctx context.Context, c content, chains []digest.Digest) (digest.Digest, error) {
	s, chain := n.s, chains[len(chains)-1]
	unlock, err := s.locks.lock(ctx, chain)
	if err != nil {
		return "", err
	}
	defer unlock()
	there := s.index.Read().Layers[chain]
	known := cmp.Or(c.digest, there.Blob) // what is not promised may be what it was before
	kept, unpacked := n.hold(known, c.diffID), !s.lacks(chain)
	if kept && unpacked {
		return known, nil
	}
	k := &keeper{s: s}
	defer k.drop(ctx)
	if unpacked {
		_, err := c.copyTo(ctx, io.Discard, k, n.progress(c))
		if err != nil {
			return "", err
		}
		n.hold(k.digest, c.diffID)
		return k.digest, s.addBlob(ctx, k)
	}
	into := k
	if kept {
		into = nil
	}
	if err := n.await(ctx, c); err != nil {
		return "", err
	}
	partial, size, err := s.unpack(ctx, n.u, chains[:len(chains)-1], func(w io.Writer) error {
		_, err := c.copyTo(ctx, within(w, n.spend...), into, n.progress(c))
		return err
	})
	if err != nil {
		return "", err
	}
	if !kept {
		known = k.digest
		n.hold(known, c.diffID)
	}
	if err := s.addLayer(ctx, partial, chains, layer{Size: size, Blob: known}, into); err != nil {
		s.drop(ctx, partial)
		return "", err
	}
	if n.say.unpacked != "" {
		n.tell.status(c.id(), n.say.unpacked)
	}
	return known, nil
}

// await waits for a layer that is on its way. The unpacker, of which there are few, waits with it for a while; then others may have its place, and
// another one is started when the layer is there: who sends slowly keeps nobody else from unpacking.
func (n *installation) await(ctx context.Context, c content) (err error) {
	if c.arrived != nil && n.u != nil {
		began, enough := time.Now(), time.NewTimer(n.idle)
		defer enough.Stop()
		select {
		case <-c.arrived:
			n.idle -= time.Since(began)
		case <-enough.C:
			n.idle = 0
			n.u.close()
			n.u = nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if n.u != nil {
		return nil
	}
	if c.arrived != nil {
		select {
		case <-c.arrived:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	n.u, err = n.s.startUnpacker(ctx)
	return err
}

func (n *installation) progress(c content) func(int64) {
	return func(done int64) { n.tell.bytes(c.id(), n.say.unpacking, done, c.size) }
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

// addLayer gives a complete disk its final name and makes it a layer, and so with what k kept, unless that is nil. The caller holds the
// lock of the chain.
func (s *Store) addLayer(ctx context.Context, partial string, chains []digest.Digest, l layer, k *keeper) error {
	chain := chains[len(chains)-1]
	if len(chains) > 1 {
		l.Parent = chains[len(chains)-2]
	}
	if k != nil {
		unlock, err := s.locks.lock(ctx, blobKey(k.digest))
		if err != nil {
			return err
		}
		defer unlock()
		if err := k.name(ctx); err != nil {
			return err
		}
	}
	err := s.host.MoveFile(ctx, partial, diskPath(chain))
	if err != nil {
		err = fmt.Errorf("cannot give the disk its final name: %w", err)
	} else {
		err = s.index.Commit(ctx, func(x *index) error {
			x.Layers[chain] = l
			if k != nil {
				x.Blobs[k.digest] = k.blob
			}
			return nil
		})
		if err != nil {
			s.drop(ctx, diskPath(chain))
		}
	}
	if err != nil && k != nil && !s.hasBlob(k.digest, k.blob.DiffID) {
		s.drop(ctx, blobPath(k.digest))
	}
	return err
}

// drop deletes a file that will become no layer or blob, also when ctx has ended. A disk may have been
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
