package image

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/registry"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Pull fetches the image that ref names (by tag, which defaults to latest, or by digest) from its registry. Only
// registries on this machine are spoken to without TLS. Errors are of class errdefs.ErrNotFound, ErrUnauthenticated
// or ErrPermissionDenied when the registry says so.
func (s *Store) Pull(ctx context.Context, ref string, auth registry.AuthConfig, p Progress) error {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return invalid("invalid reference format: %q: %w", ref, err)
	}
	named = reference.TagNameOnly(named)
	select {
	case s.pulls <- struct{}{}:
		defer func() { <-s.pulls }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if err := s.pull(ctx, named, auth, p); err != nil {
		return fmt.Errorf("cannot pull %s: %w", reference.FamiliarString(named), registryError(err))
	}
	return nil
}

// PullAll is Pull of every tag that a repository has, one after the other.
func (s *Store) PullAll(ctx context.Context, repository string, auth registry.AuthConfig, p Progress) error {
	named, err := reference.ParseNormalizedNamed(repository)
	if err != nil || !reference.IsNameOnly(named) {
		return invalid("invalid reference format: %q: %w", repository, cmp.Or(err, errNotName))
	}
	r, err := newRemote(ctx, named, auth)
	if err != nil {
		return fmt.Errorf("cannot pull %s: %w", reference.FamiliarName(named), registryError(err))
	}
	tags, err := r.puller.List(ctx, r.repo)
	if err != nil {
		return fmt.Errorf("cannot pull %s: cannot list its tags: %w", reference.FamiliarName(named), registryError(err))
	}
	if len(tags) == 0 {
		return errdefs.ErrNotFound.WithMessage("cannot pull " + reference.FamiliarName(named) + ": it has no tags")
	}
	if len(tags) > MaxArchiveImages {
		return invalid("cannot pull %s: it has %d tags, and at most %d are pulled at once: name them", reference.FamiliarName(named), len(tags), MaxArchiveImages)
	}
	for _, tag := range tags {
		if err := s.Pull(ctx, named.Name()+":"+tag, auth, p); err != nil {
			return err
		}
	}
	return nil
}

var errNotName = errors.New("it is no repository alone")

func (s *Store) pull(ctx context.Context, named reference.Named, auth registry.AuthConfig, p Progress) error {
	r, err := newRemote(ctx, named, auth)
	if err != nil {
		return err
	}
	src, err := r.source(ctx)
	if err != nil {
		return err
	}
	p.status(tagOrDigest(named), "Pulling from "+reference.FamiliarName(named)) // the registry has it: errors before are the answer's status
	before, _ := s.index.Read().byReference(named)
	if err := s.fetch(ctx, r, src, p); err != nil {
		return err
	}
	if img, err := s.Resolve(src.id.String()); err == nil {
		s.tell(events.ActionPull, img, reference.FamiliarString(named), reference.FamiliarName(named))
	}
	p.status("", "Digest: "+digestOf(src.digest))
	what := "Downloaded newer image for "
	if before == src.id {
		what = "Image is up to date for "
	}
	p.status("", "Status: "+what+reference.FamiliarString(named))
	return nil
}

func digestOf(canonical string) string { return canonical[len(repository(canonical))+1:] }

// fetch downloads the layers that are missing, some at a time, while those below them are unpacked. Of several pulls of one
// image one does so, and the others wait for it.
func (s *Store) fetch(ctx context.Context, r *remoteImage, src source, p Progress) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	chains, err := chainIDs(src.config)
	if err != nil {
		return err
	}
	unlock, busy := s.locks.tryLock(src.id)
	if busy != nil {
		p.status("", "Waiting for another pull or load of the same image")
		if unlock, err = s.locks.lock(ctx, src.id); err != nil {
			return err
		}
	}
	defer unlock()
	defer s.pins.pin(append(slices.Clone(chains), src.id))()
	d := newDownloads(ctx, &s.transfers, r.layer, p)
	defer d.wait()
	defer cancel(nil)
	complete := s.complete(src.id)
	for i, c := range src.layers {
		defer s.pins.pin([]digest.Digest{blobKey(c.digest)})()
		kept := s.hasBlob(c.digest, c.diffID)
		if complete || kept && !s.lacks(chains[i]) {
			p.status(c.id(), "Already exists")
			continue
		}
		p.status(c.id(), "Pulling fs layer")
		if kept {
			src.layers[i].open = func(ctx context.Context) (io.ReadCloser, error) { return s.openBlob(ctx, c.digest) }
		} else {
			src.layers[i].open, src.layers[i].arrived = d.start(c)
		}
	}
	return s.installLocked(ctx, src, chains, wordsOfPull, p)
}

