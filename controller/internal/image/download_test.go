package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	dockerregistry "github.com/moby/moby/api/types/registry"
	"github.com/opencontainers/go-digest"
)

// TestPullIsResumed: a registry that cuts the connection in the middle of a blob is asked for the rest.
func TestPullIsResumed(t *testing.T) {
	img := demo("", "a")
	blob := img.Layers[0]
	half := len(blob) / 2
	for name, partial := range map[string]bool{"range": true, "a registry without ranges": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, h := newRegistry(t), newFakeHost(t)
			s := newStore(t, h)
			r.push("app", "1", img)
			var mu sync.Mutex
			var ranges []string
			r.wrap = func(w http.ResponseWriter, req *http.Request) bool {
				if req.Method != http.MethodGet || !strings.HasSuffix(req.URL.Path, digest.FromBytes(blob).String()) {
					return false
				}
				mu.Lock()
				defer mu.Unlock()
				ranges = append(ranges, req.Header.Get("Range"))
				switch {
				case len(ranges) == 1:
					w.Header().Set("Content-Length", fmt.Sprint(len(blob)))
					w.Write(blob[:half])
					w.(http.Flusher).Flush()
					panic(http.ErrAbortHandler) // cuts the connection
				case partial:
					http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(blob))
				default:
					w.Write(blob)
				}
				return true
			}
			if err := s.Pull(t.Context(), r.host+"/app:1", dockerregistry.AuthConfig{}, ignore); err != nil {
				t.Fatal(err)
			}
			checkImage(t, h, s, img, r.host+"/app:1")
			if want := []string{"", fmt.Sprintf("bytes=%d-", half)}; !slices.Equal(ranges, want) {
				t.Errorf("ranges %q, want %q", ranges, want)
			}
		})
	}
}

// TestAttempts: how often a download is tried, with which pauses, and what ends it at once.
func TestAttempts(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789"), 10)
	errCut := errors.New("connection reset")
	for name, c := range map[string]struct {
		give    func(attempt int, offset int64) (io.Reader, error)
		offsets []int64
		took    time.Duration
		want    string // empty: success
	}{
		"one byte each": {
			give: func(int, int64) (io.Reader, error) {
				return io.MultiReader(strings.NewReader("x"), iotest.ErrReader(errCut)), nil
			},
			offsets: []int64{0, 1, 2, 3, 4}, took: 7500 * time.Millisecond, want: errCut.Error(),
		},
		"the last attempt": {
			give: func(attempt int, offset int64) (io.Reader, error) {
				if attempt == maxAttempts {
					return bytes.NewReader(data[offset:]), nil
				}
				return io.MultiReader(bytes.NewReader(data[offset:offset+20]), iotest.ErrReader(errCut)), nil
			},
			offsets: []int64{0, 20, 40, 60, 80}, took: 7500 * time.Millisecond,
		},
		"an end without an error": {
			give: func(_ int, offset int64) (io.Reader, error) {
				return bytes.NewReader(data[offset : offset+50]), nil
			},
			offsets: []int64{0, 50}, took: 500 * time.Millisecond,
		},
		"away for a while": {
			give: func(attempt int, offset int64) (io.Reader, error) {
				switch attempt {
				case 1:
					return bytes.NewReader(data[:50]), nil
				case 2, 3:
					return nil, errCut
				}
				return bytes.NewReader(data[offset:]), nil
			},
			offsets: []int64{0, 50, 50, 50}, took: 3500 * time.Millisecond,
		},
		"never there": {
			give:    func(int, int64) (io.Reader, error) { return nil, errCut },
			offsets: []int64{0}, want: errCut.Error(),
		},
		"another blob": {
			give:    func(int, int64) (io.Reader, error) { return bytes.NewReader(make([]byte, len(data))), nil },
			offsets: []int64{0}, want: "verifying sha256",
		},
		"refused later": {
			give: func(attempt int, _ int64) (io.Reader, error) {
				if attempt == 1 {
					return bytes.NewReader(data[:50]), nil
				}
				return nil, invalid("the registry has another size")
			},
			offsets: []int64{0, 50}, took: 500 * time.Millisecond, want: "another size",
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			var offsets []int64
			d := newDownloads(t.Context(), &transfers{}, func(_ context.Context, _ digest.Digest, offset, _ int64) (io.ReadCloser, error) {
				offsets = append(offsets, offset)
				r, err := c.give(len(offsets), offset)
				return io.NopCloser(r), err
			}, ignore)
			began := time.Now()
			open, _ := d.start(content{digest: digest.FromBytes(data), size: int64(len(data))})
			r, err := open(t.Context())
			defer d.wait()
			if took := time.Since(began); took != c.took || !slices.Equal(offsets, c.offsets) {
				t.Errorf("%s: attempts at %d in %v, want %d in %v", name, offsets, took, c.offsets, c.took)
			}
			if c.want != "" {
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("%s: error is %v, want one with %q", name, err, c.want)
				}
				return
			}
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%s: got %q, %v", name, got, err)
			}
		})
	}
}

