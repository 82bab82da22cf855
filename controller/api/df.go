package api

import (
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/build"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/system"
	volumetypes "github.com/moby/moby/api/types/volume"

	ctr "github.com/containervm/containervm/controller/internal/container"
	"github.com/containervm/containervm/controller/internal/image"
	"github.com/containervm/containervm/controller/internal/volume"
)

// dfAPI tells what the engine's objects take of the datastore.
type dfAPI struct {
	containers *ctr.Service
	images     *image.Store
	volumes    *volume.Service
}

func (a *dfAPI) routes(r *router) {
	r.handle("GET /system/df", a.df)
}

// usage is the answer, with what it had before version 1.52 of the API and has since.
type usage struct {
	system.DiskUsage
	LayersSize  *int64               `json:",omitempty"`
	Images      []imageSummary       `json:",omitempty"`
	Containers  []container.Summary  `json:",omitempty"`
	Volumes     []volumetypes.Volume `json:",omitempty"`
	BuildCache  *[]build.CacheRecord `json:",omitempty"`
	BuilderSize *int64               `json:",omitempty"`
}

func (a *dfAPI) df(w http.ResponseWriter, r *http.Request) error {
	types := r.URL.Query()["type"]
	for _, t := range types {
		if !slices.Contains([]system.DiskUsageObject{system.ContainerObject, system.ImageObject, system.VolumeObject, system.BuildCacheObject}, system.DiskUsageObject(t)) {
			return invalid("unknown object type: %s", t)
		}
	}
	wants := func(t system.DiskUsageObject) bool { return len(types) == 0 || slices.Contains(types, string(t)) }
	var u usage
	var err error
	if wants(system.ImageObject) {
		images := imageUsage(a.images, a.containers.ImageUsers, true)
		u.ImageUsage = &images
	}
	if wants(system.ContainerObject) {
		if u.ContainerUsage, err = a.containerUsage(r.Context()); err != nil {
			return err
		}
	}
	if wants(system.VolumeObject) {
		u.VolumeUsage = a.volumeUsage(r.Context())
	}
	if wants(system.BuildCacheObject) {
		u.BuildCacheUsage = &build.DiskUsage{}
	}
	u.adapt(r)
	return writeJSON(w, http.StatusOK, u)
}

// adapt gives the answer the form of the request's version of the API. The items are listed since 1.52 only when that is asked for.
func (u *usage) adapt(r *http.Request) {
	if !atLeast(r.Context(), "1.52") {
		if i := u.ImageUsage; i != nil {
			u.LayersSize = &i.TotalSize
			for _, item := range i.Items {
				line := imageSummary{Summary: item}
				line.adapt(r)
				u.Images = append(u.Images, line)
			}
		}
		if c := u.ContainerUsage; c != nil {
			u.Containers = c.Items
		}
		if v := u.VolumeUsage; v != nil {
			u.Volumes = v.Items
		}
		if u.BuildCacheUsage != nil {
			u.BuildCache, u.BuilderSize = &[]build.CacheRecord{}, new(int64)
		}
		u.DiskUsage = system.DiskUsage{}
		return
	}
	if boolParam(r, "verbose") {
		return
	}
	if u.ImageUsage != nil {
		u.ImageUsage.Items = nil
	}
	if u.ContainerUsage != nil {
		u.ContainerUsage.Items = nil
	}
	if u.VolumeUsage != nil {
		u.VolumeUsage.Items = nil
	}
}

func (a *dfAPI) containerUsage(ctx context.Context) (*container.DiskUsage, error) {
	u := &container.DiskUsage{Items: []container.Summary{}}
	for _, c := range a.containers.All() {
		line := summarize(c, time.Now())
		var err error
		line.SizeRw, line.SizeRootFs, err = a.containers.DiskUse(ctx, c)
		if errdefs.IsNotFound(err) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, err
		}
		u.Items = append(u.Items, line)
		u.TotalCount++
		u.TotalSize += line.SizeRw
		if c.Active() {
			u.ActiveCount++
		} else {
			u.Reclaimable += line.SizeRw
		}
	}
	return u, nil
}

func (a *dfAPI) volumeUsage(ctx context.Context) *volumetypes.DiskUsage {
	u := &volumetypes.DiskUsage{Items: []volumetypes.Volume{}}
	for _, v := range a.volumes.List() {
		line := describeVolume(v)
		users := int64(len(a.containers.VolumeUsers(v.Name)))
		size := a.volumes.DiskUse(ctx, v)
		line.UsageData = &volumetypes.UsageData{RefCount: users, Size: size}
		u.Items = append(u.Items, line)
		u.TotalCount++
		u.TotalSize += max(0, size)
		if users > 0 {
			u.ActiveCount++
		} else {
			u.Reclaimable += max(0, size)
		}
	}
	return u
}