func tagOrDigest(named reference.Named) string {
	if d, ok := named.(reference.Digested); ok {
		return d.Digest().String()
	}
	return named.(reference.Tagged).Tag()
}

// source reads the manifest and the configuration of the image for this platform.
func (r *remoteImage) source(ctx context.Context) (source, error) {
	top, err := r.manifest(ctx, r.reference())
	if err != nil {
		return source{}, err
	}
	desc := top
	for range maxIndexDepth {
		if !isIndex(string(desc.MediaType)) {
			break
		}
		if desc, err = r.choose(ctx, desc.Manifest); err != nil {
			return source{}, err
		}
	}
	if !isManifest(string(desc.MediaType)) {
		return source{}, invalid("its index has more than %d levels", maxIndexDepth)
	}
	src, err := r.image(ctx, desc.Manifest)
	src.manifest, src.mediaType = desc.Manifest, string(desc.MediaType)
	src.digest = canonicalDigest(r.named, top.Digest.String())
	if _, byTag := r.named.(reference.Tagged); byTag && err == nil {
		var tag string
		tag, err = canonicalTag(r.named.String())
		src.tags = []string{tag}
	}
	return src, err
}

func (r *remoteImage) reference() name.Reference {
	if d, ok := r.named.(reference.Digested); ok {
		return r.repo.Digest(d.Digest().String())
	}
	return r.repo.Tag(tagOrDigest(r.named))
}

func (r *remoteImage) manifest(ctx context.Context, ref name.Reference) (*remote.Descriptor, error) {
	desc, err := r.puller.Get(ctx, ref)
	if err != nil {
		return nil, err
	}
	if len(desc.Manifest) > MaxManifestBytes {
		return nil, invalid("its manifest has %d bytes, more than %d", len(desc.Manifest), MaxManifestBytes)
	}
	return desc, checkType(string(desc.MediaType))
}

func (r *remoteImage) choose(ctx context.Context, index []byte) (*remote.Descriptor, error) {
	x, err := decodeIndexManifest(index)
	if err != nil {
		return nil, err
	}
	fit, err := choose(x.Manifests)
	if err != nil {
		return nil, err
	}
	if len(fit) == 0 {
		return nil, invalid("its index names no image")
	}
	return r.manifest(ctx, r.repo.Digest(fit[0].Digest.String()))
}

func (r *remoteImage) image(ctx context.Context, manifest []byte) (source, error) {
	m, err := decodeManifest(manifest)
	if err != nil {
		return source{}, err
	}
	config, err := r.config(ctx, m.Config)
	if err != nil {
		return source{}, err
	}
	diffIDs, err := runnable(config, len(m.Layers))
	if err != nil {
		return source{}, err
	}
	src := source{id: m.Config.Digest, config: config}
	total := int64(0)
	for i, l := range m.Layers {
		if l.Size < 0 || l.Size > MaxLayerBytes {
			return source{}, invalid("its layer %s has %d bytes, and at most %d are possible", shortID(l.Digest), l.Size, int64(MaxLayerBytes))
		}
		if total += l.Size; total > MaxArchiveBytes {
			return source{}, invalid("its layers have more than %d bytes", int64(MaxArchiveBytes))
		}
		src.layers = append(src.layers, content{diffID: diffIDs[i], digest: l.Digest, size: l.Size})
	}
	return src, nil
}

func (r *remoteImage) config(ctx context.Context, d ocispec.Descriptor) ([]byte, error) {
	blob, err := r.blob(ctx, d.Digest)
	if err != nil {
		return nil, err
	}
	defer blob.Close()
	data, err := readAll(blob, MaxConfigBytes)
	if err != nil {
		return nil, fmt.Errorf("its configuration: %w", err)
	}
	if got := digest.FromBytes(data); got != d.Digest {
		return nil, invalid("its configuration has the digest %s, not %s", got, d.Digest)
	}
	return data, nil
}
