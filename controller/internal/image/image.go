package image

import (
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Image is an image as the store knows it; a copy that later changes of the store do not touch.
type Image struct {
	// ID is the digest of the configuration.
	ID digest.Digest
	// RepoTags and RepoDigests are names as Docker shows them ("busybox:demo", "busybox@sha256:..."), sorted.
	RepoTags, RepoDigests []string
	// Config is the configuration; Docker.Config adds Docker's own fields to Config.Config.
	Config ocispec.Image
	Docker dockerspec.DockerOCIImage
	// Created is when the image was built, Loaded when it came into the store.
	Created, Loaded time.Time
	// Size is what it takes in bytes: the file content of all layers, and Content, their blobs. LayerSizes is the file content of each,
	// lowest first.
	Size, Content int64
	LayerSizes    []int64
	// Blobs are the digests of the layers' blobs, lowest first; Manifest leads to them, of type Type. An image that an earlier version
	// made has none.
	Blobs    []digest.Digest
	Manifest []byte
	Type     string
	// Tagged is when it last got a name; zero: never.
	Tagged time.Time
	// ChainIDs are the chain IDs of the layers, lowest first.
	ChainIDs []digest.Digest
	// TopDisk is the datastore path of the disk that a container's disk is a delta of.
	TopDisk string
}

// List returns all images, newest first.
func (s *Store) List() []Image { return s.list(s.index.Read()) }

func (s *Store) list(x *index) []Image {
	out := make([]Image, 0, len(x.Images))
	for id, r := range x.Images {
		if !r.Removed {
			out = append(out, s.image(x, id))
		}
	}
	slices.SortFunc(out, func(a, b Image) int {
		if c := b.Created.Compare(a.Created); c != 0 {
			return c
		}
		return strings.Compare(string(a.ID), string(b.ID))
	})
	return out
}

// Resolve finds an image by name (the tag defaults to latest), name and digest, ID or unique prefix of an ID. When
// there is none, the error is of class errdefs.ErrNotFound and has Docker's words.
func (s *Store) Resolve(ref string) (Image, error) {
	x := s.index.Read()
	id, err := x.resolve(ref)
	if err != nil {
		return Image{}, err
	}
	return s.image(x, id), nil
}

// Acquire is Resolve for one who is about to make a disk of the image: until release is called, no removal deletes the
// image's layers. It waits for no upload but that of a commit that deletes the very image; the error is then Resolve's.
func (s *Store) Acquire(ref string) (img Image, release func(), err error) {
	release, err = s.pins.pinFound(func() ([]digest.Digest, error) {
		img, err = s.Resolve(ref)
		return append(slices.Clone(img.ChainIDs), img.ID), err
	})
	return img, release, err
}

// SizeOf is the file content of an image's layers in bytes, also of an image that was removed and has containers still;
// 0 when the store does not know it.
func (s *Store) SizeOf(id digest.Digest) int64 {
	x := s.index.Read()
	if _, ok := x.Images[id]; !ok {
		return 0
	}
	img := s.image(x, id)
	return img.Size - img.Content
}

// DiskOf is the datastore path of the disk that containers of an image are deltas of, also of an image that was removed and has containers
// still; "" when the store does not know it.
func (s *Store) DiskOf(id digest.Digest) string {
	x := s.index.Read()
	if _, ok := x.Images[id]; !ok {
		return ""
	}
	return s.image(x, id).TopDisk
}

func (s *Store) image(x *index, id digest.Digest) Image {
	r := x.Images[id]
	c, _ := decodeConfig(r.Config) // was decoded when it came into the index
	chains, _ := chainIDs(r.Config)
	img := Image{
		ID: id, Docker: c, Config: c.Image, Loaded: r.Loaded, ChainIDs: chains,
		RepoTags:    familiar(names(x.Tags, id)),
		RepoDigests: familiar(names(x.Digests, id)),
		TopDisk:     s.diskOf(chains),
		Blobs:       r.Blobs, Manifest: r.Manifest, Type: r.Type, Tagged: r.Tagged,
	}
	img.Config.Config = c.Config.ImageConfig
	if c.Created != nil {
		img.Created = *c.Created
	}
	for _, chain := range chains {
		size := x.Layers[chain].Size
		img.LayerSizes = append(img.LayerSizes, size)
		img.Size += size
	}
	for i, d := range r.Blobs {
		if !slices.Contains(r.Blobs[:i], d) {
			img.Content += x.Blobs[d].Size
		}
	}
	img.Size += img.Content
	return img
}

// familiar shortens canonical names as Docker shows them.
func familiar(canonical []string) []string {
	out := make([]string, 0, len(canonical))
	for _, name := range canonical {
		if named, err := reference.ParseNormalizedNamed(name); err == nil {
			name = reference.FamiliarString(named)
		}
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

// resolve goes by the same order as Docker: ID, then name, then prefix of an ID.
func (x *index) resolve(ref string) (digest.Digest, error) {
	parsed, err := reference.ParseAnyReference(ref)
	if err != nil {
		return "", invalid("invalid reference format: %q", ref)
	}
	named, isNamed := parsed.(reference.Named)
	if id, ok := x.byReference(parsed); ok {
		return id, nil
	}
	if id, ok := x.byPrefix(ref); ok {
		return id, nil
	}
	if isNamed {
		parsed = reference.TagNameOnly(named)
	}
	return "", errdefs.ErrNotFound.WithMessage("No such image: " + reference.FamiliarString(parsed))
}

func (x *index) byReference(ref reference.Reference) (digest.Digest, bool) {
	named, isNamed := ref.(reference.Named)
	digested, isDigested := ref.(reference.Digested)
	switch {
	case isNamed && isDigested:
		id, ok := x.Digests[canonicalDigest(named, digested.Digest().String())]
		return id, ok
	case isDigested:
		return x.live(digested.Digest())
	case isNamed:
		id, ok := x.Tags[reference.TagNameOnly(named).String()]
		return id, ok
	}
	return "", false
}

func (x *index) live(id digest.Digest) (digest.Digest, bool) {
	r, ok := x.Images[id]
	return id, ok && !r.Removed
}

// byPrefix finds the one image whose ID begins with hexadecimal digits, with or without "sha256:".
func (x *index) byPrefix(prefix string) (found digest.Digest, ok bool) {
	prefix = strings.TrimPrefix(prefix, "sha256:")
	if prefix == "" || strings.Trim(prefix, "0123456789abcdef") != "" {
		return "", false
	}
	for id, r := range x.Images {
		if r.Removed || !strings.HasPrefix(id.Encoded(), prefix) {
			continue
		}
		if ok {
			return "", false
		}
		found, ok = id, true
	}
	return found, ok
}
