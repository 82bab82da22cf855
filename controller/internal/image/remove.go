package image

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/image"
	"github.com/opencontainers/go-digest"
)

// User is a container whose disk builds on an image.
type User struct {
	Container string // ID
	Running   bool
}

// InUse tells which containers use an image.
type InUse func(id digest.Digest) []User

// Remove removes a name, or an image with all its names, by Docker's rules and in Docker's words: a name goes when the
// image keeps another; the last name takes the image with it. Conflicts are of class errdefs.ErrConflict. force
// overrides all but a running container. The layers of an image that a stopped container builds on are kept until a
// Collect finds the container gone.
func (s *Store) Remove(ctx context.Context, ref string, force bool, inUse InUse) ([]image.DeleteResponse, error) {
	var out []image.DeleteResponse
	var img Image
	err := s.index.Commit(ctx, func(x *index) error {
		id, err := x.resolve(ref)
		if err != nil {
			return err
		}
		img = s.image(x, id)
		out, err = x.remove(ref, force, inUse)
		return err
	})
	if err != nil {
		return nil, err
	}
	s.tellRemoved(img, out)
	deleted, _, err := s.Collect(ctx, inUse)
	for _, chain := range deleted {
		out = append(out, image.DeleteResponse{Deleted: chain.String()})
	}
	return out, err
}

func (x *index) remove(ref string, force bool, inUse InUse) ([]image.DeleteResponse, error) {
	id, err := x.resolve(ref)
	if err != nil {
		return nil, err
	}
	all := slices.Sorted(slices.Values(append(names(x.Tags, id), names(x.Digests, id)...)))
	named, byName := x.nameOf(ref)
	if !byName {
		if len(repositories(all)) > 1 && !force {
			return nil, conflict(id, "must be forced", "image is referenced in multiple repositories")
		}
		return x.drop(id, all, force, inUse)
	}
	single := len(repositories(all)) <= 1 && len(names(x.Tags, id)) <= 1
	if users := inUse(id); single && !force && len(users) > 0 {
		return nil, errdefs.ErrConflict.WithMessage(fmt.Sprintf(
			"conflict: unable to remove repository reference %q (must force) - container %s is using its referenced image %s",
			ref, short(users[0].Container), shortID(id)))
	}
	if !single {
		return x.untag(id, named), nil
	}
	out, err := x.drop(id, all, force, inUse)
	if err != nil && force { // as in Docker, the name is removed all the same and the image stays without it
		return x.untag(id, named), nil
	}
	return out, err
}

// nameOf is the key under which ref is found as a name, rather than as an ID.
func (x *index) nameOf(ref string) (string, bool) {
	parsed, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return "", false
	}
	name := reference.TagNameOnly(parsed).String()
	if digested, ok := parsed.(reference.Digested); ok {
		name = canonicalDigest(parsed, digested.Digest().String())
	}
	_, tagged := x.Tags[name]
	_, digested := x.Digests[name]
	return name, tagged || digested
}

// untag removes one name, and with the last tag of a repository its digests too.
func (x *index) untag(id digest.Digest, name string) []image.DeleteResponse {
	gone := []string{name}
	delete(x.Tags, name)
	delete(x.Digests, name)
	repo := repository(name)
	if !slices.ContainsFunc(names(x.Tags, id), func(n string) bool { return repository(n) == repo }) {
		for _, n := range names(x.Digests, id) {
			if repository(n) == repo {
				delete(x.Digests, n)
				gone = append(gone, n)
			}
		}
	}
	return untagged(gone)
}

// drop removes an image with all its names, unless a container is in the way.
func (x *index) drop(id digest.Digest, all []string, force bool, inUse InUse) ([]image.DeleteResponse, error) {
	for _, u := range inUse(id) {
		if u.Running {
			return nil, conflict(id, "cannot be forced", "image is being used by running container "+short(u.Container))
		}
		if !force {
			return nil, conflict(id, "must be forced", "image is being used by stopped container "+short(u.Container))
		}
	}
	dropNames(x.Tags, id)
	dropNames(x.Digests, id)
	e := x.Images[id]
	e.Removed = true
	x.Images[id] = e
	return append(untagged(all), image.DeleteResponse{Deleted: id.String()}), nil
}

func conflict(id digest.Digest, force, why string) error {
	return errdefs.ErrConflict.WithMessage(fmt.Sprintf("conflict: unable to delete %s (%s) - %s", shortID(id), force, why))
}

func untagged(canonical []string) []image.DeleteResponse {
	var out []image.DeleteResponse
	for _, name := range familiar(canonical) {
		out = append(out, image.DeleteResponse{Untagged: name})
	}
	return out
}

// repository is a canonical name without tag or digest.
func repository(canonical string) string {
	if repo, _, ok := strings.Cut(canonical, "@"); ok {
		return repo
	}
	return canonical[:strings.LastIndexByte(canonical, ':')]
}

func repositories(canonical []string) map[string]bool {
	set := map[string]bool{}
	for _, name := range canonical {
		set[repository(name)] = true
	}
	return set
}

func short(id string) string { return id[:min(12, len(id))] }

