package image

import (
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// annotationImageName is containerd's annotation for a full name, beside ocispec.AnnotationRefName
// (containerd, images/annotations.go).
const annotationImageName = "io.containerd.image.name"

// maxIndexDepth bounds indexes within indexes; what tools make has two levels.
const maxIndexDepth = 4

// ociImages reads the images of an OCI image layout.
func (a *archive) ociImages() ([]source, error) {
	data, err := a.read(ocispec.ImageIndexFile, MaxManifestBytes)
	if err != nil {
		return nil, err
	}
	return a.ociIndex(data, nil, maxIndexDepth)
}

// ociIndex reads the images of an index; tags are those of the index itself.
func (a *archive) ociIndex(data []byte, tags []string, depth int) ([]source, error) {
	if depth == 0 {
		return nil, invalid("cannot use an index of more than %d levels", maxIndexDepth)
	}
	x, err := decodeIndexManifest(data)
	if err != nil {
		return nil, err
	}
	if err := a.spend(0, len(x.Manifests), 0); err != nil {
		return nil, err
	}
	entries, err := choose(x.Manifests)
	if err != nil {
		return nil, err
	}
	var out []source
	for _, d := range entries {
		found, err := a.ociEntry(d, append(tagsOf(d), tags...), depth)
		if err != nil {
			return nil, err
		}
		out = append(out, found...)
	}
	return out, nil
}

func (a *archive) ociEntry(d ocispec.Descriptor, tags []string, depth int) ([]source, error) {
	if err := checkType(d.MediaType); err != nil {
		return nil, err
	}
	data, err := a.blob(d.Digest, MaxManifestBytes)
	if err != nil {
		return nil, err
	}
	if isIndex(d.MediaType) {
		return a.ociIndex(data, tags, depth-1)
	}
	src, err := a.ociImage(data)
	src.tags, src.manifest, src.mediaType = tags, data, d.MediaType
	return []source{src}, err
}

func (a *archive) ociImage(manifest []byte) (source, error) {
	m, err := decodeManifest(manifest)
	if err != nil {
		return source{}, err
	}
	if err := a.spend(0, len(m.Layers), 1); err != nil {
		return source{}, err
	}
	config, err := a.blob(m.Config.Digest, MaxConfigBytes)
	if err != nil {
		return source{}, err
	}
	diffIDs, err := runnable(config, len(m.Layers))
	if err != nil {
		return source{}, err
	}
	src := source{id: m.Config.Digest, config: config}
	for i, l := range m.Layers {
		c, err := a.layer(blobName(l.Digest), diffIDs[i], l.Digest)
		if err != nil {
			return source{}, err
		}
		src.layers = append(src.layers, c)
	}
	return src, nil
}

// tagsOf returns the canonical names that an entry's annotations give. A bare word is a tag without a repository in
// some tools, and a repository without a tag in others: it names nothing.
func tagsOf(d ocispec.Descriptor) []string {
	name := d.Annotations[annotationImageName]
	if name == "" {
		name = d.Annotations[ocispec.AnnotationRefName]
		if !strings.ContainsAny(name, ":/") {
			return nil
		}
	}
	tag, err := canonicalTag(name)
	if err != nil {
		return nil
	}
	return []string{tag}
}
