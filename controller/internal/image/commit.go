package image

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// CommitOptions say what becomes of a container's changes.
type CommitOptions struct {
	Parent  digest.Digest // ID of the image that the container's disk builds on; it may have been removed
	Name    string        // reference; empty: the image has no name
	Author  string
	Comment string
	Config  dockerspec.DockerOCIImageConfig // what the container runs with
	Changes []string                        // Dockerfile instructions, see applyChanges
}

// Commit makes an image of the image that a container was made from and of the changes to its files: layer, a plain tar over that image. If
// that holds nothing there is no new layer, as in Docker.
func (s *Store) Commit(ctx context.Context, layer io.Reader, o CommitOptions) (digest.Digest, error) {
	tags, err := tagsFor(o.Name)
	if err != nil {
		return "", err
	}
	now := time.Now().UTC()
	history := ocispec.History{Created: &now, CreatedBy: strings.Join(o.Config.Cmd, " "), Author: o.Author, Comment: o.Comment}
	if err := applyChanges(&o.Config, o.Changes); err != nil {
		return "", err
	}
	parent, chains, release, err := s.parent(o.Parent)
	if err != nil {
		return "", fmt.Errorf("cannot commit: %w", err)
	}
	defer release()
	img, err := decodeConfig(parent.Config)
	if err != nil {
		return "", err
	}
	blobs, r := slices.Clone(parent.Blobs), bufio.NewReader(layer)
	if history.EmptyLayer, err = isEmptyTar(r); err != nil {
		return "", fmt.Errorf("cannot commit: %w", err)
	}
	if !history.EmptyLayer {
		if len(chains) == MaxLayers {
			return "", invalid("cannot commit: the image has %d layers already, and more are not possible: export the container and import it", MaxLayers)
		}
		c := content{open: func(context.Context) (io.ReadCloser, error) { return io.NopCloser(r), nil }, compress: true}
		l, err := s.newLayer(ctx, c, chains, func(int64) {})
		if err != nil {
			return "", fmt.Errorf("cannot commit: %w", err)
		}
		defer l.release()
		chains, blobs = l.chains, append(blobs, l.blob)
		img.RootFS.DiffIDs = append(img.RootFS.DiffIDs, l.diffID)
	}
	img.Created, img.Author, img.Config = &now, o.Author, o.Config
	img.History = append(img.History, history)
	id, err := s.addMade(ctx, img, tags, chains, blobs)
	if err == nil {
		s.tellTagged(id, tags...)
	}
	return id, err
}

// parent finds an image that a container builds on, also a removed one, and keeps it, its layers and its blobs until release is called.
func (s *Store) parent(id digest.Digest) (e entry, chains []digest.Digest, release func(), err error) {
	release, err = s.pins.pinFound(func() ([]digest.Digest, error) {
		var ok bool
		if e, ok = s.index.Read().Images[id]; !ok {
			return nil, errdefs.ErrNotFound.WithMessage("No such image: " + id.String())
		}
		if len(e.Manifest) == 0 {
			return nil, noBlobs(id)
		}
		chains, err = chainIDs(e.Config)
		keys := append(slices.Clone(chains), id)
		for _, b := range e.Blobs {
			keys = append(keys, blobKey(b))
		}
		return keys, err
	})
	return e, chains, release, err
}

// noBlobs is the error of what needs the layers of an image as they came.
func noBlobs(id digest.Digest) error {
	return classed(errdefs.ErrFailedPrecondition,
		"the image %s was made by an earlier version, which kept its layers as disks alone: pull or load it again", shortID(id))
}

// isEmptyTar reports whether a tar begins with its end: a block of zeros (POSIX, pax: ustar interchange format).
func isEmptyTar(r *bufio.Reader) (bool, error) {
	const block = 512
	head, err := r.Peek(block)
	if err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	return len(bytes.Trim(head, "\x00")) == 0, nil
}

// tagsFor is the canonical name of an image that is made here, if it is to have one.
func tagsFor(name string) ([]string, error) {
	if name == "" {
		return nil, nil
	}
	if strings.Contains(name, "@") {
		return nil, invalid("refusing to create a tag with a digest reference")
	}
	tag, err := canonicalTag(name)
	if err != nil {
		return nil, err
	}
	return []string{tag}, nil
}
