package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	dockerregistry "github.com/moby/moby/api/types/registry"
	"github.com/opencontainers/go-digest"

	"github.com/containervm/containervm/internal/testimage"
)

// TestValuesBudget: short JSON that is much once it is decoded is refused before it is.
func TestValuesBudget(t *testing.T) {
	many := func(n int) string { return "[" + strings.Repeat("{},", n-1) + "{}]" }
	decoders := map[string]func([]byte) error{
		`{"history":%s}`:                    func(b []byte) error { _, err := decodeConfig(b); return err },
		`{"layers":%s}`:                     func(b []byte) error { _, err := decodeManifest(b); return err },
		`{"manifests":%s}`:                  func(b []byte) error { _, err := decodeIndexManifest(b); return err },
		`{"config":{"Env":%s,"x":"\",{["}}`: func(b []byte) error { _, err := decodeConfig(b); return err },
	}
	for form, decode := range decoders {
		text := []byte(fmt.Sprintf(form, many(1<<20)))
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err := decode(text)
		runtime.ReadMemStats(&after)
		if err == nil || !strings.Contains(err.Error(), "more than 100000 values") {
			t.Errorf("%s: %v", form, err)
		}
		if spent := after.TotalAlloc - before.TotalAlloc; spent > 1<<20 {
			t.Errorf("%s: %d bytes were allocated for %d", form, spent, len(text))
		}
	}
	for text, want := range map[string]int{`1`: 1, `[1,2]`: 3, `{"a":"x,y[{\"","b":[]}`: 4, `"\\",1`: 2} {
		if n := countValues([]byte(text)); n != want {
			t.Errorf("%s has %d values, want %d", text, n, want)
		}
	}
}

// TestUnpackedBudget: what is unpacked of an image, and of all images of a load, ends before it is too much.
func TestUnpackedBudget(t *testing.T) {
	image, load := newAllowance(10, "the image"), newAllowance(12, "the load")
	var out bytes.Buffer
	if _, err := within(&out, image, load).Write(make([]byte, 10)); err != nil {
		t.Error(err)
	}
	if _, err := within(&out, image, load).Write(make([]byte, 1)); err == nil || err.Error() != "the image" || !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
	if _, err := within(&out, newAllowance(10, "the image"), load).Write(make([]byte, 3)); err == nil || err.Error() != "the load" {
		t.Error(err)
	}
	if out.Len() != 10 {
		t.Errorf("%d bytes came through", out.Len())
	}
}

// TestMayLeadTo: where a registry may have this machine connect to.
func TestMayLeadTo(t *testing.T) {
	for _, c := range []struct {
		home, to string
		may      bool
	}{
		{"93.184.216.34", "151.101.0.1", true}, {"93.184.216.34", "10.0.0.1", false}, {"93.184.216.34", "127.0.0.1", false},
		{"93.184.216.34", "::1", false}, {"93.184.216.34", "::ffff:127.0.0.1", false}, {"93.184.216.34", "169.254.169.254", false},
		{"93.184.216.34", "0.0.0.0", false}, {"93.184.216.34", "fd00::1", false}, {"93.184.216.34", "fe80::1", false},
		{"10.0.0.5", "10.0.0.6", true}, {"10.0.0.5", "127.0.0.1", false}, {"10.0.0.5", "169.254.169.254", false}, {"10.0.0.5", "151.101.0.1", true},
		{"127.0.0.1", "127.0.0.1", true}, {"127.0.0.1", "169.254.169.254", false}, {"", "10.0.0.1", false}, {"", "151.101.0.1", true},
	} {
		home, _ := netip.ParseAddr(c.home)
		if may := mayLeadTo(home, netip.MustParseAddr(c.to)); may != c.may {
			t.Errorf("from %q to %s: %v", c.home, c.to, may)
		}
	}
}

// TestRegistryLeadsByName: a name of this machine, to which a registry elsewhere redirects, is not connected to.
func TestRegistryLeadsByName(t *testing.T) {
	asked := false
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	defer server.Close()
	g := newGuard("registry.example.com")
	g.at.Store(netip.MustParseAddr("93.184.216.34"))
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, strings.Replace(server.URL, "127.0.0.1", "localhost", 1)+"/secret", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := g.RoundTrip(req)
	if err == nil {
		res.Body.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "leads to the private address") || asked {
		t.Errorf("%v, asked %v", err, asked)
	}
}

// TestStalledRegistry: an answer, or the rest of one, that does not come ends the request; so does the client's leaving.
func TestStalledRegistry(t *testing.T) {
	gone := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v2/never" {
			_, _ = w.Write([]byte("a few bytes"))
			w.(http.Flusher).Flush()
		}
		select {
		case <-r.Context().Done():
		case <-gone:
		}
	}))
	defer server.Close()
	defer close(gone)
	ask := func(ctx context.Context, path string, stall time.Duration) error {
		g := newGuard(strings.TrimPrefix(server.URL, "http://"))
		g.stall = stall
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := g.RoundTrip(req)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		_, err = io.Copy(io.Discard, res.Body)
		return err
	}
	for _, path := range []string{"/v2/never", "/v2/app/blobs/sha256:0", "/v2/app/manifests/1"} {
		if err := ask(t.Context(), path, 50*time.Millisecond); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "less than 65536 bytes") {
			t.Errorf("%s: %v", path, err)
		}
		ctx, leave := context.WithCancel(t.Context())
		leave()
		if err := ask(ctx, path, time.Hour); !errors.Is(err, context.Canceled) {
			t.Errorf("%s, and the client leaves: %v", path, err)
		}
	}
}

