package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
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
	r, err := newRemote(named, auth)
	if err != nil {
		return err
	}
	p.status(tagOrDigest(named), "Pulling from "+reference.FamiliarName(named))
	src, err := r.source(ctx)
	if err != nil {
		return fmt.Errorf("cannot pull %s: %w", reference.FamiliarString(named), registryError(err))
	}
	before, _ := s.index.read().byReference(named)
	if err := s.fetch(ctx, r, src, p); err != nil {
		return fmt.Errorf("cannot pull %s: %w", reference.FamiliarString(named), registryError(err))
	}
	p.status("", "Digest: "+digestOf(src.digest))
	what := "Downloaded newer image for "
	if before == src.id {
		what = "Image is up to date for "
	}
	p.status("", "Status: "+what+reference.FamiliarString(named))
	return nil
}

// fetch downloads the layers that are missing, some at a time, while those below them are unpacked.
func (s *Store) fetch(ctx context.Context, r *remoteImage, src source, p Progress) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	chains, err := chainIDs(src.config)
	if err != nil {
		return err
	}
	defer s.pins.pin(chains)()
	d := newDownloads(ctx)
	defer d.wait()
	defer cancel(nil)
	for i, c := range src.layers {
		if !s.lacks(chains[i]) {
			p.status(c.id(), "Already exists")
			continue
		}
		p.status(c.id(), "Pulling fs layer")
		src.layers[i].open = d.start(c, r.blob, p)
	}
	return s.install(ctx, src, wordsOfPull, p)
}

func tagOrDigest(named reference.Named) string {
	if d, ok := named.(reference.Digested); ok {
		return d.Digest().String()
	}
	return named.(reference.Tagged).Tag()
}

// remoteImage is a repository of a registry, and what is wanted of it.
type remoteImage struct {
	named  reference.Named
	repo   name.Repository
	puller *remote.Puller
}

func newRemote(named reference.Named, auth registry.AuthConfig) (*remoteImage, error) {
	repo, err := name.NewRepository(named.Name())
	if err != nil {
		return nil, invalid("invalid reference format: %w", err)
	}
	puller, err := remote.NewPuller(
		remote.WithAuth(authn.FromConfig(authn.AuthConfig{
			Username: auth.Username, Password: auth.Password, Auth: auth.Auth,
			IdentityToken: auth.IdentityToken, RegistryToken: auth.RegistryToken,
		})),
		remote.WithTransport(tlsUnlessLoopback{remote.DefaultTransport}),
	)
	return &remoteImage{named: named, repo: repo, puller: puller}, err
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
	for i, l := range m.Layers {
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

// blob opens a blob; reading it fails when its digest is another.
func (r *remoteImage) blob(ctx context.Context, d digest.Digest) (io.ReadCloser, error) {
	l, err := r.puller.Layer(ctx, r.repo.Digest(d.String()))
	if err != nil {
		return nil, err
	}
	return l.Compressed()
}

// registryError gives a registry's error its class.
func registryError(err error) error {
	var refused *transport.Error
	if !errors.As(err, &refused) {
		return err
	}
	switch refused.StatusCode {
	case http.StatusNotFound:
		return classed(errdefs.ErrNotFound, "%w", err)
	case http.StatusUnauthorized:
		return classed(errdefs.ErrUnauthenticated, "%w", err)
	case http.StatusForbidden:
		return classed(errdefs.ErrPermissionDenied, "%w", err)
	}
	return err
}

// tlsUnlessLoopback refuses requests over plain HTTP that would leave this machine.
type tlsUnlessLoopback struct{ next http.RoundTripper }

func (t tlsUnlessLoopback) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme != "https" && !isLoopback(req.URL.Hostname()) {
		return nil, invalid("the registry %s does not speak TLS; only one on this machine may do without", req.URL.Host)
	}
	return t.next.RoundTrip(req)
}
