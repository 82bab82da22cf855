package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/containerd/errdefs"
	dockerimage "github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/storage"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/containervm/containervm/controller/internal/image"
	"github.com/containervm/containervm/internal/printable"
)

// imageSummary is a line of a list, with the field that versions before 1.44 read.
type imageSummary struct {
	dockerimage.Summary
	VirtualSize int64 `json:",omitempty"`
}

// list serves `docker images`.
func (a *imageAPI) list(w http.ResponseWriter, r *http.Request) error {
	f, err := readFilters(r)
	if err != nil {
		return err
	}
	match, err := f.images(a.store)
	if err != nil {
		return err
	}
	summaries := []imageSummary{}
	for _, use := range a.store.Usage(a.inUse).Images {
		if !match(use.Image) {
			continue
		}
		line := imageSummary{Summary: summary(use.Image)}
		line.RepoTags, line.RepoDigests = f.references(line.RepoTags), f.references(line.RepoDigests)
		if boolParam(r, "shared-size") {
			line.SharedSize = use.Shared
		}
		if atLeast(r.Context(), "1.51") {
			line.Containers = int64(len(use.Containers))
		}
		if atLeast(r.Context(), "1.48") {
			line.Descriptor = descriptor(use.Image)
		}
		if boolParam(r, "manifests") && atLeast(r.Context(), "1.47") {
			line.Manifests = manifests(use.Image, use.Containers)
		}
		line.adapt(r)
		summaries = append(summaries, line)
	}
	return writeJSON(w, http.StatusOK, summaries)
}

// adapt gives the line the form of older versions.
func (s *imageSummary) adapt(r *http.Request) {
	if !atLeast(r.Context(), "1.44") {
		s.VirtualSize = s.Size
	}
	if !atLeast(r.Context(), "1.43") && len(s.RepoTags) == 0 && len(s.RepoDigests) == 0 {
		s.RepoTags, s.RepoDigests = []string{"<none>:<none>"}, []string{"<none>@<none>"}
	}
}

func summary(img image.Image) dockerimage.Summary {
	return dockerimage.Summary{
		ID:          img.ID.String(),
		RepoTags:    img.RepoTags,
		RepoDigests: img.RepoDigests,
		Created:     img.Created.Unix(), // of an image without a date the zero time's, which clients know as none
		Size:        img.Size,
		SharedSize:  -1, // not calculated, as Docker says it
		Containers:  -1,
		Labels:      img.Config.Config.Labels,
	}
}

// descriptor leads to an image's manifest; nil: an earlier version made the image.
func descriptor(img image.Image) *ocispec.Descriptor {
	d := img.Descriptor()
	if d.Digest == "" {
		return nil
	}
	return &d
}

// manifests is the one manifest of an image, as images for several platforms have more.
func manifests(img image.Image, users []image.User) []dockerimage.ManifestSummary {
	d := img.Descriptor()
	if d.Digest == "" {
		return nil
	}
	m := dockerimage.ManifestSummary{ID: d.Digest.String(), Descriptor: d, Available: true, Kind: dockerimage.ManifestKindImage}
	m.Size.Content, m.Size.Total = img.Content, img.Size
	m.ImageData = &dockerimage.ImageProperties{Platform: *d.Platform, Containers: []string{}}
	m.ImageData.Size.Unpacked = img.Size - img.Content
	for _, u := range users {
		m.ImageData.Containers = append(m.ImageData.Containers, u.Container)
	}
	return []dockerimage.ManifestSummary{m}
}

// inspect serves `docker image inspect`.
func (a *imageAPI) inspect(w http.ResponseWriter, r *http.Request, name string) error {
	asked := boolParam(r, "manifests")
	if asked && param(r, "platform") != "" {
		return invalid("conflicting options: manifests and platform options cannot both be set")
	}
	img, err := a.find(r, name)
	if err != nil {
		return err
	}
	out := dockerimage.InspectResponse{
		ID:           img.ID.String(),
		RepoTags:     img.RepoTags,
		RepoDigests:  img.RepoDigests,
		Author:       img.Config.Author,
		Config:       &img.Docker.Config,
		Architecture: img.Config.Architecture,
		Variant:      img.Config.Variant,
		Os:           img.Config.OS,
		OsVersion:    img.Config.OSVersion,
		Size:         img.Size,
		GraphDriver:  &storage.DriverData{Name: diskDriver, Data: map[string]string{"TopDisk": img.TopDisk}},
		RootFS:       dockerimage.RootFS{Type: "layers"},
		Metadata:     dockerimage.Metadata{LastTagTime: img.Tagged},
	}
	if !img.Created.IsZero() {
		out.Created = img.Created.Format(time.RFC3339Nano)
	}
	if n := len(img.Config.History); n > 0 {
		out.Comment = img.Config.History[n-1].Comment
	}
	for _, d := range img.Config.RootFS.DiffIDs {
		out.RootFS.Layers = append(out.RootFS.Layers, d.String())
	}
	if atLeast(r.Context(), "1.48") {
		out.Descriptor = descriptor(img)
		if asked {
			out.Manifests = manifests(img, a.inUse(img.ID))
		}
	}
	old, err := olderInspect(r.Context(), out)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, old)
}