// Prune removes the images without a tag that no container uses, or with all set every image that no container uses,
// of those that match (nil: all do). It returns what went and the bytes of file content that it freed.
func (s *Store) Prune(ctx context.Context, all bool, match func(Image) bool, inUse InUse) ([]image.DeleteResponse, int64, error) {
	var out []image.DeleteResponse
	for _, img := range s.List() {
		if (!all && len(img.RepoTags) > 0) || (match != nil && !match(img)) || len(inUse(img.ID)) > 0 {
			continue
		}
		var gone []image.DeleteResponse
		err := s.index.Commit(ctx, func(x *index) error {
			var err error
			gone, err = x.drop(img.ID, append(names(x.Tags, img.ID), names(x.Digests, img.ID)...), false, inUse)
			return err
		})
		if errdefs.IsConflict(err) {
			continue
		}
		if err != nil {
			return out, 0, err
		}
		out = append(out, gone...)
		s.tellRemoved(img, gone)
	}
	deleted, freed, err := s.Collect(ctx, inUse)
	if err == nil {
		s.tellPruned(freed)
	}
	for _, chain := range deleted {
		out = append(out, image.DeleteResponse{Deleted: chain.String()})
	}
	return out, freed, err
}

// Collect deletes the layers that neither an image nor a container nor anything in progress needs, topmost first, and the blobs, and
// returns the layers' chain IDs and the bytes of their file content and of the blobs.
func (s *Store) Collect(ctx context.Context, inUse InUse) (deleted []digest.Digest, freed int64, err error) {
	var unlock []func()
	var blobs []digest.Digest
	defer func() {
		for _, f := range unlock {
			f()
		}
	}()
	d := s.pins.newDeletion()
	err = s.index.Commit(ctx, func(x *index) error {
		x.forgetRemoved(d, inUse)
		was := x.clone()
		deleted = x.dropUnreferenced(func(chain digest.Digest) bool {
			free, busy := s.locks.tryLock(chain)
			if busy != nil {
				return true
			}
			unlock = append(unlock, free)
			return !d.choose(chain)
		})
		for _, chain := range deleted {
			freed += was.Layers[chain].Size
		}
		blobs = x.dropBlobs(func(blob digest.Digest) bool {
			free, busy := s.locks.tryLock(blobKey(blob))
			if busy != nil {
				return true
			}
			unlock = append(unlock, free)
			return !d.choose(blobKey(blob))
		})
		for _, blob := range blobs {
			freed += was.Blobs[blob].Size
		}
		return nil
	})
	d.end() // before the files go: their chains are locked still
	if err != nil {
		return nil, 0, err
	}
	for _, blob := range blobs {
		if err := s.host.DeleteFile(ctx, blobPath(blob)); err != nil {
			return deleted, freed, err
		}
	}
	for _, chain := range deleted {
		if err := s.host.DeleteFile(ctx, diskPath(chain)); err != nil {
			return deleted, freed, err
		}
	}
	return deleted, freed, nil
}

// forgetRemoved makes the images part of d, and takes them out of the index, that were removed and that nobody uses. Each is
// chosen before its users are counted: a create that held it until then shows its container.
func (x *index) forgetRemoved(d *deletion, inUse InUse) {
	maps.DeleteFunc(x.Images, func(id digest.Digest, e entry) bool {
		if !e.Removed || !d.choose(id) {
			return false
		}
		if len(inUse(id)) > 0 {
			d.spare(id)
			return false
		}
		return true
	})
}

// Released is called when a container of the image id has been removed. If the image was removed before, it deletes the layers
// that nothing needs any more.
func (s *Store) Released(ctx context.Context, id digest.Digest, inUse InUse) error {
	if r, ok := s.index.Read().Images[id]; !ok || !r.Removed {
		return nil
	}
	_, _, err := s.Collect(ctx, inUse)
	return err
}

// dropUnreferenced removes the layers that no image has, and that keep does not ask for, topmost first. What it keeps
// keeps its parents.
func (x *index) dropUnreferenced(keep func(digest.Digest) bool) []digest.Digest {
	needed := map[digest.Digest]bool{}
	need := func(chain digest.Digest) {
		for ; chain != "" && !needed[chain]; chain = x.Layers[chain].Parent {
			needed[chain] = true
		}
	}
	for _, r := range x.Images {
		chains, _ := chainIDs(r.Config)
		for _, c := range chains {
			need(c)
		}
	}
	candidates := slices.SortedFunc(maps.Keys(x.Layers), func(a, b digest.Digest) int {
		if d := x.depth(b) - x.depth(a); d != 0 {
			return d
		}
		return strings.Compare(string(a), string(b))
	})
	var gone []digest.Digest
	for _, c := range candidates {
		switch {
		case needed[c]:
		case keep(c):
			need(c)
		default:
			gone = append(gone, c)
		}
	}
	for _, c := range gone {
		delete(x.Layers, c)
	}
	return gone
}

// dropBlobs removes the blobs that no image has, and that keep does not ask for.
func (x *index) dropBlobs(keep func(digest.Digest) bool) (gone []digest.Digest) {
	needed := map[digest.Digest]bool{}
	for _, r := range x.Images {
		for _, b := range r.Blobs {
			needed[b] = true
		}
	}
	for b := range x.Blobs {
		if !needed[b] && !keep(b) {
			gone = append(gone, b)
		}
	}
	for _, b := range gone {
		delete(x.Blobs, b)
	}
	return gone
}
