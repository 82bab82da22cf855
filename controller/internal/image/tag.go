package image

import (
	"context"

	"github.com/distribution/reference"
)

// Tag gives the image that ref names a further name, and takes it from the image that had it.
func (s *Store) Tag(ctx context.Context, ref, name string) error {
	if named, err := reference.ParseNormalizedNamed(name); err == nil {
		if _, digested := named.(reference.Digested); digested {
			return invalid("refusing to create a tag with a digest reference")
		}
	}
	tag, err := canonicalTag(name)
	if err != nil {
		return err
	}
	return s.index.Commit(ctx, func(x *index) error {
		id, err := x.resolve(ref)
		if err != nil {
			return err
		}
		x.Tags[tag] = id
		return nil
	})
}
