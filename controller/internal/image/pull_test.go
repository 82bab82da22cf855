package image

import (
	"bytes"
	"context"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/registry"
	dockerregistry "github.com/moby/moby/api/types/registry"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"encoding/json"

	"github.com/containervm/containervm/internal/testimage"
)

// fakeRegistry is a registry on loopback; wrap, when set, sees each request first.
type fakeRegistry struct {
	t    *testing.T
	host string
	wrap func(w http.ResponseWriter, r *http.Request) (handled bool)
}

func newRegistry(t *testing.T) *fakeRegistry {
	f := &fakeRegistry{t: t}
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f.wrap == nil || !f.wrap(w, r) {
			inner.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(server.Close)
	f.host = strings.TrimPrefix(server.URL, "http://")
	return f
}

func (f *fakeRegistry) put(path, mediaType string, body []byte) {
	f.t.Helper()
	req, _ := http.NewRequest(http.MethodPut, "http://"+f.host+path, bytes.NewReader(body))
	req.Header.Set("Content-Type", mediaType)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		f.t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusCreated {
		f.t.Fatalf("PUT %s: %s", path, res.Status)
	}
}

// push uploads an image's blobs and its manifest, also under tag.
func (f *fakeRegistry) push(repo, tag string, img testimage.Image) ocispec.Descriptor {
	f.t.Helper()
	desc, blobs := img.Manifest()
	for _, b := range blobs[:len(blobs)-1] {
		res, err := http.Post("http://"+f.host+"/v2/"+repo+"/blobs/uploads/?digest="+digest.FromBytes(b.Data).String(), "", bytes.NewReader(b.Data))
		if err != nil {
			f.t.Fatal(err)
		}
		res.Body.Close()
	}
	manifest := blobs[len(blobs)-1].Data
	for _, ref := range []string{tag, desc.Digest.String()} {
		f.put("/v2/"+repo+"/manifests/"+ref, desc.MediaType, manifest)
	}
	return desc
}

func (f *fakeRegistry) pushIndex(repo, tag string, entries ...ocispec.Descriptor) digest.Digest {
	f.t.Helper()
	data, _ := json.Marshal(ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: entries})
	f.put("/v2/"+repo+"/manifests/"+tag, ocispec.MediaTypeImageIndex, data)
	return digest.FromBytes(data)
}

func TestPull(t *testing.T) {
	r, h := newRegistry(t), newFakeHost(t)
	s := newStore(t, h)
	img := demo("", "a", "b", "c", "d", "e")
	img.Compress, img.Suffix = gzipped, "+gzip"
	desc := r.push("team/app", "v1", img)
	ref := r.host + "/team/app:v1"

	var e progressLog
	if err := s.Pull(t.Context(), ref, dockerregistry.AuthConfig{}, e.add); err != nil {
		t.Fatal(err)
	}
	checkImage(t, h, s, img, ref)
	checkImage(t, h, s, img, r.host+"/team/app@"+desc.Digest.String())
	lines := e.lines()
	for _, want := range []string{"v1 Pulling from " + r.host + "/team/app", "Digest: " + desc.Digest.String(), "Status: Downloaded newer image for " + ref} {
		if !slices.Contains(lines, want) {
			t.Errorf("no line %q in %q", want, lines)
		}
	}
	for _, status := range []string{"Pulling fs layer", "Download complete", "Pull complete"} {
		if n := len(slices.DeleteFunc(slices.Clone(lines), func(l string) bool { return !strings.HasSuffix(l, status) })); n != 5 {
			t.Errorf("%d lines %q, want 5", n, status)
		}
	}
	h.nothingLeft(s)

	e.all = nil
	if err := s.Pull(t.Context(), ref, dockerregistry.AuthConfig{}, e.add); err != nil {
		t.Fatal(err)
	}
	if last := e.lines()[len(e.lines())-1]; last != "Status: Image is up to date for "+ref {
		t.Errorf("last line is %q", last)
	}
	if _, ever := h.machines(); ever != 1 {
		t.Errorf("%d VMs were made, want 1", ever)
	}
}

