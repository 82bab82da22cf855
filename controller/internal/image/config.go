package image

import (
	"fmt"

	"github.com/containerd/errdefs"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
)

// decodeConfig reads an image's configuration and checks what the store relies on.
func decodeConfig(data []byte) (dockerspec.DockerOCIImage, error) {
	var c dockerspec.DockerOCIImage
	if err := decodeJSON(data, &c); err != nil {
		return c, invalid("cannot read the image's configuration: %w", err)
	}
	if t := c.RootFS.Type; t != "" && t != "layers" {
		return c, invalid("cannot use an image whose rootfs is of type %q: only \"layers\" is known", t)
	}
	if n := len(c.RootFS.DiffIDs); n > MaxLayers {
		return c, invalid("cannot use an image of %d layers: at most %d are possible", n, MaxLayers)
	}
	for _, d := range c.RootFS.DiffIDs {
		if err := checkDigest(d); err != nil {
			return c, invalid("cannot use the image's configuration: diff ID: %w", err)
		}
	}
	return c, nil
}

// checkDigest demands SHA-256: the registered algorithm that every image uses.
func checkDigest(d digest.Digest) error {
	if err := d.Validate(); err != nil {
		return fmt.Errorf("digest %q: %w", d, err)
	}
	if d.Algorithm() != digest.SHA256 {
		return fmt.Errorf("digest %q is not sha256", d)
	}
	return nil
}

// chainIDs returns the chain ID of each layer of a configuration, lowest first (OCI image specification, config.md:
// Layer ChainID).
func chainIDs(config []byte) ([]digest.Digest, error) {
	c, err := decodeConfig(config)
	if err != nil {
		return nil, err
	}
	return identity.ChainIDs(append([]digest.Digest(nil), c.RootFS.DiffIDs...)), nil
}

func invalid(format string, args ...any) error {
	return classed(errdefs.ErrInvalidArgument, format, args...)
}

// classed is an error of one of the classes of errdefs whose text is the formatted one alone.
func classed(class error, format string, args ...any) error {
	return &classError{class: class, err: fmt.Errorf(format, args...)}
}

type classError struct{ class, err error }

func (e *classError) Error() string   { return e.err.Error() }
func (e *classError) Unwrap() []error { return []error{e.err, e.class} }
