package image

import (
	"context"
	"fmt"
	"io"

	"github.com/moby/moby/api/types/events"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// Load takes all images of an archive, a docker-archive or an OCI image layout as one tar, perhaps compressed as
// a whole. It returns the names as Docker shows them, IDs for images without one. Errors that are the
// archive's fault are of class errdefs.ErrInvalidArgument. The images that were complete before an error stay.
func (s *Store) Load(ctx context.Context, r io.Reader, p Progress) ([]string, error) {
	select {
	case s.loads <- struct{}{}:
		defer func() { <-s.loads }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	plain, err := Decompress(r)
	if err != nil {
		return nil, invalid("cannot read the archive: %w", err)
	}
	defer plain.Close()
	f, size, err := spool(plain, MaxArchiveBytes)
	if err != nil {
		return nil, fmt.Errorf("cannot read the archive: %w", err)
	}
	defer f.Close()
	a, err := openArchive(f, size)
	if err != nil {
		return nil, err
	}
	sources, err := a.images()
	if err != nil {
		return nil, err
	}
	return s.installAll(ctx, sources, p)
}

// images reads what the archive holds. Newer `docker save`s write both formats; manifest.json has the full names.
func (a *archive) images() (sources []source, err error) {
	switch {
	case a.has(dockerManifest):
		sources, err = a.dockerImages()
	case a.has(ocispec.ImageIndexFile):
		sources, err = a.ociImages()
	default:
		return nil, invalid("it is no image archive: neither %s nor %s is in it (a root file system is taken by docker import)",
			dockerManifest, ocispec.ImageIndexFile)
	}
	if err == nil && len(sources) == 0 {
		err = invalid("the archive holds no image")
	}
	return sources, err
}

// installAll installs images side by side, as far as there are unpackers.
func (s *Store) installAll(ctx context.Context, sources []source, p Progress) ([]string, error) {
	names := make([][]string, len(sources))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(maxUnpackers)
	together := newAllowance(MaxUnpackedBytes, fmt.Sprintf("the archive's layers have more than %d bytes, uncompressed: load them in parts", int64(MaxUnpackedBytes)))
	for i, src := range sources {
		src.unpacked = together
		g.Go(func() error {
			if err := s.install(ctx, src, wordsOfLoad, p); err != nil {
				return err
			}
			names[i] = announce(src, p)
			s.tellOf(events.ActionLoad, src.id)
			return nil
		})
	}
	err := g.Wait()
	var all []string
	for _, n := range names {
		all = append(all, n...)
	}
	return all, err
}

// announce tells of a loaded image in Docker's words, and returns its names.
func announce(src source, p Progress) []string {
	if len(src.tags) == 0 {
		p.stream("Loaded image ID: " + src.id.String() + "\n")
		return []string{src.id.String()}
	}
	names := familiar(src.tags)
	for _, name := range names {
		p.stream("Loaded image: " + name + "\n")
	}
	return names
}
