package image

import (
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// The platform that virtual machines of this kind run.
const (
	osLinux   = "linux"
	archAMD64 = "amd64"
)

// Docker's media types, beside those of ocispec (distribution, manifest/schema1, schema2 and manifestlist).
const (
	typeDockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	typeDockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	typeDockerLayer    = "application/vnd.docker.image.rootfs.diff.tar"
	typeSchema1        = "application/vnd.docker.distribution.manifest.v1+json"
	typeSchema1Signed  = "application/vnd.docker.distribution.manifest.v1+prettyjws"
)

// annotationReferenceType marks a manifest that is about an image, as an attestation, and is none itself (BuildKit,
// docs/attestations/attestation-storage.md).
const annotationReferenceType = "vnd.docker.reference.type"

func isIndex(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageIndex || mediaType == typeDockerList
}

func isManifest(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageManifest || mediaType == typeDockerManifest
}

// isLayer accepts tar layers, plain or compressed; how is seen from their first bytes.
func isLayer(mediaType string) bool {
	for _, base := range []string{ocispec.MediaTypeImageLayer, typeDockerLayer} {
		if rest, ok := strings.CutPrefix(mediaType, base); ok && (rest == "" || rest == "+gzip" || rest == "+zstd" || rest == ".gzip" || rest == ".zstd") {
			return true
		}
	}
	return false
}

// isAttestation tells a manifest that is no image.
func isAttestation(d ocispec.Descriptor) bool {
	return d.Annotations[annotationReferenceType] != "" || (d.Platform != nil && d.Platform.OS == "unknown")
}

// checkType demands an image manifest or an index.
func checkType(mediaType string) error {
	switch {
	case mediaType == typeSchema1 || mediaType == typeSchema1Signed:
		return invalid("cannot use an image with a manifest of schema version 1: push it again with a newer client")
	case !isIndex(mediaType) && !isManifest(mediaType):
		return invalid("cannot use a manifest of type %q", mediaType)
	}
	return nil
}

// decodeManifest reads an image manifest and checks what it leads to.
func decodeManifest(data []byte) (ocispec.Manifest, error) {
	var m ocispec.Manifest
	if err := decodeJSON(data, &m); err != nil {
		return m, invalid("cannot read the image's manifest: %w", err)
	}
	if m.SchemaVersion == 1 {
		return m, checkType(typeSchema1)
	}
	if err := checkDigest(m.Config.Digest); err != nil {
		return m, invalid("cannot use the image's manifest: config: %w", err)
	}
	if n := len(m.Layers); n > MaxLayers {
		return m, invalid("cannot use an image of %d layers: at most %d are possible", n, MaxLayers)
	}
	for _, l := range m.Layers {
		if !isLayer(l.MediaType) {
			return m, invalid("cannot use a layer of type %q", l.MediaType)
		}
		if err := checkDigest(l.Digest); err != nil {
			return m, invalid("cannot use the image's manifest: layer: %w", err)
		}
	}
	return m, nil
}

// decodeIndexManifest reads an OCI index or Docker manifest list.
func decodeIndexManifest(data []byte) (ocispec.Index, error) {
	var x ocispec.Index
	if err := decodeJSON(data, &x); err != nil {
		return x, invalid("cannot read the image's index: %w", err)
	}
	for _, d := range x.Manifests {
		if err := checkDigest(d.Digest); err != nil {
			return x, invalid("cannot use the image's index: %w", err)
		}
	}
	return x, nil
}

// choose returns the entries of an index that this platform runs: those for it, and those that do not say. When there
// are only others, the error names them.
func choose(entries []ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	var fit []ocispec.Descriptor
	var others []string
	for _, d := range entries {
		switch {
		case isAttestation(d):
		case d.Platform == nil || d.Platform.OS == osLinux && d.Platform.Architecture == archAMD64:
			fit = append(fit, d)
		default:
			others = append(others, platformName(*d.Platform))
		}
	}
	if len(fit) == 0 && len(others) > 0 {
		slices.Sort(others)
		return nil, invalid("no image for linux/amd64: there is %s", strings.Join(slices.Compact(others), ", "))
	}
	return fit, nil
}

func platformName(p ocispec.Platform) string {
	name := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		name += "/" + p.Variant
	}
	return name
}
