package image

import (
	"encoding/json"
	"fmt"
	"maps"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/containervm/containervm/controller/internal/indexfile"
)

// indexVersion is the version of the index's format; a reader refuses a newer one rather than losing what it means.
const indexVersion = 1

// index is the content of `cvm/images.json`: every image, name and layer of the datastore. A value that the store has
// published is never changed again; changes are made to a clone.
type index struct {
	Version int                      `json:"version"`
	Images  map[digest.Digest]entry  `json:"images"`
	Tags    map[string]digest.Digest `json:"tags"`    // "docker.io/library/busybox:demo" -> image ID
	Digests map[string]digest.Digest `json:"digests"` // "docker.io/library/busybox@sha256:..." -> image ID
	Layers  map[digest.Digest]layer  `json:"layers"`  // by chain ID
	Blobs   map[digest.Digest]blob   `json:"blobs"`   // by their own digests
}

// entry is an image; its key, the image ID, is the digest of Config.
type entry struct {
	Config []byte    `json:"config"` // exactly as it came, so that the digest holds
	Loaded time.Time `json:"loaded"`
	// Removed: no image to users any more, kept since disks of containers build on its layers.
	Removed bool `json:"removed,omitempty"`
	// Manifest is what the image came with, exactly, or what was made for it; Type is its media type. Blobs are its layers', lowest
	// first. An image of an earlier version has none of them.
	Manifest []byte          `json:"manifest,omitempty"`
	Type     string          `json:"type,omitempty"`
	Blobs    []digest.Digest `json:"blobs,omitempty"`
	// Tagged is when a name was last given to it; zero: never.
	Tagged time.Time `json:"tagged,omitzero"`
}

// layer is a complete disk, which nothing writes to.
type layer struct {
	Parent digest.Digest `json:"parent,omitempty"` // chain ID; empty: the blank disk
	Size   int64         `json:"size"`             // bytes of file content
	Blob   digest.Digest `json:"blob,omitempty"`   // what it was unpacked from; it may be gone
}

// indexFormat is how the index lies on the datastore.
func indexFormat() indexfile.Format[index] {
	return indexfile.Format[index]{
		Path: indexPath, Name: "the image index", Max: MaxIndexBytes, Remedy: "remove images",
		New: newIndex, Clone: (*index).clone, Decode: decodeIndex,
	}
}

func newIndex() *index {
	return &index{
		Version: indexVersion,
		Images:  map[digest.Digest]entry{},
		Tags:    map[string]digest.Digest{},
		Digests: map[string]digest.Digest{},
		Layers:  map[digest.Digest]layer{},
		Blobs:   map[digest.Digest]blob{},
	}
}

func (x *index) clone() *index {
	return &index{
		Version: x.Version,
		Images:  maps.Clone(x.Images),
		Tags:    maps.Clone(x.Tags),
		Digests: maps.Clone(x.Digests),
		Layers:  maps.Clone(x.Layers),
		Blobs:   maps.Clone(x.Blobs),
	}
}

// decodeIndex reads an index. Unknown fields are ignored and missing ones are empty; what contradicts itself is
// refused, since a sweep deletes the disks that the index does not name.
func decodeIndex(data []byte) (*index, error) {
	x := newIndex()
	x.Version = 0
	if err := json.Unmarshal(data, x); err != nil {
		return nil, err
	}
	if x.Version < 1 || x.Version > indexVersion {
		return nil, fmt.Errorf("format version %d, known is 1 to %d", x.Version, indexVersion)
	}
	for _, m := range []*map[string]digest.Digest{&x.Tags, &x.Digests} {
		if *m == nil {
			*m = map[string]digest.Digest{}
		}
	}
	if x.Images == nil {
		x.Images = map[digest.Digest]entry{}
	}
	if x.Layers == nil {
		x.Layers = map[digest.Digest]layer{}
	}
	if x.Blobs == nil {
		x.Blobs = map[digest.Digest]blob{}
	}
	return x, x.check()
}

// check holds the index against itself: IDs match their configurations, names lead to images, parents exist.
func (x *index) check() error {
	for id, r := range x.Images {
		if digest.FromBytes(r.Config) != id {
			return fmt.Errorf("the configuration of image %s has another digest", id)
		}
		chains, err := chainIDs(r.Config)
		if err != nil {
			return fmt.Errorf("image %s: %w", id, err)
		}
		for _, c := range chains {
			if _, ok := x.Layers[c]; !ok {
				return fmt.Errorf("image %s: no layer %s", id, c)
			}
		}
		if err := x.checkBlobs(r, len(chains)); err != nil {
			return fmt.Errorf("image %s: %w", id, err)
		}
	}
	for _, names := range []map[string]digest.Digest{x.Tags, x.Digests} {
		for name, id := range names {
			if r, ok := x.Images[id]; !ok || r.Removed {
				return fmt.Errorf("name %q leads to no image", name)
			}
		}
	}
	return x.checkLayers()
}

// checkBlobs holds an image's manifest and its blobs against each other.
func (x *index) checkBlobs(r entry, layers int) error {
	if len(r.Manifest) == 0 {
		return nil
	}
	m, err := decodeManifest(r.Manifest)
	if err != nil {
		return err
	}
	if len(m.Layers) != layers || len(r.Blobs) != layers {
		return fmt.Errorf("its manifest has %d layers and %d blobs, not %d", len(m.Layers), len(r.Blobs), layers)
	}
	for i, l := range m.Layers {
		if l.Digest != r.Blobs[i] {
			return fmt.Errorf("its manifest and its blobs are not the same")
		}
		if _, ok := x.Blobs[l.Digest]; !ok {
			return fmt.Errorf("no blob %s", l.Digest)
		}
	}
	return nil
}

func (x *index) checkLayers() error {
	for d := range x.Blobs {
		if err := checkDigest(d); err != nil {
			return fmt.Errorf("blob: %w", err)
		}
	}
	for c, l := range x.Layers {
		if err := c.Validate(); err != nil {
			return fmt.Errorf("chain ID %q: %w", c, err)
		}
		if l.Parent == "" {
			continue
		}
		if _, ok := x.Layers[l.Parent]; !ok {
			return fmt.Errorf("layer %s: no parent %s", c, l.Parent)
		}
		if x.depth(c) > MaxLayers {
			return fmt.Errorf("layer %s is no chain of at most %d layers", c, MaxLayers)
		}
	}
	return nil
}

// depth counts the layers from the blank disk to chain, and stops beyond MaxLayers.
func (x *index) depth(chain digest.Digest) int {
	n := 0
	for ; chain != "" && n <= MaxLayers; n++ {
		chain = x.Layers[chain].Parent
	}
	return n
}

// names returns the keys of m that lead to id.
func names(m map[string]digest.Digest, id digest.Digest) []string {
	var out []string
	for name, to := range m {
		if to == id {
			out = append(out, name)
		}
	}
	return out
}

func dropNames(m map[string]digest.Digest, id digest.Digest) {
	maps.DeleteFunc(m, func(_ string, to digest.Digest) bool { return to == id })
}
