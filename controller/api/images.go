package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/pkg/authconfig"
	"github.com/moby/moby/api/types/registry"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/containervm/containervm/controller/internal/container"
	"github.com/containervm/containervm/controller/internal/image"
)

// imageAPI serves Docker's /images.
type imageAPI struct {
	store *image.Store
	inUse image.InUse // the containers whose disks build on an image
}

func newImageAPI(store *image.Store, containers *container.Service) *imageAPI {
	return &imageAPI{store: store, inUse: containers.ImageUsers}
}

// routes registers the handlers. Names of images have slashes, so what follows /images/ is taken apart by byName.
func (a *imageAPI) routes(r *router) {
	r.handle("GET /images/json", a.list)
	r.handle("POST /images/create", a.create)
	r.handle("POST /images/load", a.load)
	r.handle("POST /images/prune", a.prune)
	r.handle("GET /images/get", a.save)
	r.handle("GET /images/{path...}", byName(map[string]imageHandler{
		"json": a.inspect, "history": a.history,
		"get": a.saveOne,
	}))
	r.handle("POST /images/{path...}", byName(map[string]imageHandler{
		"tag": a.tag, "push": a.push,
	}))
	r.handle("DELETE /images/{name...}", a.remove)
}

// imageHandler serves a request about the image that name refers to.
type imageHandler func(w http.ResponseWriter, r *http.Request, name string) error

// byName takes "<name>/<verb>" apart, where the name may hold slashes.
func byName(verbs map[string]imageHandler) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		path := r.PathValue("path")
		cut := strings.LastIndexByte(path, '/')
		h, ok := verbs[path[cut+1:]]
		if cut <= 0 || !ok {
			return errPage
		}
		return h(w, r, path[:cut])
	}
}

// create serves pull (fromImage) and import (fromSrc).
func (a *imageAPI) create(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	if p := q.Get("platform"); p != "" && p != "linux/amd64" && p != "linux" {
		return invalid("cannot use images for %s: virtual machines here run linux/amd64", p)
	}
	if q.Get("fromImage") != "" {
		return a.pull(w, r)
	}
	return a.importRoot(w, r)
}

func (a *imageAPI) pull(w http.ResponseWriter, r *http.Request) error {
	ref, all := pullReference(param(r, "fromImage"), param(r, "tag"))
	pull := a.store.Pull
	if all {
		pull = a.store.PullAll
	}
	// As in Docker a header that cannot be read means no credentials: the registry decides.
	auth, _ := authconfig.Decode(r.Header.Get(registry.AuthHeader))
	s := newJSONStream(w)
	return s.end(pullError(ref, pull(r.Context(), ref, *auth, s.progress)))
}

// pullError is the error of a pull with Docker's status where a registry refuses: it may be that there is no such image. At status 401 the
// command line would ask for a password.
func pullError(ref string, err error) error {
	if errdefs.IsUnauthorized(err) || errdefs.IsPermissionDenied(err) {
		return errdefs.ErrNotFound.WithMessage(fmt.Sprintf("pull access denied for %s, repository does not exist or may require 'docker login': %v", withoutTag(ref), err))
	}
	return err
}

// pullReference joins a name and a tag or digest, which comes before a tag of the name, and behind a digest of it; with neither all tags of
// the repository are meant.
func pullReference(name, tag string) (ref string, all bool) {
	cut := strings.LastIndexByte(name, '/') + 1
	base := name[cut:]
	if tag != "" && !strings.Contains(base, "@") {
		base, _, _ = strings.Cut(base, ":")
		name = name[:cut] + base
	}
	switch {
	case strings.Contains(base, "@"):
		return name, false
	case strings.Contains(tag, ":"):
		return name + "@" + tag, false
	case tag != "":
		return name + ":" + tag, false
	case !strings.Contains(base, ":"):
		return name, true
	}
	return name, false
}

func (a *imageAPI) importRoot(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	if src := q.Get("fromSrc"); src != "-" {
		return invalid("cannot import from %q: download it first, then import the file or standard input (-)", src)
	}
	name := q.Get("repo")
	if tag := q.Get("tag"); tag != "" && name != "" {
		name += ":" + tag
	}
	s := newJSONStream(w)
	_, err := a.store.Import(r.Context(), r.Body, image.ImportOptions{
		Name: name, Message: q.Get("message"), Changes: q["changes"],
	}, s.progress)
	return s.end(err)
}

func (a *imageAPI) load(w http.ResponseWriter, r *http.Request) error {
	if err := checkPlatforms(r.URL.Query()["platform"]); err != nil {
		return err
	}
	s := newJSONStream(w)
	progress := s.progress
	if boolParam(r, "quiet") {
		progress = s.quiet
	}
	_, err := a.store.Load(r.Context(), r.Body, progress)
	return s.end(err)
}

// checkPlatforms refuses platforms, each JSON, that machines here do not run.
func checkPlatforms(platforms []string) error {
	for _, text := range platforms {
		if text == "" {
			continue
		}
		p, err := readPlatform(text)
		if err != nil {
			return err
		}
		if !runsHere(p) {
			return invalid("cannot use images for %s/%s: virtual machines here run linux/amd64", p.OS, p.Architecture)
		}
	}
	return nil
}

func readPlatform(text string) (p ocispec.Platform, err error) {
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		return p, invalid("cannot read the platform %q: %v", text, err)
	}
	return p, nil
}

func runsHere(p ocispec.Platform) bool { return p.OS == "linux" && p.Architecture == "amd64" }

func (a *imageAPI) tag(w http.ResponseWriter, r *http.Request, name string) error {
	target := param(r, "repo")
	if tag := param(r, "tag"); tag != "" {
		target += ":" + tag
	}
	if err := a.store.Tag(r.Context(), name, target); err != nil {
		return err
	}
	w.WriteHeader(http.StatusCreated)
	return nil
}

func (a *imageAPI) remove(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("name")
	if err := onlyPlatform(name, r.URL.Query()["platforms"]); err != nil {
		return err
	}
	gone, err := a.store.Remove(r.Context(), name, boolParam(r, "force"), a.inUse)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, gone)
}
