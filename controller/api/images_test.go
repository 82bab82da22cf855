package api

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	dockerimage "github.com/moby/moby/api/types/image"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/containervm/containervm/controller/internal/image"
)

func TestByName(t *testing.T) {
	var got string
	h := byName(map[string]imageHandler{"json": func(_ http.ResponseWriter, _ *http.Request, name string) error {
		got = name
		return nil
	}})
	for path, want := range map[string]string{"busybox/json": "busybox", "example.com:5000/a/b:v1/json": "example.com:5000/a/b:v1", "json/json": "json"} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.SetPathValue("path", path)
		if err := h(nil, r); err != nil || got != want {
			t.Errorf("%s: name %q, %v", path, got, err)
		}
	}
	for _, path := range []string{"", "json", "busybox", "busybox/xml", "/json"} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.SetPathValue("path", path)
		if err := h(nil, r); !errdefs.IsNotFound(err) {
			t.Errorf("%q: error is %v", path, err)
		}
	}
}

func TestPullReference(t *testing.T) {
	for _, c := range []struct{ name, tag, want string }{
		{"docker.io/library/busybox", "1.37", "docker.io/library/busybox:1.37"},
		{"localhost:5000/app", "sha256:abc", "localhost:5000/app@sha256:abc"},
		{"app:v1", "", "app:v1"},
		{"app@sha256:abc", "", "app@sha256:abc"},
		{"app@sha256:abc", "v1", "app@sha256:abc"},
		{"localhost:5000/app:v1", "v2", "localhost:5000/app:v2"},
	} {
		if got, all := pullReference(c.name, c.tag); all || got != c.want {
			t.Errorf("pullReference(%q, %q) = %q, %v", c.name, c.tag, got, all)
		}
	}
	if got, all := pullReference("localhost:5000/app", ""); !all || got != "localhost:5000/app" {
		t.Errorf("all tags: %q, %v", got, all)
	}
}

func TestRefusals(t *testing.T) {
	a := &imageAPI{}
	for query, h := range map[string]handler{
		"fromImage=a&tag=b&platform=linux/arm64":         a.create,
		"fromSrc=http://example.com/root.tar":            a.create,
		`platform={"os":"linux","architecture":"arm64"}`: a.load,
		"platform=linux": a.load,
	} {
		r := httptest.NewRequest(http.MethodPost, "/?"+(&url.URL{RawQuery: query}).RawQuery, http.NoBody)
		if err := h(httptest.NewRecorder(), r); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: error is %v", query, err)
		}
	}
}

// TestBuildIsRefusedWhileItsContextComes: a client that sends without end reads why.
func TestBuildIsRefusedWhileItsContextComes(t *testing.T) {
	server := httptest.NewServer(New(Deps{Log: slog.New(slog.DiscardHandler)}))
	defer server.Close()
	for range 5 {
		res, err := http.Post(server.URL+"/v1.50/build?dockerfile=Dockerfile", "application/x-tar", io.NopCloser(io.LimitReader(zeros{}, 1<<40)))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || res.StatusCode != http.StatusNotImplemented || !strings.Contains(string(body), "docker load") {
			t.Errorf("answer %d %s, %v", res.StatusCode, body, err)
		}
	}
}

// zeros is a context without end.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func TestImageFilters(t *testing.T) {
	old := image.Image{RepoTags: []string{"busybox:1", "example.com/team/app:v1"}, Created: time.Unix(1000, 0)}
	old.Config.Config.Labels = map[string]string{"team": "red"}
	dangling := image.Image{Created: time.Now()}
	for text, want := range map[string][2]bool{
		``:                                    {true, true},
		`{"dangling":["true"]}`:               {false, true},
		`{"dangling":{"false":true}}`:         {true, false},
		`{"reference":["busybox"]}`:           {true, false},
		`{"reference":["busybox:*"]}`:         {true, false},
		`{"reference":["example.com/*/*"]}`:   {true, false},
		`{"reference":["other","busybox:2"]}`: {false, false},
		`{"label":["team=red"]}`:              {true, false},
		`{"label":["team=blue"]}`:             {false, false},
		`{"label!":["team"]}`:                 {false, true},
		`{"until":["24h"]}`:                   {true, false},
		`{"until":["500"]}`:                   {false, false},
		`{"until":["2020-01-01T00:00:00Z"],"dangling":["false"]}`: {true, false},
	} {
		f := filters{}
		if text != "" {
			var err error
			if f, err = parseFilters(text); err != nil {
				t.Fatal(err)
			}
		}
		match, err := f.images(nil)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got := [2]bool{match(old), match(dangling)}; got != want {
			t.Errorf("%s: matches %v, want %v", text, got, want)
		}
	}
	for _, text := range []string{`{"dangling":["maybe"]}`, `{"dangling":["true","false"]}`, `{"until":["soon"]}`} {
		f, _ := parseFilters(text)
		if _, err := f.images(nil); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: error is %v", text, err)
		}
	}
}