// TestTwoPullsOfOneImage: the second waits for the first, and downloads what that one could not.
func TestTwoPullsOfOneImage(t *testing.T) {
	for name, broken := range map[string]bool{"both": false, "the first is given up": true} {
		t.Run(name, func(t *testing.T) {
			r, h := newRegistry(t), newFakeHost(t)
			s := newStore(t, h)
			img := demo("", "a", "b")
			r.push("app", "1", img)
			r.push("app", "2", img)
			began, goOn := make(chan struct{}), make(chan struct{})
			var once sync.Once
			var downloads atomic.Int32
			r.wrap = func(_ http.ResponseWriter, req *http.Request) bool {
				if req.Method == http.MethodGet && strings.HasSuffix(req.URL.Path, digest.FromBytes(img.Layers[0]).String()) {
					downloads.Add(1)
					once.Do(func() { close(began) })
					select {
					case <-goOn:
					case <-req.Context().Done():
					}
				}
				return false
			}
			first, cancel := context.WithCancel(t.Context())
			defer cancel()
			var work sync.WaitGroup
			given := make(chan struct{})
			work.Go(func() {
				defer close(given)
				if err := s.Pull(first, r.host+"/app:1", dockerregistry.AuthConfig{}, ignore); (err != nil) != broken {
					t.Errorf("the first pull: %v", err)
				}
			})
			<-began
			waits := make(chan struct{})
			work.Go(func() {
				err := s.Pull(t.Context(), r.host+"/app:2", dockerregistry.AuthConfig{}, func(e Event) {
					if strings.HasPrefix(e.Status, "Waiting") {
						close(waits)
					}
				})
				if err != nil {
					t.Errorf("the second pull: %v", err)
				}
			})
			<-waits
			want := int32(1)
			if broken {
				want = 2
				cancel()
				<-given // else its download may end before it is given up
			}
			close(goOn)
			work.Wait()
			if n := downloads.Load(); n != want {
				t.Errorf("the layer was downloaded %d times, want %d", n, want)
			}
			checkImage(t, h, s, img, r.host+"/app:2")
			h.nothingLeft(s)
		})
	}
}

func TestPullByDigestAndIndex(t *testing.T) {
	r, h := newRegistry(t), newFakeHost(t)
	s := newStore(t, h)
	img, arm := demo("", "a"), demo("", "b")
	arm.Platform = ocispec.Platform{OS: "linux", Architecture: "arm", Variant: "v7"}
	armDesc, desc := r.push("app", "arm", arm), r.push("app", "amd", img)
	index := r.pushIndex("app", "latest", armDesc, desc)

	if err := s.Pull(t.Context(), r.host+"/app@"+index.String(), dockerregistry.AuthConfig{}, ignore); err != nil {
		t.Fatal(err)
	}
	checkImage(t, h, s, img, r.host+"/app@"+index.String())
	if got, _ := s.Resolve(string(img.ID())); len(got.RepoTags) != 0 || len(got.RepoDigests) != 1 {
		t.Errorf("names are %q and %q", got.RepoTags, got.RepoDigests)
	}
	if err := s.Pull(t.Context(), r.host+"/app", dockerregistry.AuthConfig{}, ignore); err != nil {
		t.Fatal(err)
	}
	checkImage(t, h, s, img, r.host+"/app:latest")

	r.pushIndex("app", "armonly", armDesc)
	err := s.Pull(t.Context(), r.host+"/app:armonly", dockerregistry.AuthConfig{}, ignore)
	if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "there is linux/arm/v7") {
		t.Errorf("error is %v", err)
	}
}

