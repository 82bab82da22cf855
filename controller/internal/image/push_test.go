package image

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	dockerregistry "github.com/moby/moby/api/types/registry"
	"github.com/opencontainers/go-digest"
)

// token makes a registry of bearer tokens: alice gets one, for the scopes that she asks for, which asked gets.
func (f *fakeRegistry) token(asked func(scopes []string)) {
	f.wrap = func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/token" {
			if user, password, _ := r.BasicAuth(); user != "alice" || password != "secret" {
				w.WriteHeader(http.StatusUnauthorized)
				return true
			}
			asked(r.URL.Query()["scope"])
			fmt.Fprint(w, `{"token":"let me in"}`)
			return true
		}
		if r.Header.Get("Authorization") == "Bearer let me in" {
			return false
		}
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="here"`, f.host))
		w.WriteHeader(http.StatusUnauthorized)
		return true
	}
}

var alice = dockerregistry.AuthConfig{Username: "alice", Password: "secret"}

// TestPushKeepsDigests: what was loaded or pulled is pushed with the digests that it has, and pulled again is the same image.
func TestPushKeepsDigests(t *testing.T) {
	for suffix, compress := range map[string]func([]byte) []byte{"": nil, "+gzip": gzipped, "+zstd": zstandard} {
		r, h := newRegistry(t), newFakeHost(t)
		img := demo("", "a", "b", "a")
		img.Compress, img.Suffix = compress, suffix
		desc, _ := img.Manifest()
		s := layoutOf(t, h, img)
		ref := r.host + "/team/app:v1"
		if err := s.Tag(t.Context(), img.ID().String(), ref); err != nil {
			t.Fatal(err)
		}
		var scopes []string
		r.token(func(s []string) { scopes = append(scopes, s...) })
		if err := s.Push(t.Context(), ref, dockerregistry.AuthConfig{}, ignore); !errdefs.IsUnauthorized(err) {
			t.Errorf("without credentials: %v", err)
		}
		var e progressLog
		if err := s.Push(t.Context(), ref, alice, e.add); err != nil {
			t.Fatal(err)
		}
		lines := e.lines()
		for _, want := range []string{"The push refers to repository [" + r.host + "/team/app]", fmt.Sprintf("v1: digest: %s size: %d", desc.Digest, desc.Size)} {
			if !slices.Contains(lines, want) {
				t.Errorf("no line %q in %q", want, lines)
			}
		}
		if n := strings.Count(strings.Join(lines, "\n"), " Pushed"); n != 2 {
			t.Errorf("%d layers were pushed, want 2: %q", n, lines)
		}
		if !slices.Contains(scopes, "repository:team/app:push,pull") {
			t.Errorf("scopes are %q", scopes)
		}
		if got, _ := s.Resolve(ref); !slices.Contains(got.RepoDigests, r.host+"/team/app@"+desc.Digest.String()) {
			t.Errorf("digests are %q", got.RepoDigests)
		}
		h2 := newFakeHost(t)
		other := newStore(t, h2)
		if err := other.Pull(t.Context(), r.host+"/team/app@"+desc.Digest.String(), alice, ignore); err != nil {
			t.Fatal(err)
		}
		checkImage(t, h2, other, img, img.ID().String())

		e.all = nil
		if err := other.Tag(t.Context(), img.ID().String(), ref); err != nil {
			t.Fatal(err)
		}
		if err := other.Push(t.Context(), ref, alice, e.add); err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(strings.Join(e.lines(), "\n"), " Layer already exists"); n != 2 {
			t.Errorf("a second push: %q", e.lines())
		}
	}
}

// TestPushMounts: a layer that another repository of the registry has is not sent.
func TestPushMounts(t *testing.T) {
	r, h := newRegistry(t), newFakeHost(t)
	s := newStore(t, h)
	img := demo("", "a", "b")
	r.push("team/base", "1", img)
	if err := s.Pull(t.Context(), r.host+"/team/base:1", dockerregistry.AuthConfig{}, ignore); err != nil {
		t.Fatal(err)
	}
	if err := s.Tag(t.Context(), r.host+"/team/base:1", r.host+"/team/app:1"); err != nil {
		t.Fatal(err)
	}
	var mounts atomic.Int32
	r.wrap = func(w http.ResponseWriter, req *http.Request) bool {
		switch {
		case req.Method == http.MethodHead && strings.Contains(req.URL.Path, "/team/app/blobs/"): // the fake has one store for all repositories
			w.WriteHeader(http.StatusNotFound)
			return true
		case req.Method == http.MethodPost && req.URL.Query().Get("from") == "team/base":
			mounts.Add(1)
			w.WriteHeader(http.StatusCreated)
			return true
		}
		return false
	}
	var e progressLog
	if err := s.Push(t.Context(), r.host+"/team/app:1", dockerregistry.AuthConfig{}, e.add); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(strings.Join(e.lines(), "\n"), "Mounted from team/base"); n != 2 || mounts.Load() != 2 {
		t.Errorf("%d layers are mounted, %d are said to be: %q", mounts.Load(), n, e.lines())
	}
}

func TestPushAllTagsAndRefusals(t *testing.T) {
	r, h := newRegistry(t), newFakeHost(t)
	s := newStore(t, h)
	loadInto(t, s, demo(r.host+"/app:1", "a"), demo(r.host+"/app:2", "b"))
	for ref, want := range map[string]string{
		r.host + "/nothing:1": "An image does not exist locally with the tag: " + r.host + "/nothing",
		r.host + "/app:3":     "tag does not exist: " + r.host + "/app:3",
	} {
		if err := s.Push(t.Context(), ref, dockerregistry.AuthConfig{}, ignore); !errdefs.IsNotFound(err) || err.Error() != want {
			t.Errorf("%s: %v", ref, err)
		}
	}
	if err := s.Push(t.Context(), r.host+"/app", dockerregistry.AuthConfig{}, ignore); err != nil {
		t.Fatal(err)
	}
	other := newStore(t, newFakeHost(t))
	if err := other.PullAll(t.Context(), r.host+"/app", dockerregistry.AuthConfig{}, ignore); err != nil || len(other.List()) != 2 {
		t.Errorf("%d images, %v", len(other.List()), err)
	}
	if err := other.PullAll(t.Context(), r.host+"/app:1", dockerregistry.AuthConfig{}, ignore); !errdefs.IsInvalidArgument(err) {
		t.Errorf("all tags of a tag: %v", err)
	}
	r.wrap = func(w http.ResponseWriter, req *http.Request) bool {
		denied := req.Method == http.MethodPut && strings.Contains(req.URL.Path, "/manifests/")
		if denied {
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprint(w, `{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}`)
		}
		return denied
	}
	if err := s.Tag(t.Context(), r.host+"/app:1", r.host+"/app:4"); err != nil {
		t.Fatal(err)
	}
	if err := s.Push(t.Context(), r.host+"/app:4", dockerregistry.AuthConfig{}, ignore); !errdefs.IsPermissionDenied(err) || !strings.Contains(err.Error(), "requested access") {
		t.Errorf("error is %v", err)
	}
	if len(s.pins.count) != 0 {
		t.Errorf("pins are left: %v", s.pins.count)
	}
}

// TestPushOfDamagedBlob: a registry that believes what it is sent gets no other bytes under a digest.
func TestPushOfDamagedBlob(t *testing.T) {
	r, h := newRegistry(t), newFakeHost(t)
	s := newStore(t, h)
	img := demo(r.host+"/app:1", "a")
	loadInto(t, s, img)
	h.files[blobPath(digest.FromBytes(img.Layers[0]))] = bytes.Repeat([]byte{1}, len(img.Layers[0]))
	if err := s.Push(t.Context(), r.host+"/app:1", dockerregistry.AuthConfig{}, ignore); err == nil {
		t.Error("the push succeeded")
	}
}

func TestLogin(t *testing.T) {
	r := newRegistry(t)
	login := func(user, password string) error {
		return Login(t.Context(), "http://"+r.host+"/v1/", dockerregistry.AuthConfig{Username: user, Password: password})
	}
	basic := func(w http.ResponseWriter, req *http.Request) bool {
		user, password, _ := req.BasicAuth()
		if user == "alice" && password == "secret" {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="private"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	}
	for name, set := range map[string]func(){"basic": func() { r.wrap = basic }, "bearer": func() { r.token(func([]string) {}) }} {
		set()
		if err := login("alice", "secret"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		err := login("alice", "wrong")
		if !errdefs.IsUnauthorized(err) || !strings.Contains(err.Error(), "401 Unauthorized") || strings.Contains(err.Error(), "wrong") {
			t.Errorf("%s: with the wrong password: %v", name, err)
		}
	}
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	if err := Login(t.Context(), strings.TrimPrefix(gone.URL, "http://"), alice); err == nil || errdefs.IsUnauthorized(err) || !strings.Contains(err.Error(), "refused") {
		t.Errorf("a registry that is not there: %v", err)
	}
	if err := Login(t.Context(), "no registry at all", alice); !errdefs.IsInvalidArgument(err) {
		t.Errorf("error is %v", err)
	}
}

// TestTLSRegistry: a registry with a certificate that this machine trusts is spoken to by TLS; one that it does not trust is refused.
func TestTLSRegistry(t *testing.T) {
	server := httptest.NewTLSServer(registry.New())
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "https://")
	s := newStore(t, newFakeHost(t))
	loadInto(t, s, demo(host+"/app:1", "a"))
	if err := s.Push(t.Context(), host+"/app:1", alice, ignore); err == nil {
		t.Error("a registry that nobody vouches for was sent an image")
	}
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	was := remote.DefaultTransport
	t.Cleanup(func() { remote.DefaultTransport = was })
	remote.DefaultTransport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	if err := errors.Join(Login(t.Context(), server.URL, alice), s.Push(t.Context(), host+"/app:1", alice, ignore)); err != nil {
		t.Fatal(err)
	}
	if err := newStore(t, newFakeHost(t)).Pull(t.Context(), host+"/app:1", alice, ignore); err != nil {
		t.Error(err)
	}
}

func TestRegistryHost(t *testing.T) {
	for address, want := range map[string]string{
		"": "index.docker.io", "https://index.docker.io/v1/": "index.docker.io", "docker.io": "index.docker.io",
		"https://example.com:5000/v2/": "example.com:5000", "example.com": "example.com",
	} {
		if got := registryHost(address); got != want {
			t.Errorf("%q: %q, want %q", address, got, want)
		}
	}
}
