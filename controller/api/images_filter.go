package api

import (
	"net/http"
	"path"
	"slices"
	"strconv"
	"time"

	"github.com/distribution/reference"
	dockerimage "github.com/moby/moby/api/types/image"

	"github.com/containervm/containervm/controller/internal/image"
)

// prune serves `docker image prune`: images without a tag, or with dangling=false all that no container uses.
func (a *imageAPI) prune(w http.ResponseWriter, r *http.Request) error {
	f, err := readFilters(r)
	if err != nil {
		return err
	}
	dangling, given, err := f.flag("dangling")
	if err != nil {
		return err
	}
	delete(f, "dangling") // says which images are meant at all
	match, err := f.images(a.store)
	if err != nil {
		return err
	}
	gone, freed, err := a.store.Prune(r.Context(), given && !dangling, match, a.inUse)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, dockerimage.PruneReport{ImagesDeleted: gone, SpaceReclaimed: uint64(freed)})
}

// images makes one test of the filters for images.
func (f filters) images(store *image.Store) (func(image.Image) bool, error) {
	dangling, byTag, err := f.flag("dangling")
	if err != nil {
		return nil, err
	}
	from, to, err := f.interval(store)
	if err != nil {
		return nil, err
	}
	return func(img image.Image) bool {
		return (!byTag || dangling == (len(img.RepoTags) == 0)) &&
			(from.IsZero() || img.Created.After(from)) &&
			(to.IsZero() || img.Created.Before(to)) &&
			f.matchLabels(img.Config.Config.Labels) &&
			f.match("reference", func(pattern string) bool { return hasReference(img, pattern) })
	}, nil
}

// flag reads a filter that has one value, true or false.
func (f filters) flag(name string) (value, given bool, err error) {
	if len(f[name]) == 0 {
		return false, false, nil
	}
	value, err = strconv.ParseBool(f[name][0])
	if err != nil || len(f[name]) > 1 {
		return false, true, invalid("invalid filter '%s=%s'", name, f[name])
	}
	return value, true, nil
}

// interval reads between which times an image must have been built; zero is open.
func (f filters) interval(store *image.Store) (from, to time.Time, err error) {
	for _, ref := range f["since"] {
		img, err := store.Resolve(ref)
		if err != nil {
			return from, to, err
		}
		from = img.Created
	}
	for _, ref := range f["before"] {
		img, err := store.Resolve(ref)
		if err != nil {
			return from, to, err
		}
		to = img.Created
	}
	for _, until := range f["until"] {
		if to, err = pointInTime(until); err != nil {
			return from, to, err
		}
	}
	return from, to, nil
}

// pointInTime reads a duration before now, Unix seconds, or RFC 3339.
func pointInTime(s string) (time.Time, error) {
	if d, err := time.ParseDuration(s); err == nil {
		return time.Now().Add(-d), nil
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return time.Unix(n, 0), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return t, invalid("failed to parse value as time or duration: %q", s)
	}
	return t, nil
}

// hasReference reports whether a name of the image fits a pattern.
func hasReference(img image.Image, pattern string) bool {
	return slices.ContainsFunc(slices.Concat(img.RepoTags, img.RepoDigests), func(name string) bool { return fitsReference(name, pattern) })
}

// references are those of an image's names that are asked for: all of them without that filter.
func (f filters) references(names []string) []string {
	asked := []string{}
	for _, name := range names {
		if f.match("reference", func(pattern string) bool { return fitsReference(name, pattern) }) {
			asked = append(asked, name)
		}
	}
	return asked
}

// fitsReference reports whether a name fits a pattern, as a whole or without its tag.
func fitsReference(name, pattern string) bool {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return false
	}
	whole, _ := reference.FamiliarMatch(pattern, named)
	repo, _ := path.Match(pattern, reference.FamiliarName(named))
	return whole || repo
}
