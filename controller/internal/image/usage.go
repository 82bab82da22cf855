package image

import "github.com/opencontainers/go-digest"

// Use is what an image takes of the datastore.
type Use struct {
	Image
	// Shared is how many bytes of the image's layers and blobs other images have too.
	Shared int64
	// Containers are those whose disks build on it.
	Containers []User
}

// Usage is what all images take, in bytes: Total, and of it what those take that containers build on.
type Usage struct {
	Images       []Use // newest first
	Total, InUse int64
}

// Usage measures what all images take. What several have counts once.
func (s *Store) Usage(inUse InUse) Usage {
	var u Usage
	x := s.index.Read()
	count, used := map[digest.Digest]int{}, map[digest.Digest]bool{}
	all := s.list(x)
	for _, img := range all {
		use := Use{Image: img, Containers: inUse(img.ID)}
		for _, p := range x.parts(img) {
			count[p.key]++
			used[p.key] = used[p.key] || len(use.Containers) > 0
		}
		u.Images = append(u.Images, use)
	}
	counted := map[digest.Digest]bool{}
	for i, img := range all {
		for _, p := range x.parts(img) {
			if count[p.key] > 1 {
				u.Images[i].Shared += p.size
			}
			if counted[p.key] {
				continue
			}
			counted[p.key] = true
			u.Total += p.size
			if used[p.key] {
				u.InUse += p.size
			}
		}
	}
	return u
}

// part is a layer or a blob of an image.
type part struct {
	key  digest.Digest
	size int64
}

// parts are what an image consists of, each once.
func (x *index) parts(img Image) (all []part) {
	seen := map[digest.Digest]bool{}
	add := func(key digest.Digest, size int64) {
		if !seen[key] {
			seen[key], all = true, append(all, part{key, size})
		}
	}
	for _, c := range img.ChainIDs {
		add(c, x.Layers[c].Size)
	}
	for _, b := range img.Blobs {
		add(blobKey(b), x.Blobs[b].Size)
	}
	return all
}
