package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/registry"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// maxUploads bounds the layers of a push that are sent at a time; Docker's default is the same (moby, daemon/config:
// DefaultMaxConcurrentUploads).
const maxUploads = 5

// Push sends the image that ref names to the registry of that name: its layers and its manifest as they came, so that they have the digests
// there that they have here. A name without a tag sends all tags of the repository. Progress is told in Docker's words; the error of an
// image that is not here is of class errdefs.ErrNotFound, a registry's as those of Pull.
func (s *Store) Push(ctx context.Context, ref string, auth registry.AuthConfig, p Progress) error {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return invalid("invalid reference format: %q: %w", ref, err)
	}
	if _, digested := named.(reference.Digested); digested {
		return invalid("cannot push a digest reference")
	}
	p.status("", "The push refers to repository ["+named.Name()+"]")
	tags, err := s.index.Read().tagsToPush(named)
	if err != nil {
		return err
	}
	r, err := newRemote(ctx, named, auth, s.pushScopes(tags, named)...)
	if err != nil {
		return fmt.Errorf("cannot push to %s: %w", reference.FamiliarName(named), registryError(err))
	}
	for _, tag := range tags {
		if err := s.pushTag(ctx, r, tag, p); err != nil {
			return fmt.Errorf("cannot push %s: %w", reference.FamiliarString(tag), registryError(err))
		}
	}
	return nil
}

// tagsToPush are the names that a push means, in their order.
func (x *index) tagsToPush(named reference.Named) ([]reference.NamedTagged, error) {
	var all []string
	for tag := range x.Tags {
		if repository(tag) == named.Name() {
			all = append(all, tag)
		}
	}
	if len(all) == 0 {
		return nil, errdefs.ErrNotFound.WithMessage("An image does not exist locally with the tag: " + reference.FamiliarName(named))
	}
	if tagged, ok := named.(reference.NamedTagged); ok {
		if !slices.Contains(all, tagged.String()) {
			return nil, errdefs.ErrNotFound.WithMessage("tag does not exist: " + reference.FamiliarString(tagged))
		}
		return []reference.NamedTagged{tagged}, nil
	}
	slices.Sort(all)
	var tags []reference.NamedTagged
	for _, name := range all {
		parsed, err := reference.ParseNormalizedNamed(name)
		if tagged, ok := parsed.(reference.NamedTagged); ok && err == nil {
			tags = append(tags, tagged)
		}
	}
	return tags, nil
}

// pushScopes are what a push may do at the registry: to write its repository, and to read those that have blobs of the images already.
func (s *Store) pushScopes(tags []reference.NamedTagged, named reference.Named) []string {
	scopes := []string{"repository:" + reference.Path(named) + ":push,pull"}
	x := s.index.Read()
	for _, tag := range tags {
		for _, b := range x.Images[x.Tags[tag.String()]].Blobs {
			if from := x.mountable(b, named); from != "" {
				if scope := "repository:" + from + ":pull"; !slices.Contains(scopes, scope) {
					scopes = append(scopes, scope)
				}
			}
		}
	}
	return scopes
}

// mountable is the path of another repository of the same registry that has a blob, as far as images that were pulled from it, or pushed to
// it, tell; empty: there is none.
func (x *index) mountable(blob digest.Digest, to reference.Named) string {
	var found []string
	for name, id := range x.Digests {
		from, err := reference.ParseNormalizedNamed(repository(name))
		if err == nil && from.Name() != to.Name() && reference.Domain(from) == reference.Domain(to) && slices.Contains(x.Images[id].Blobs, blob) {
			found = append(found, reference.Path(from))
		}
	}
	if len(found) == 0 {
		return ""
	}
	return slices.Min(found)
}

