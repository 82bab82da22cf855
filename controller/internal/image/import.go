package image

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/events"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// ImportOptions say what becomes of an imported root file system.
type ImportOptions struct {
	Name    string   // reference; empty: the image has no name
	Message string   // shown by `docker history`; empty: "Imported from -"
	Changes []string // Dockerfile instructions, see applyChanges
}

// Import makes an image of one layer from the tar of a root file system, perhaps compressed. The tar is unpacked as it
// comes; nothing is spooled.
func (s *Store) Import(ctx context.Context, r io.Reader, o ImportOptions, p Progress) (digest.Digest, error) {
	img, err := importedConfig(o)
	if err != nil {
		return "", err
	}
	tags, err := tagsFor(o.Name)
	if err != nil {
		return "", err
	}
	c := content{open: func(context.Context) (io.ReadCloser, error) { return io.NopCloser(r), nil }}
	l, err := s.newLayer(ctx, c, nil, func(n int64) { p.bytes("", "Importing", n, 0) })
	if err != nil {
		return "", fmt.Errorf("cannot import: %w", err)
	}
	defer l.release()
	img.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{l.diffID}}
	id, err := s.addMade(ctx, img, tags, l.chains, []digest.Digest{l.blob})
	if err != nil {
		return "", err
	}
	s.tellTagged(id, tags...)
	s.tellOf(events.ActionImport, id)
	p.status("", id.String())
	return id, nil
}

// addMade makes an image of a configuration that was made here; its layers and blobs are there and pinned.
func (s *Store) addMade(ctx context.Context, img dockerspec.DockerOCIImage, tags []string, chains, blobs []digest.Digest) (digest.Digest, error) {
	config, err := json.Marshal(img)
	if err != nil {
		return "", fmt.Errorf("cannot encode the image's configuration: %w", err)
	}
	src := source{id: digest.FromBytes(config), config: config, tags: tags}
	return src.id, s.addImage(ctx, src, chains, blobs)
}

func importedConfig(o ImportOptions) (dockerspec.DockerOCIImage, error) {
	var img dockerspec.DockerOCIImage
	if err := applyChanges(&img.Config, o.Changes); err != nil {
		return img, err
	}
	now := time.Now().UTC()
	img.Created = &now
	img.OS, img.Architecture = osLinux, archAMD64
	comment := o.Message
	if comment == "" {
		comment = "Imported from -"
	}
	img.History = []ocispec.History{{Created: &now, Comment: comment}}
	return img, nil
}

// madeLayer is a layer that was made here. It is pinned until release is called.
type madeLayer struct {
	diffID, blob digest.Digest
	chains       []digest.Digest // of its parents and its own
	release      func()
}

// newLayer unpacks a tar whose digest is known only at its end above parents, and keeps it.
func (s *Store) newLayer(ctx context.Context, c content, parents []digest.Digest, read func(int64)) (l madeLayer, err error) {
	u, err := s.startUnpacker(ctx)
	if err != nil {
		return l, err
	}
	defer u.close()
	k := &keeper{s: s}
	defer k.drop(ctx)
	partial, size, err := s.unpack(ctx, u, parents, func(w io.Writer) (err error) {
		l.diffID, err = c.copyTo(ctx, w, k, read)
		return err
	})
	if err != nil {
		return l, err
	}
	chain := l.diffID
	if len(parents) > 0 {
		chain = digest.FromString(parents[len(parents)-1].String() + " " + l.diffID.String()) // OCI image specification, config.md: Layer ChainID
	}
	l.blob, l.chains = k.digest, append(slices.Clone(parents), chain)
	l.release = s.pins.pin([]digest.Digest{chain, blobKey(l.blob)})
	if err := s.keep(ctx, partial, l.chains, size, k); err != nil {
		l.release()
		return l, err
	}
	return l, nil
}

// keep makes a disk a layer, or drops it when there is such a layer, and keeps its blob.
func (s *Store) keep(ctx context.Context, partial string, chains []digest.Digest, size int64, k *keeper) error {
	chain := chains[len(chains)-1]
	unlock, err := s.locks.lock(ctx, chain)
	if err == nil {
		defer unlock()
		if s.lacks(chain) {
			if err = s.addLayer(ctx, partial, chains, layer{Size: size, Blob: k.digest}, k); err == nil {
				return nil
			}
		} else {
			err = s.addBlob(ctx, k)
		}
	}
	s.drop(ctx, partial)
	return err
}
