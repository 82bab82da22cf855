package api

import (
	dockerimage "github.com/moby/moby/api/types/image"

	"github.com/containervm/containervm/controller/internal/image"
)

// imageUsage is the images' part of `docker system df`. TotalSize is also what older versions of the API call LayersSize. The items have all
// their sizes and numbers; without verbose there are none.
func imageUsage(store *image.Store, inUse image.InUse, verbose bool) dockerimage.DiskUsage {
	u := store.Usage(inUse)
	out := dockerimage.DiskUsage{TotalCount: int64(len(u.Images)), TotalSize: u.Total, Reclaimable: u.Total - u.InUse}
	for _, use := range u.Images {
		if len(use.Containers) > 0 {
			out.ActiveCount++
		}
		if !verbose {
			continue
		}
		item := summary(use.Image)
		item.SharedSize, item.Containers = use.Shared, int64(len(use.Containers))
		out.Items = append(out.Items, item)
	}
	return out
}