// pushTag sends one image.
func (s *Store) pushTag(ctx context.Context, r *remoteImage, tag reference.NamedTagged, p Progress) error {
	img, release, err := s.pinBlobs(tag.String())
	if err != nil {
		return err
	}
	defer release()
	x := s.index.Read()
	g, uploads := errgroup.WithContext(ctx)
	g.SetLimit(maxUploads)
	push := &pushing{s: s, r: r, x: x, tell: p}
	if push.pusher, err = remote.NewPusher(remote.WithTransport(r.client.Transport)); err != nil {
		return err
	}
	for i, d := range img.Blobs {
		p.status(shortID(d), "Preparing")
		if !slices.Contains(img.Blobs[:i], d) {
			g.Go(func() error { return push.layer(uploads, d) })
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	config := x.Images[img.ID].Config
	if err := push.config(ctx, img.ID, config); err != nil {
		return fmt.Errorf("its configuration: %w", err)
	}
	if err := push.pusher.Push(ctx, r.repo.Tag(tag.Tag()), rawManifest{img.Manifest, types.MediaType(img.Type)}); err != nil {
		return fmt.Errorf("its manifest: %w", err)
	}
	desc := img.Descriptor()
	return s.pushed(ctx, img, tag, desc, p)
}

// pushed tells that an image is at its registry, and remembers the name that it has there.
func (s *Store) pushed(ctx context.Context, img Image, tag reference.NamedTagged, desc ocispec.Descriptor, p Progress) error {
	known := canonicalDigest(tag, desc.Digest.String())
	err := s.index.Commit(ctx, func(x *index) error {
		if _, live := x.live(img.ID); live {
			x.Digests[known] = img.ID
		}
		return nil
	})
	if err != nil {
		return err
	}
	p.status("", fmt.Sprintf("%s: digest: %s size: %d", tag.Tag(), desc.Digest, desc.Size))
	p(Event{Aux: map[string]any{"Tag": tag.Tag(), "Digest": desc.Digest, "Size": desc.Size}})
	s.tell(events.ActionPush, img, reference.FamiliarString(tag), reference.FamiliarName(tag))
	return nil
}

// pushing sends the parts of one image.
type pushing struct {
	s      *Store
	r      *remoteImage
	x      *index
	pusher *remote.Pusher
	tell   Progress
}

// layer sends a blob, unless the registry has it: in this repository, or in one that it can be mounted from.
func (p *pushing) layer(ctx context.Context, d digest.Digest) error {
	id := shortID(d)
	b := p.x.Blobs[d]
	l := &sentBlob{digest: d, size: b.Size, mediaType: b.Type,
		open: func() (io.ReadCloser, error) { return p.s.openBlob(ctx, d) },
		read: func(n int64) { p.tell.bytes(id, "Pushing", n, b.Size) },
	}
	var send v1.Layer = l
	existing := "Layer already exists"
	if from := p.x.mountable(d, p.r.named); from != "" {
		there, err := p.r.has(ctx, d)
		if err != nil {
			return err
		}
		if !there {
			existing = "Mounted from " + from
			send = &remote.MountableLayer{Layer: l, Reference: p.r.repo.Registry.Repo(strings.Split(from, "/")...).Tag("latest")}
		}
	}
	if err := p.pusher.Upload(ctx, p.r.repo, send); err != nil {
		return fmt.Errorf("layer %s: %w", d, err)
	}
	if l.opened.Load() {
		existing = "Pushed"
	}
	p.tell.status(id, existing)
	return nil
}

func (p *pushing) config(ctx context.Context, id digest.Digest, data []byte) error {
	return p.pusher.Upload(ctx, p.r.repo, &sentBlob{digest: id, size: int64(len(data)), mediaType: ocispec.MediaTypeImageConfig,
		open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }, read: func(int64) {}})
}

// has asks whether the repository has a blob.
func (r *remoteImage) has(ctx context.Context, d digest.Digest) (bool, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, r.blobURL(d), nil)
	if err != nil {
		return false, err
	}
	res, err := r.client.Do(req)
	if err != nil {
		return false, err
	}
	defer res.Body.Close()
	return res.StatusCode == http.StatusOK, transport.CheckError(res, http.StatusOK, http.StatusNotFound)
}

// sentBlob is a blob as go-containerregistry sends it, perhaps from its start again.
type sentBlob struct {
	digest    digest.Digest
	size      int64
	mediaType string
	open      func() (io.ReadCloser, error)
	read      func(int64)
	opened    atomic.Bool
}

func (b *sentBlob) Digest() (v1.Hash, error)             { return v1.NewHash(b.digest.String()) }
func (b *sentBlob) DiffID() (v1.Hash, error)             { return v1.Hash{}, errNotHere }
func (b *sentBlob) Uncompressed() (io.ReadCloser, error) { return nil, errNotHere }
func (b *sentBlob) Size() (int64, error)                 { return b.size, nil }
func (b *sentBlob) MediaType() (types.MediaType, error)  { return types.MediaType(b.mediaType), nil }

var errNotHere = errors.New("a push sends layers as they are")

// Compressed are the bytes.
func (b *sentBlob) Compressed() (io.ReadCloser, error) {
	b.opened.Store(true)
	r, err := b.open()
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{&meter{r: r, read: b.read}, r}, nil
}

// rawManifest is a manifest as go-containerregistry sends it.
type rawManifest struct {
	data      []byte
	mediaType types.MediaType
}

// RawManifest are its bytes.
func (m rawManifest) RawManifest() ([]byte, error) { return m.data, nil }

// MediaType is its type.
func (m rawManifest) MediaType() (types.MediaType, error) { return m.mediaType, nil }

// Login asks a registry whether it takes credentials. address is a host, perhaps with a scheme and a path, as clients send it; empty: Docker
// Hub. The error is of class errdefs.ErrUnauthenticated when it does not.
func Login(ctx context.Context, address string, auth registry.AuthConfig) error {
	host := registryHost(address)
	reg, err := name.NewRegistry(host)
	if err != nil {
		return invalid("cannot log in to %q: it is no name of a registry: %w", address, err)
	}
	trip, err := logIn(ctx, reg, auth, nil)
	if err != nil {
		return loginError(reg, err)
	}
	url := fmt.Sprintf("%s://%s/v2/", reg.Scheme(), reg.RegistryStr())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	res, err := (&http.Client{Transport: trip, CheckRedirect: checkRedirect}).Do(req)
	if err != nil {
		return loginError(reg, err)
	}
	defer res.Body.Close()
	if err := transport.CheckError(res, http.StatusOK); err != nil {
		return loginError(reg, err)
	}
	return nil
}

// loginError has Docker's words for a registry that refuses.
func loginError(reg name.Registry, err error) error {
	var refused *transport.Error
	if !errors.As(err, &refused) {
		return fmt.Errorf("cannot log in to %s: %w", reg.RegistryStr(), err)
	}
	class := error(errdefs.ErrInternal)
	if refused.StatusCode == http.StatusUnauthorized || refused.StatusCode == http.StatusForbidden || refused.StatusCode == http.StatusBadRequest {
		class = errdefs.ErrUnauthenticated
	}
	return classed(class, "login attempt to %s://%s/v2/ failed with status: %d %s", reg.Scheme(), reg.RegistryStr(), refused.StatusCode, http.StatusText(refused.StatusCode))
}

// registryHost is the host of an address as clients send it: "https://index.docker.io/v1/" is Docker Hub's.
func registryHost(address string) string {
	for _, scheme := range []string{"https://", "http://"} {
		address = strings.TrimPrefix(address, scheme)
	}
	host, _, _ := strings.Cut(address, "/")
	if host == "" || host == "docker.io" || host == "registry-1.docker.io" {
		return name.DefaultRegistry
	}
	return host
}