// TestPosition: what a registry answers to a range is not believed.
func TestPosition(t *testing.T) {
	const body = "0123456789"
	for name, c := range map[string]struct {
		status int
		header string
		length int64
		want   string // what is read; empty: refused
	}{
		"part":               {http.StatusPartialContent, "bytes 4-9/10", 6, "456789"},
		"more than the part": {http.StatusPartialContent, "bytes 2-9/10", 8, "6789"}, // from body as if it began at 2
		"all":                {http.StatusOK, "", 10, "456789"},
		"length unknown":     {http.StatusOK, "", -1, "456789"},
		"later part":         {http.StatusPartialContent, "bytes 5-9/10", 5, ""},
		"no range":           {http.StatusPartialContent, "", 6, ""},
		"negative":           {http.StatusPartialContent, "bytes -4-9/10", 14, ""},
		"another size":       {http.StatusOK, "", 11, ""},
		"refused":            {http.StatusRequestedRangeNotSatisfiable, "", 0, ""},
	} {
		from := body
		if c.header != "" && c.status == http.StatusPartialContent {
			from = body[4:]
		}
		res := &http.Response{
			StatusCode: c.status, Header: http.Header{"Content-Range": {c.header}}, ContentLength: c.length,
			Body: io.NopCloser(strings.NewReader(from)), Request: &http.Request{Method: http.MethodGet},
		}
		err := position(res, 4, 10)
		if err != nil || c.want == "" {
			if (err == nil) != (c.want != "") {
				t.Errorf("%s: error is %v", name, err)
			}
			continue
		}
		if got, _ := io.ReadAll(res.Body); string(got) != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// TestRedirects: a registry does not make this machine ask others of its network.
func TestRedirects(t *testing.T) {
	for to, refused := range map[string]bool{
		"https://cdn.example.com/x": false, "https://registry.example.com/x": false, "https://93.184.216.34/x": false,
		"http://169.254.169.254/latest": true, "https://10.0.0.1/": true, "https://127.0.0.1/": true, "https://[::ffff:10.0.0.1]/": true,
		"https://[fe80::1]/": true, "https://0.0.0.0/": true,
	} {
		from, _ := http.NewRequest(http.MethodGet, "https://registry.example.com/v2/", nil)
		next, err := http.NewRequest(http.MethodGet, to, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := checkRedirect(next, []*http.Request{from}); (err != nil) != refused {
			t.Errorf("redirect to %s: %v", to, err)
		}
	}
}

// TestPullIsKilled ends the controller at each of its calls to the host, as kill -9 does. The next controller finds no trace
// but a complete image, and can pull.
func TestPullIsKilled(t *testing.T) {
	spools := t.TempDir()
	t.Setenv("TMPDIR", spools)
	r := newRegistry(t)
	img := demo("", "a", "b", "c")
	img.Compress, img.Suffix = gzipped, "+gzip"
	r.push("app", "1", img)
	ref := r.host + "/app:1"
	watch := func(Event) {
		if left, err := os.ReadDir(spools); err != nil || len(left) != 0 {
			t.Errorf("a kill now would leave %v in the directory of temporary files (%v)", left, err)
		}
	}
	for after, complete := 0, false; !complete; after++ {
		h := newFakeHost(t)
		first := newStore(t, h)
		revive := h.kill(after)
		err := first.Pull(t.Context(), ref, dockerregistry.AuthConfig{}, watch)
		complete = revive()

		s := newStore(t, h)
		h.nothingLeft(s)
		if err == nil {
			checkImage(t, h, s, img, ref)
		} else if n := len(s.List()) + len(h.layers()); n != 0 {
			t.Errorf("killed after %d calls: %d images and layers are left", after, n)
		}
		if err := s.Pull(t.Context(), ref, dockerregistry.AuthConfig{}, watch); err != nil {
			t.Fatalf("killed after %d calls: the next pull: %v", after, err)
		}
		checkImage(t, h, s, img, ref)
		h.nothingLeft(s)
		if t.Failed() {
			t.Fatalf("killed after %d calls", after)
		}
	}
}
