package image

import (
	"context"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
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
	var id digest.Digest
	err = s.index.Commit(ctx, func(x *index) (err error) {
		if id, err = x.resolve(ref); err != nil {
			return err
		}
		e := x.Images[id]
		e.Tagged = time.Now().UTC()
		x.Images[id], x.Tags[tag] = e, id
		return nil
	})
	if err == nil {
		s.tellTagged(id, tag)
	}
	return err
}
