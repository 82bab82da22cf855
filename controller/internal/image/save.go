package image

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/events"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Saving is images that are to be written as one archive. Their blobs stay until it is closed.
type Saving struct {
	s       *Store
	images  []savedImage
	release []func()
}

// savedImage is an image and the names that it is saved under.
type savedImage struct {
	Image
	config []byte
	tags   []string // canonical
}

// Save finds images to be saved. A name without a tag is all tags of that repository, as in Docker; an ID or a digest gives the image no name.
// The caller must close what it returns.
func (s *Store) Save(refs []string) (*Saving, error) {
	v := &Saving{s: s}
	for _, ref := range refs {
		if err := v.add(ref); err != nil {
			v.Close()
			return nil, err
		}
	}
	return v, nil
}

// Close lets the blobs go.
func (v *Saving) Close() {
	for _, release := range v.release {
		release()
	}
}

func (v *Saving) add(ref string) error {
	tags, err := v.s.index.Read().tagsToSave(ref)
	if err != nil {
		return err
	}
	if len(tags) == 0 {
		return v.addImage(ref, "")
	}
	for _, tag := range tags {
		if err := v.addImage(tag, tag); err != nil {
			return err
		}
	}
	return nil
}

// tagsToSave returns the canonical names that ref means; none: it is an ID, or the beginning of one, or a digest.
func (x *index) tagsToSave(ref string) ([]string, error) {
	parsed, err := reference.ParseAnyReference(ref)
	if err != nil {
		return nil, invalid("invalid reference format: %q", ref)
	}
	named, isNamed := parsed.(reference.Named)
	if _, digested := parsed.(reference.Digested); digested || !isNamed {
		return nil, nil
	}
	if !reference.IsNameOnly(named) {
		name := named.String()
		if _, ok := x.Tags[name]; ok {
			return []string{name}, nil
		}
		if _, ok := x.byPrefix(ref); ok {
			return nil, nil
		}
		return nil, errdefs.ErrNotFound.WithMessage("reference does not exist")
	}
	var tags []string
	for name := range x.Tags {
		if repository(name) == named.Name() {
			tags = append(tags, name)
		}
	}
	slices.Sort(tags)
	if _, ok := x.byPrefix(ref); len(tags) == 0 && !ok {
		return nil, errdefs.ErrNotFound.WithMessage("No such image: " + ref)
	}
	return tags, nil
}

func (v *Saving) addImage(ref, tag string) error {
	img, release, err := v.s.pinBlobs(ref)
	if err != nil {
		return err
	}
	v.release = append(v.release, release)
	i := slices.IndexFunc(v.images, func(have savedImage) bool { return have.ID == img.ID })
	if i < 0 {
		i = len(v.images)
		v.images = append(v.images, savedImage{Image: img, config: v.s.index.Read().Images[img.ID].Config})
	}
	if tag != "" && !slices.Contains(v.images[i].tags, tag) {
		v.images[i].tags = append(v.images[i].tags, tag)
	}
	return nil
}

// pinBlobs finds an image that has its blobs, and keeps it, and them, until release is called.
func (s *Store) pinBlobs(ref string) (img Image, release func(), err error) {
	release, err = s.pins.pinFound(func() ([]digest.Digest, error) {
		if img, err = s.Resolve(ref); err != nil {
			return nil, err
		}
		if len(img.Manifest) == 0 {
			return nil, noBlobs(img.ID)
		}
		keys := []digest.Digest{img.ID}
		for _, b := range img.Blobs {
			keys = append(keys, blobKey(b))
		}
		return keys, nil
	})
	return img, release, err
}

// Write writes a docker-archive that is an OCI image layout too, as Docker does since version 25: the layers as they came. It holds no
// more than a buffer in memory beside the images' configurations. After an error w has no whole archive.
func (v *Saving) Write(ctx context.Context, w io.Writer) error {
	a := &archiveWriter{tar: tar.NewWriter(w), has: map[digest.Digest]bool{}}
	for _, dir := range []string{"blobs/", "blobs/sha256/"} {
		if err := a.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755, ModTime: saveTime()}); err != nil {
			return err
		}
	}
	for _, img := range v.images {
		if err := v.writeImage(ctx, a, img); err != nil {
			return fmt.Errorf("cannot save the image %s: %w", shortID(img.ID), err)
		}
	}
	if err := v.writeIndexes(a); err != nil {
		return fmt.Errorf("cannot save: %w", err)
	}
	if err := a.tar.Close(); err != nil {
		return err
	}
	for _, img := range v.images {
		v.s.tell(events.ActionSave, img.Image, img.ID.String(), img.ID.String())
	}
	return nil
}