// TestHostileRegistry: what a registry answers is bounded while it is read, and a pull of it leaves nothing.
func TestHostileRegistry(t *testing.T) {
	endless := func(w http.ResponseWriter, head string) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, head)
		for chunk := bytes.Repeat([]byte(`"tag",`), 10_000); ; {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	}
	img := demo("", "a")
	for what, c := range map[string]struct {
		path   string // end of the request's path that is answered otherwise
		answer func(w http.ResponseWriter, r *http.Request)
		all    bool
		want   string
	}{
		"tags without end": {path: "/tags/list", all: true, want: "that are no layers",
			answer: func(w http.ResponseWriter, _ *http.Request) { endless(w, `{"name":"app","tags":[`) }},
		"pages of tags without end": {path: "/tags/list", all: true, want: "more than 10000 times",
			answer: func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Link", `</v2/app/tags/list?last=x>; rel="next"`)
				_, _ = io.WriteString(w, `{"name":"app","tags":[]}`)
			}},
		"more tags than are pulled": {path: "/tags/list", all: true, want: "at most 1000 are pulled at once",
			answer: func(w http.ResponseWriter, _ *http.Request) {
				_, _ = io.WriteString(w, `{"name":"app","tags":["x"`+strings.Repeat(`,"x"`, 1000)+`]}`)
			}},
		"a manifest without end": {path: "/manifests/1", want: "",
			answer: func(w http.ResponseWriter, _ *http.Request) { endless(w, `{"layers":[`) }},
		"a configuration without end": {path: digest.FromBytes(img.RawConfig()).String(), want: "",
			answer: func(w http.ResponseWriter, _ *http.Request) { endless(w, `{"x":[`) }},
		"a layer without end": {path: digest.FromBytes(img.Layers[0]).String(), want: "larger than",
			answer: func(w http.ResponseWriter, _ *http.Request) { endless(w, "") }},
		"a layer of another size": {path: digest.FromBytes(img.Layers[0]).String(), want: "",
			answer: func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Length", "9223372036854775807") }},
	} {
		t.Run(what, func(t *testing.T) {
			r, h := newRegistry(t), newFakeHost(t)
			s := newStore(t, h)
			r.push("app", "1", img)
			r.wrap = func(w http.ResponseWriter, req *http.Request) bool {
				if req.Method != http.MethodGet || !strings.HasSuffix(req.URL.Path, c.path) {
					return false
				}
				c.answer(w, req)
				return true
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			var err error
			if c.all {
				err = s.PullAll(t.Context(), r.host+"/app", dockerregistry.AuthConfig{}, ignore)
			} else {
				err = s.Pull(t.Context(), r.host+"/app:1", dockerregistry.AuthConfig{}, ignore)
			}
			runtime.ReadMemStats(&after)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error is %v, want one with %q", err, c.want)
			}
			if held := int64(after.HeapAlloc) - int64(before.HeapAlloc); held > 256<<20 {
				t.Errorf("%d MiB more are in use", held>>20)
			}
			h.nothingLeft(s)
		})
	}
}

// TestSlowPullsKeepNobody: pulls whose layers do not come hold no unpacker, of which there are few, and the client's leaving ends them.
func TestSlowPullsKeepNobody(t *testing.T) {
	r, h := newRegistry(t), newFakeHost(t)
	s := newStore(t, h)
	s.unpackerIdle = time.Millisecond
	slow := demo("", "a", "slow")
	r.push("slow", "1", slow)
	r.push("slow2", "1", demo("", "b", "slow"))
	asked := make(chan struct{}, 10)
	r.wrap = func(_ http.ResponseWriter, req *http.Request) bool {
		if req.Method != http.MethodGet || !strings.HasSuffix(req.URL.Path, digest.FromBytes(slow.Layers[1]).String()) {
			return false
		}
		asked <- struct{}{}
		<-req.Context().Done()
		return true
	}
	ctx, leave := context.WithCancel(t.Context())
	ended := make(chan error, maxUnpackers)
	for _, name := range []string{"/slow:1", "/slow2:1"} {
		go func() { ended <- s.Pull(ctx, r.host+name, dockerregistry.AuthConfig{}, ignore) }()
	}
	<-asked // both wait for it: they share the download
	quick := demo("quick:1", "c")
	if _, err := s.Load(t.Context(), testimage.Reader(testimage.Layout(quick)), ignore); err != nil {
		t.Fatal(err)
	}
	checkImage(t, h, s, quick, "quick:1")
	leave()
	for range maxUnpackers {
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("a pull whose client has left: %v", err)
		}
	}
	h.nothingLeft(s)
}
