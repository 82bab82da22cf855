package api

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	ctr "github.com/containervm/containervm/controller/internal/container"
	"github.com/containervm/containervm/controller/internal/fields"
	"github.com/containervm/containervm/controller/internal/files"
	"github.com/containervm/containervm/controller/internal/image"
)

// commitAPI serves `docker commit`.
type commitAPI struct {
	containers *ctr.Service
	files      *files.Service
	store      *image.Store
}

func (a *commitAPI) routes(r *router) { r.handle("POST /commit", a.commit) }

func (a *commitAPI) commit(w http.ResponseWriter, r *http.Request) error {
	var body *container.Config
	if err := readOptionalRequest(w, r, fields.Commit(), &body); err != nil {
		return err
	}
	c, err := a.containers.Get(param(r, "container"))
	if err != nil {
		return err
	}
	name := param(r, "repo")
	if tag := param(r, "tag"); tag != "" && name != "" {
		name += ":" + tag
	}
	o := image.CommitOptions{
		Parent: c.ImageID, Name: name, Author: param(r, "author"), Comment: param(r, "comment"),
		Config: imageConfig(&c.Config, body), Changes: r.URL.Query()["changes"],
	}
	id, err := a.layer(r.Context(), c, param(r, "pause") == "" || boolParam(r, "pause"), o)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusCreated, container.CommitResponse{ID: id})
}

// layer makes the image. The container's processes stand meanwhile if pause is set, so that its files are those of one moment.
func (a *commitAPI) layer(ctx context.Context, c ctr.Container, pause bool, o image.CommitOptions) (id string, failed error) {
	if pause && c.Running() && !c.Paused() {
		goOn, err := a.containers.Stand(ctx, c.ID)
		if err != nil {
			return "", err
		}
		defer func() { failed = errors.Join(failed, goOn()) }()
	}
	layer, err := a.files.Layer(ctx, c.ID)
	if err != nil {
		return "", err
	}
	defer layer.Close()
	made, err := a.store.Commit(ctx, layer, o)
	if err == nil { // told before it goes on, as in Docker
		a.containers.Tell(&c, events.ActionCommit, map[string]string{"comment": o.Comment, "imageID": made.String(), "imageRef": o.Name})
	}
	return made.String(), err
}

// imageConfig is what of a container's configuration an image has, with the fields of a request over it: a list of names adds to the
// container's, another field replaces the container's.
func imageConfig(c, over *container.Config) dockerspec.DockerOCIImageConfig {
	var out dockerspec.DockerOCIImageConfig
	out.Labels, out.Volumes, out.ExposedPorts = map[string]string{}, map[string]struct{}{}, map[string]struct{}{}
	for _, from := range []*container.Config{c, over} {
		if from == nil {
			continue
		}
		out.User = cmp.Or(from.User, out.User)
		out.WorkingDir = cmp.Or(from.WorkingDir, out.WorkingDir)
		out.StopSignal = cmp.Or(from.StopSignal, out.StopSignal)
		if from.Entrypoint != nil || from.Cmd != nil {
			out.Cmd = from.Cmd
		}
		replace(&out.Entrypoint, from.Entrypoint)
		replace(&out.Shell, from.Shell)
		replace(&out.OnBuild, from.OnBuild)
		if from.Healthcheck != nil {
			out.Healthcheck = from.Healthcheck
		}
		for _, kv := range from.Env {
			out.Env = withVariable(out.Env, kv)
		}
		maps.Copy(out.Labels, from.Labels)
		maps.Copy(out.Volumes, from.Volumes)
		for port := range from.ExposedPorts {
			out.ExposedPorts[port.String()] = struct{}{}
		}
	}
	return out
}

func replace(list *[]string, from []string) {
	if from != nil {
		*list = from
	}
}

// withVariable is an environment in which a variable has the value of kv.
func withVariable(env []string, kv string) []string {
	name, _, _ := strings.Cut(kv, "=")
	env = slices.DeleteFunc(slices.Clone(env), func(have string) bool { return strings.HasPrefix(have, name+"=") || have == name })
	return append(env, kv)
}
