package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/moby/moby/api/types/registry"
	"github.com/opencontainers/go-digest"
)

// remoteImage is a repository of a registry, and what is wanted of it.
type remoteImage struct {
	named  reference.Named
	repo   name.Repository
	puller *remote.Puller // of manifests and configurations
	client *http.Client   // of what a puller cannot do, as to resume layers; it has the puller's credentials
}

// newRemote logs in to the registry, for more than to pull if scopes say so.
func newRemote(ctx context.Context, named reference.Named, auth registry.AuthConfig, scopes ...string) (*remoteImage, error) {
	repo, err := name.NewRepository(named.Name())
	if err != nil {
		return nil, invalid("invalid reference format: %w", err)
	}
	if len(scopes) == 0 {
		scopes = []string{repo.Scope(transport.PullScope)}
	}
	trip, err := logIn(ctx, repo.Registry, auth, scopes)
	if err != nil {
		return nil, err
	}
	puller, err := remote.NewPuller(remote.WithTransport(trip))
	return &remoteImage{named: named, repo: repo, puller: puller, client: &http.Client{Transport: trip, CheckRedirect: checkRedirect}}, err
}

// logIn makes what sends requests to a registry with credentials.
func logIn(ctx context.Context, reg name.Registry, auth registry.AuthConfig, scopes []string) (http.RoundTripper, error) {
	login := authn.FromConfig(authn.AuthConfig{
		Username: auth.Username, Password: auth.Password, Auth: auth.Auth,
		IdentityToken: auth.IdentityToken, RegistryToken: auth.RegistryToken,
	})
	return transport.NewWithContext(ctx, reg, login, retrying(tlsUnlessLoopback{newGuard(reg.RegistryStr())}), scopes)
}

// retrying sends requests again that failed for reasons that pass, as a puller without a transport of its own does
// (go-containerregistry, remote, defaultRetryBackoff).
func retrying(trip http.RoundTripper) http.RoundTripper {
	return transport.NewRetry(trip,
		transport.WithRetryBackoff(transport.Backoff{Duration: time.Second, Factor: 3, Jitter: 0.1, Steps: 3}),
		transport.WithRetryPredicate(passing),
		transport.WithRetryStatusCodes(http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
			http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout))
}

// passing reports whether a request that failed with err may be sent again.
func passing(err error) bool {
	var temporary interface{ Temporary() bool }
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) ||
		errors.Is(err, net.ErrClosed) || !errors.Is(err, context.DeadlineExceeded) && errors.As(err, &temporary) && temporary.Temporary()
}

// maxRedirects bounds the redirects of a request; Go's own client has the same bound (net/http, defaultCheckRedirect).
const maxRedirects = 10

// checkRedirect refuses redirects by which a registry would have this machine ask another one of its own network, as
// go-containerregistry does (remote, checkRedirectSSRF).
func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) >= maxRedirects {
		return fmt.Errorf("more than %d redirects", maxRedirects)
	}
	host := req.URL.Hostname()
	addr, err := netip.ParseAddr(host)
	addr = addr.Unmap()
	if err == nil && host != via[0].URL.Hostname() && (addr.IsPrivate() || addr.IsLoopback() || addr.IsLinkLocalUnicast() || addr.IsUnspecified()) {
		return fmt.Errorf("the registry %s redirects to the private address %s", via[0].URL.Host, host)
	}
	return nil
}

func (r *remoteImage) blobURL(d digest.Digest) string {
	return fmt.Sprintf("%s://%s/v2/%s/blobs/%s", r.repo.Scheme(), r.repo.RegistryStr(), r.repo.RepositoryStr(), d)
}

// layer opens a blob of size bytes at an offset. A registry that cannot begin there sends it all, and what is before the offset
// is read and dropped.
func (r *remoteImage) layer(ctx context.Context, d digest.Digest, offset, size int64) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.blobURL(d), nil)
	if err != nil {
		return nil, err
	}
	if offset > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	res, err := r.client.Do(req)
	if err != nil {
		return nil, err
	}
	if err := position(res, offset, size); err != nil {
		res.Body.Close()
		return nil, err
	}
	return res.Body, nil
}

// position checks the answer to a request for a blob of size bytes from an offset on, and reads up to it.
func position(res *http.Response, offset, size int64) error {
	if err := transport.CheckError(res, http.StatusOK, http.StatusPartialContent); err != nil {
		return err
	}
	begin := int64(0)
	if res.StatusCode == http.StatusPartialContent {
		if _, err := fmt.Sscanf(res.Header.Get("Content-Range"), "bytes %d-", &begin); err != nil || begin < 0 || begin > offset {
			return invalid("the registry answered with the range %q, not with the bytes from %d on", res.Header.Get("Content-Range"), offset)
		}
	}
	if n := res.ContentLength; n >= 0 && n != size-begin {
		return invalid("the registry has %d bytes of it, not %d", begin+n, size)
	}
	_, err := io.CopyN(io.Discard, res.Body, offset-begin)
	return err
}

// blob opens a small blob; reading it fails when its digest is another.
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

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || (ip != nil && ip.IsLoopback())
}