func TestPullWithCredentials(t *testing.T) {
	r, h := newRegistry(t), newFakeHost(t)
	s := newStore(t, h)
	r.push("private", "latest", demo("", "a"))
	r.wrap = func(w http.ResponseWriter, req *http.Request) bool {
		if user, password, _ := req.BasicAuth(); user == "alice" && password == "secret" {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="private"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	}
	err := s.Pull(t.Context(), r.host+"/private", dockerregistry.AuthConfig{Username: "alice", Password: "wrong"}, ignore)
	if !errdefs.IsUnauthorized(err) {
		t.Errorf("with the wrong password the error is %v", err)
	}
	if err := s.Pull(t.Context(), r.host+"/private", dockerregistry.AuthConfig{Username: "alice", Password: "secret"}, ignore); err != nil {
		t.Error(err)
	}
}

func TestPullRefuses(t *testing.T) {
	r, h := newRegistry(t), newFakeHost(t)
	s := newStore(t, h)
	img := demo("", "a", "b")
	r.push("app", "good", img)
	layer := digest.FromBytes(img.Layers[1]).String()
	r.put("/v2/app/manifests/schema1", typeSchema1Signed, []byte(`{"schemaVersion":1}`))
	answer := func(path, body string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, req *http.Request) bool {
			if req.Method != http.MethodGet || !strings.HasSuffix(req.URL.Path, path) {
				return false
			}
			io.WriteString(w, body)
			return true
		}
	}
	for name, c := range map[string]struct {
		ref, want string
		is        func(error) bool
		wrap      func(http.ResponseWriter, *http.Request) bool
	}{
		"no repository":  {ref: "nothing:1", want: "nothing:1", is: errdefs.IsNotFound},
		"no tag":         {ref: "app:none", want: "app:none", is: errdefs.IsNotFound},
		"schema 1":       {ref: "app:schema1", want: "schema version 1", is: errdefs.IsInvalidArgument},
		"layer changed":  {ref: "app:good", want: "verifying sha256", wrap: answer("/blobs/"+layer, string(make([]byte, len(img.Layers[1]))))},
		"layer short":    {ref: "app:good", want: "cannot pull", wrap: answer("/blobs/"+layer, "short")},
		"layer long":     {ref: "app:good", want: "larger than", wrap: answer("/blobs/"+layer, strings.Repeat("x", 1<<20))},
		"config changed": {ref: "app:good", want: "verifying sha256", wrap: answer("/blobs/"+img.ID().String(), "{}")},
	} {
		t.Run(name, func(t *testing.T) {
			r.wrap = c.wrap
			err := s.Pull(t.Context(), r.host+"/"+c.ref, dockerregistry.AuthConfig{}, ignore)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error is %v, want one with %q", err, c.want)
			}
			if c.is != nil && !c.is(err) {
				t.Errorf("error %v is of the wrong class", err)
			}
			if len(s.List()) != 0 {
				t.Error("there is an image")
			}
			h.nothingLeft(s)
		})
	}
}

func TestPlainHTTPOnlyOnLoopback(t *testing.T) {
	s := newStore(t, newFakeHost(t))
	transport := tlsUnlessLoopback{http.DefaultTransport}
	req, _ := http.NewRequest(http.MethodGet, "http://10.1.2.3/v2/", nil)
	if _, err := transport.RoundTrip(req); err == nil || !strings.Contains(err.Error(), "TLS") {
		t.Errorf("error is %v", err)
	}
	if err := s.Pull(t.Context(), "UPPER/case", dockerregistry.AuthConfig{}, ignore); !errdefs.IsInvalidArgument(err) {
		t.Errorf("error is %v", err)
	}
}

// TestPullsShareDownloads: two pulls of different images download a layer that both have once; what the first could not get the second gets
// by itself.
func TestPullsShareDownloads(t *testing.T) {
	for name, broken := range map[string]bool{"both": false, "the first is given up": true} {
		t.Run(name, func(t *testing.T) {
			r, h := newRegistry(t), newFakeHost(t)
			s := newStore(t, h)
			one, two := demo("", "base", "x"), demo("", "base", "y")
			r.push("one", "1", one)
			r.push("two", "1", two)
			began, goOn := make(chan struct{}), make(chan struct{})
			var once sync.Once
			var downloads atomic.Int32
			r.wrap = func(_ http.ResponseWriter, req *http.Request) bool {
				if req.Method == http.MethodGet && strings.HasSuffix(req.URL.Path, digest.FromBytes(one.Layers[0]).String()) {
					downloads.Add(1)
					once.Do(func() { close(began) })
					select {
					case <-goOn:
					case <-req.Context().Done():
					}
				}
				return false
			}
			first, cancel := context.WithCancel(t.Context())
			defer cancel()
			var work sync.WaitGroup
			given := make(chan struct{})
			work.Go(func() {
				defer close(given)
				if err := s.Pull(first, r.host+"/one:1", dockerregistry.AuthConfig{}, ignore); (err != nil) != broken {
					t.Errorf("the first pull: %v", err)
				}
			})
			<-began
			waits := make(chan struct{})
			work.Go(func() {
				err := s.Pull(t.Context(), r.host+"/two:1", dockerregistry.AuthConfig{}, func(e Event) {
					if e.Status == "Waiting" {
						close(waits)
					}
				})
				if err != nil {
					t.Errorf("the second pull: %v", err)
				}
			})
			<-waits
			want := int32(1)
			if broken {
				want = 2
				cancel()
				<-given // else its download may end before it is given up
			}
			close(goOn)
			work.Wait()
			if n := downloads.Load(); n != want {
				t.Errorf("the layer was downloaded %d times, want %d", n, want)
			}
			checkImage(t, h, s, two, r.host+"/two:1")
			h.nothingLeft(s)
			if len(s.transfers.active) != 0 {
				t.Errorf("transfers are left: %v", s.transfers.active)
			}
		})
	}
}