func TestHistoryItems(t *testing.T) {
	at := time.Unix(1000, 0)
	img := image.Image{LayerSizes: []int64{10, 20}}
	img.Config.History = []ocispec.History{{Created: &at, CreatedBy: "first"}, {EmptyLayer: true, CreatedBy: "ENV"}, {CreatedBy: "second\x1b[2J", Comment: "c\u202e"}}
	var sizes []int64
	for _, item := range historyItems(img) {
		sizes = append(sizes, item.Size)
	}
	if !slices.Equal(sizes, []int64{20, 0, 10}) {
		t.Errorf("sizes are %v", sizes)
	}
	if top := historyItems(img)[0]; top.CreatedBy != `second\x1b[2J` || top.Comment != `c\u202e` { // a person reads it on a terminal
		t.Errorf("the last step is shown as %q, %q", top.CreatedBy, top.Comment)
	}
}

// TestOlderInspect: what a version of the API took away is there for the versions before it, and nowhere else.
func TestOlderInspect(t *testing.T) {
	for version, want := range map[string][]string{
		"1.24": {"Config.Hostname", "Config.Cmd", "Container", "ContainerConfig", "Created", "DockerVersion", "Parent", "VirtualSize"},
		"1.44": {"Config.Hostname", "Config.Cmd", "Container", "ContainerConfig", "DockerVersion", "Parent"},
		"1.49": {"Config.Hostname", "Config.Cmd", "DockerVersion", "Parent"},
		"1.51": {"Config.Cmd", "DockerVersion", "Parent"},
		"1.56": nil,
	} {
		ctx := context.WithValue(t.Context(), versionKey{}, version)
		got, err := olderInspect(ctx, dockerimage.InspectResponse{ID: "x", Config: &dockerspec.DockerOCIImageConfig{}, Size: 1 << 60})
		if err != nil {
			t.Fatal(err)
		}
		var has []string
		for _, key := range []string{"Container", "ContainerConfig", "Created", "DockerVersion", "Parent", "VirtualSize"} {
			if _, ok := got[key]; ok {
				has = append(has, key)
			}
		}
		for _, key := range []string{"Cmd", "Hostname"} {
			if _, ok := got["Config"].(map[string]any)[key]; ok {
				has = append([]string{"Config." + key}, has...)
			}
		}
		if !slices.Equal(has, want) {
			t.Errorf("%s: %q, want %q", version, has, want)
		}
	}
}

func TestOlderList(t *testing.T) {
	for version, want := range map[string]imageSummary{
		"1.42": {Summary: dockerimage.Summary{Size: 5, RepoTags: []string{"<none>:<none>"}, RepoDigests: []string{"<none>@<none>"}}, VirtualSize: 5},
		"1.43": {Summary: dockerimage.Summary{Size: 5}, VirtualSize: 5},
		"1.44": {Summary: dockerimage.Summary{Size: 5}},
	} {
		line := imageSummary{Summary: dockerimage.Summary{Size: 5}}
		line.adapt(httptest.NewRequest(http.MethodGet, "/", nil).WithContext(context.WithValue(t.Context(), versionKey{}, version)))
		if !reflect.DeepEqual(line, want) {
			t.Errorf("%s: %+v, want %+v", version, line, want)
		}
	}
}

// TestReferences: a list by name shows the names that were asked for.
func TestReferences(t *testing.T) {
	names := []string{"busybox:1", "other/name:v1", "other/name:v2"}
	for pattern, want := range map[string][]string{
		"": names, "other/name": names[1:], "oth*/n*": names[1:], "*/name:v2": names[2:], "busybox": names[:1], "nothing": {},
	} {
		f := filters{}
		if pattern != "" {
			f["reference"] = []string{pattern}
		}
		if got := f.references(names); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", pattern, got, want)
		}
	}
}
