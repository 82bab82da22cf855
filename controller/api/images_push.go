package api

import (
	"net/http"

	"github.com/moby/moby/api/pkg/authconfig"
	"github.com/moby/moby/api/types/registry"

	"github.com/containervm/containervm/controller/internal/fields"
	"github.com/containervm/containervm/controller/internal/image"
)

// push serves `docker push`; without a tag it sends all tags of a repository. As in Docker the answer begins before anything is looked up, so
// that errors are in the stream.
func (a *imageAPI) push(w http.ResponseWriter, r *http.Request, name string) error {
	if err := checkPlatforms(r.URL.Query()["platform"]); err != nil {
		return err
	}
	if tag := param(r, "tag"); tag != "" {
		name += ":" + tag
	}
	auth, _ := authconfig.Decode(r.Header.Get(registry.AuthHeader)) // as for a pull
	s := newJSONStream(w)
	return s.end(a.store.Push(r.Context(), name, *auth, s.progress))
}

// auth serves `docker login`: it asks the registry.
func auth(w http.ResponseWriter, r *http.Request) error {
	var c registry.AuthConfig
	if _, err := readRequest(w, r, fields.Auth(), &c); err != nil {
		return err
	}
	if err := image.Login(r.Context(), c.ServerAddress, c); err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, registry.AuthResponse{Status: "Login Succeeded"})
}
