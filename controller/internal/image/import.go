package image

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
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
	var tags []string
	if o.Name != "" {
		tag, err := canonicalTag(o.Name)
		if err != nil {
			return "", err
		}
		tags = []string{tag}
	}
	diffID, release, err := s.importLayer(ctx, r, p)
	if err != nil {
		return "", fmt.Errorf("cannot import: %w", err)
	}
	defer release()
	img.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{diffID}}
	config, err := json.Marshal(img)
	if err != nil {
		return "", fmt.Errorf("cannot encode the image's configuration: %w", err)
	}
	src := source{id: digest.FromBytes(config), config: config, tags: tags}
	if err := s.addImage(ctx, src, []digest.Digest{diffID}); err != nil {
		return "", err
	}
	p.status("", src.id.String())
	return src.id, nil
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

// importLayer unpacks a tar whose digest is known only at its end, which is also its chain ID. The layer is pinned
// until release is called.
func (s *Store) importLayer(ctx context.Context, r io.Reader, p Progress) (diffID digest.Digest, release func(), err error) {
	u, err := s.startUnpacker(ctx)
	if err != nil {
		return "", nil, err
	}
	defer u.close()
	c := content{open: func(context.Context) (io.ReadCloser, error) { return io.NopCloser(r), nil }}
	partial, size, err := s.unpack(ctx, u, nil, func(w io.Writer) (err error) {
		diffID, err = c.copyTo(ctx, w, func(n int64) { p.bytes("", "Importing", n, 0) })
		return err
	})
	if err != nil {
		return "", nil, err
	}
	release = s.pins.pin([]digest.Digest{diffID})
	if err := s.keep(ctx, partial, diffID, size); err != nil {
		release()
		return "", nil, err
	}
	return diffID, release, nil
}

// keep makes the disk of an import a layer, or drops it when there is such a layer.
func (s *Store) keep(ctx context.Context, partial string, chain digest.Digest, size int64) error {
	unlock, err := s.locks.lock(ctx, chain)
	if err == nil {
		defer unlock()
		if s.lacks(chain) {
			if err = s.addLayer(ctx, partial, []digest.Digest{chain}, size); err == nil {
				return nil
			}
		}
	}
	s.drop(ctx, partial)
	return err
}
