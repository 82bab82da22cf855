package api

import (
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	volumetypes "github.com/moby/moby/api/types/volume"

	"github.com/containervm/containervm/controller/internal/container"
	"github.com/containervm/containervm/controller/internal/fields"
	"github.com/containervm/containervm/controller/internal/volume"
)

// volumeAPI serves Docker's /volumes. The copies of volumes that forks have on their own storage are seen there too.
type volumeAPI struct {
	containers *container.Service
	volumes    *volume.Service
}

func (a *volumeAPI) routes(r *router) {
	r.handle("GET /volumes", a.list)
	r.handle("GET /volumes/{name}", a.inspect)
	r.handle("POST /volumes/create", a.create)
	r.handle("POST /volumes/prune", a.prune)
	r.handle("DELETE /volumes/{name}", a.remove)
}

// describeVolume is a volume in Docker's words.
func describeVolume(v volume.Volume) volumetypes.Volume {
	return volumetypes.Volume{
		Name: v.Name, Driver: volume.Driver, Mountpoint: v.Mountpoint, Scope: "local", CreatedAt: v.Created.Format(time.RFC3339),
		Labels: v.Labels, Options: v.Options,
	}
}

func (a *volumeAPI) all() []volume.Volume {
	all := append(a.volumes.List(), a.containers.OwnVolumes()...)
	slices.SortStableFunc(all, func(x, y volume.Volume) int { return strings.Compare(x.Name, y.Name) })
	return all
}

func (a *volumeAPI) get(name string) (volume.Volume, error) {
	v, err := a.volumes.Get(name)
	if err == nil {
		return v, nil
	}
	for _, own := range a.containers.OwnVolumes() {
		if own.Name == name {
			return own, nil
		}
	}
	return v, err
}

func (a *volumeAPI) list(w http.ResponseWriter, r *http.Request) error {
	f, err := readFilters(r)
	if err != nil {
		return err
	}
	dangling, byUse, err := danglingFilter(f)
	if err != nil {
		return err
	}
	answer := volumetypes.ListResponse{Volumes: []volumetypes.Volume{}, Warnings: []string{}}
	for _, v := range a.all() {
		if f.matchLabels(v.Labels) && f.match("driver", func(d string) bool { return d == volume.Driver }) &&
			f.match("name", func(pattern string) bool { return fitsText(pattern, v.Name) }) &&
			(!byUse || dangling == (len(a.containers.VolumeUsers(v.Name)) == 0)) {
			answer.Volumes = append(answer.Volumes, describeVolume(v))
		}
	}
	return writeJSON(w, http.StatusOK, answer)
}

func (a *volumeAPI) inspect(w http.ResponseWriter, r *http.Request) error {
	v, err := a.get(r.PathValue("name"))
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, describeVolume(v))
}

func (a *volumeAPI) create(w http.ResponseWriter, r *http.Request) error {
	var req volumetypes.CreateRequest
	if err := readOptionalRequest(w, r, fields.VolumeCreate(), &req); err != nil {
		return err
	}
	v, err := a.volumes.Create(r.Context(), volume.Request{Name: req.Name, Driver: req.Driver, Options: req.DriverOpts, Labels: req.Labels})
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusCreated, describeVolume(v))
}

func (a *volumeAPI) remove(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("name")
	err := a.volumes.Remove(r.Context(), name, a.containers.VolumeUsers)
	if errdefs.IsNotFound(err) {
		if _, notOwn := a.get(name); notOwn == nil {
			return volume.InUse(name, a.containers.VolumeUsers(name))
		}
		if boolParam(r, "force") {
			err = nil
		}
	}
	return noContent(w, err)
}

func (a *volumeAPI) prune(w http.ResponseWriter, r *http.Request) error {
	f, err := readFilters(r)
	if err != nil {
		return err
	}
	all, err := allFilter(f)
	if err != nil {
		return err
	}
	all = all || !atLeast(r.Context(), "1.42") // which knew anonymous volumes no better than others
	report, err := a.volumes.Prune(r.Context(), func(v volume.Volume) bool {
		return f.matchLabels(v.Labels) && (all || v.Anonymous())
	}, a.containers.VolumeUsers)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, volumetypes.PruneReport{VolumesDeleted: report.Names, SpaceReclaimed: report.Bytes})
}

func allFilter(f filters) (bool, error) {
	values := f["all"]
	switch len(values) {
	case 0:
		return false, nil
	case 1:
		on, err := strconv.ParseBool(values[0])
		if err != nil {
			return false, invalid("invalid filter 'all': %v", errors.Unwrap(err))
		}
		return on, nil
	default:
		return false, invalid("invalid filter 'all=%s': only one value is expected", values)
	}
}