// diskDriver is how disks of images and containers are kept.
const diskDriver = "vmdk"

// find finds an image, of a platform if the request names one.
func (a *imageAPI) find(r *http.Request, name string) (image.Image, error) {
	img, err := a.store.Resolve(name)
	if err != nil {
		return img, err
	}
	return img, onlyPlatform(name, r.URL.Query()["platform"])
}

// onlyPlatform refuses platforms, each JSON, that an image here is never for.
func onlyPlatform(name string, platforms []string) error {
	for _, text := range platforms {
		if text == "" {
			continue
		}
		p, err := readPlatform(text)
		if err != nil {
			return err
		}
		if !runsHere(p) {
			return errdefs.ErrNotFound.WithMessage(fmt.Sprintf("image with reference %s was found but does not provide the specified platform (%s/%s)", name, p.OS, p.Architecture))
		}
	}
	return nil
}

// olderInspect adds what older versions of the API have, empty (moby/moby/api, docs/CHANGELOG.md: 1.44, 1.45, 1.50, 1.52).
func olderInspect(ctx context.Context, out dockerimage.InspectResponse) (map[string]any, error) {
	all, err := asObject(out)
	if err != nil {
		return nil, err
	}
	config, err := asObject(out.Config)
	if err != nil {
		return nil, err
	}
	add := func(to map[string]any, empty any, keys ...string) {
		for _, key := range keys {
			if _, ok := to[key]; !ok {
				to[key] = empty
			}
		}
	}
	if !atLeast(ctx, "1.52") {
		add(all, "", "Parent", "Comment", "DockerVersion", "Author")
		add(config, "", "User", "WorkingDir")
		add(config, nil, "Cmd", "Entrypoint", "Env", "Labels", "OnBuild", "Volumes")
	}
	if !atLeast(ctx, "1.50") {
		add(config, "", "Hostname", "Domainname", "Image")
		add(config, false, "AttachStdin", "AttachStdout", "AttachStderr", "Tty", "OpenStdin", "StdinOnce")
	}
	if !atLeast(ctx, "1.45") {
		all["Container"] = ""
		all["ContainerConfig"] = map[string]any{"Hostname": "", "Domainname": "", "User": "", "AttachStdin": false, "AttachStdout": false, "AttachStderr": false,
			"Tty": false, "OpenStdin": false, "StdinOnce": false, "Env": nil, "Cmd": nil, "Image": "", "Volumes": nil, "WorkingDir": "", "Entrypoint": nil, "OnBuild": nil, "Labels": nil}
	}
	if !atLeast(ctx, "1.44") {
		all["VirtualSize"] = out.Size
		add(all, time.Time{}, "Created")
	}
	all["Config"] = config
	return all, nil
}

// asObject is what a value is as JSON.
func asObject(v any) (map[string]any, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber() // sizes are exact
	var all map[string]any
	return all, dec.Decode(&all)
}

// history serves `docker history`, newest first.
func (a *imageAPI) history(w http.ResponseWriter, r *http.Request, name string) error {
	img, err := a.find(r, name)
	if err != nil {
		return err
	}
	items := historyItems(img)
	if n := len(items); n > 0 {
		items[0].ID = img.ID.String()
		items[0].Tags = img.RepoTags
	}
	return writeJSON(w, http.StatusOK, items)
}

func historyItems(img image.Image) []dockerimage.HistoryResponseItem {
	items := make([]dockerimage.HistoryResponseItem, len(img.Config.History))
	sizes := img.LayerSizes
	for i, h := range img.Config.History {
		item := dockerimage.HistoryResponseItem{ID: "<missing>", CreatedBy: printable.Text(h.CreatedBy), Comment: printable.Text(h.Comment)}
		if h.Created != nil {
			item.Created = h.Created.Unix()
		}
		if !h.EmptyLayer && len(sizes) > 0 {
			item.Size, sizes = sizes[0], sizes[1:]
		}
		items[len(items)-1-i] = item
	}
	return items
}
