package image

import (
	"github.com/distribution/reference"
)

// canonicalTag is the key in index.Tags of a name ("busybox" -> "docker.io/library/busybox:latest"); a digest in it is
// left out.
func canonicalTag(name string) (string, error) {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return "", invalid("invalid reference format: %q: %w", name, err)
	}
	if tagged, ok := named.(reference.Tagged); ok {
		withTag, err := reference.WithTag(reference.TrimNamed(named), tagged.Tag())
		return withTag.String(), err
	}
	return reference.TagNameOnly(reference.TrimNamed(named)).String(), nil
}

// canonicalDigest is the key in index.Digests of a repository's manifest.
func canonicalDigest(named reference.Named, digest string) string {
	return reference.TrimNamed(named).Name() + "@" + digest
}
