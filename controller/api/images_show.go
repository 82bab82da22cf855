package api

import (
	"net/http"
	"time"

	dockerimage "github.com/moby/moby/api/types/image"

	"github.com/containervm/containervm/controller/internal/image"
)

// list serves `docker images`.
func (a *imageAPI) list(w http.ResponseWriter, r *http.Request) error {
	f, err := readFilters(r, "reference", "dangling", "label", "label!", "before", "since", "until")
	if err != nil {
		return err
	}
	match, err := f.images(a.store)
	if err != nil {
		return err
	}
	summaries := []dockerimage.Summary{}
	for _, img := range a.store.List() {
		if match(img) {
			summaries = append(summaries, summary(img))
		}
	}
	return writeJSON(w, http.StatusOK, summaries)
}

func summary(img image.Image) dockerimage.Summary {
	return dockerimage.Summary{
		ID:          img.ID.String(),
		RepoTags:    img.RepoTags,
		RepoDigests: img.RepoDigests,
		Created:     unixOrZero(img.Created),
		Size:        img.Size,
		SharedSize:  -1, // not calculated, as Docker says it
		Containers:  -1,
		Labels:      img.Config.Config.Labels,
	}
}

func unixOrZero(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

// inspect serves `docker image inspect`.
func (a *imageAPI) inspect(w http.ResponseWriter, _ *http.Request, name string) error {
	img, err := a.store.Resolve(name)
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
		RootFS:       dockerimage.RootFS{Type: "layers"},
		Metadata:     dockerimage.Metadata{LastTagTime: img.Loaded},
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
	return writeJSON(w, http.StatusOK, out)
}

// history serves `docker history`, newest first.
func (a *imageAPI) history(w http.ResponseWriter, _ *http.Request, name string) error {
	img, err := a.store.Resolve(name)
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
		item := dockerimage.HistoryResponseItem{ID: "<missing>", CreatedBy: h.CreatedBy, Comment: h.Comment}
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