func (v *Saving) writeImage(ctx context.Context, a *archiveWriter, img savedImage) error {
	for _, d := range img.Blobs {
		size := v.s.index.Read().Blobs[d].Size
		err := a.blob(d, size, func() (io.ReadCloser, error) { return v.s.openBlob(ctx, d) })
		if err != nil {
			return err
		}
	}
	for _, data := range [][]byte{img.config, img.Manifest} {
		if err := a.blobOf(data); err != nil {
			return err
		}
	}
	return nil
}

// writeIndexes writes what leads to the images in both formats.
func (v *Saving) writeIndexes(a *archiveWriter) error {
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	items, repositories := []dockerItem{}, map[string]map[string]string{}
	for _, img := range v.images {
		desc := img.Descriptor()
		item := dockerItem{Config: blobName(img.ID), RepoTags: familiar(img.tags), Layers: []string{}}
		for _, d := range img.Blobs {
			item.Layers = append(item.Layers, blobName(d))
		}
		items = append(items, item)
		if len(img.tags) == 0 {
			index.Manifests = append(index.Manifests, desc)
		}
		for _, name := range img.tags {
			named, err := reference.ParseNormalizedNamed(name)
			if err != nil {
				return err
			}
			tag := tagOrDigest(named)
			entry := desc
			entry.Annotations = map[string]string{annotationImageName: name, ocispec.AnnotationRefName: tag}
			index.Manifests = append(index.Manifests, entry)
			repo := reference.FamiliarName(named)
			if repositories[repo] == nil {
				repositories[repo] = map[string]string{}
			}
			repositories[repo][tag] = img.ID.Encoded()
		}
	}
	files := []struct {
		name string
		v    any
	}{
		{ocispec.ImageIndexFile, index}, {dockerManifest, items},
		{ocispec.ImageLayoutFile, ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion}}, {"repositories", repositories},
	}
	if len(repositories) == 0 {
		files = files[:len(files)-1]
	}
	for _, f := range files {
		if err := a.json(f.name, f.v); err != nil {
			return err
		}
	}
	return nil
}

// Descriptor leads to the image's manifest; it is empty for an image of an earlier version.
func (img Image) Descriptor() ocispec.Descriptor {
	if len(img.Manifest) == 0 {
		return ocispec.Descriptor{}
	}
	return ocispec.Descriptor{MediaType: img.Type, Digest: digest.FromBytes(img.Manifest), Size: int64(len(img.Manifest)),
		Platform: &ocispec.Platform{Architecture: img.Config.Architecture, OS: img.Config.OS, Variant: img.Config.Variant}}
}

// saveTime is the time of all members: an image saved twice is the same archive.
func saveTime() time.Time { return time.Unix(0, 0) }

// archiveWriter writes the members of an archive, each blob once.
type archiveWriter struct {
	tar *tar.Writer
	has map[digest.Digest]bool
}

func (a *archiveWriter) file(name string, size int64) error {
	return a.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, ModTime: saveTime()})
}

func (a *archiveWriter) json(name string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err := a.file(name, int64(len(data))); err != nil {
		return err
	}
	_, err = a.tar.Write(data)
	return err
}

func (a *archiveWriter) blobOf(data []byte) error {
	d := digest.FromBytes(data)
	if a.has[d] {
		return nil
	}
	a.has[d] = true
	if err := a.file(blobName(d), int64(len(data))); err != nil {
		return err
	}
	_, err := a.tar.Write(data)
	return err
}

// blob writes a blob of exactly size bytes, whose digest it verifies.
func (a *archiveWriter) blob(d digest.Digest, size int64, open func() (io.ReadCloser, error)) error {
	if a.has[d] {
		return nil
	}
	a.has[d] = true
	r, err := open()
	if err != nil {
		return err
	}
	defer r.Close()
	if err := a.file(blobName(d), size); err != nil {
		return err
	}
	sum := sha256.New()
	n, err := io.CopyBuffer(io.MultiWriter(a.tar, sum), r, make([]byte, readBuffer))
	switch {
	case err != nil:
		return fmt.Errorf("cannot read the blob %s: %w", d, err)
	case n != size || digest.NewDigest(digest.SHA256, sum) != d:
		return fmt.Errorf("the blob %s on the datastore has %d bytes or other ones than it came with: remove the image and pull it again", d, size)
	}
	return nil
}
