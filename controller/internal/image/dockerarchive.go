package image

import (
	"path"
	"strings"

	"github.com/opencontainers/go-digest"
)

// dockerManifest is the member that makes a tar a docker-archive (moby, image/tarexport).
const dockerManifest = "manifest.json"

// dockerItem is an element of it: names of members, and tags.
type dockerItem struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// dockerImages reads the images of a docker-archive.
func (a *archive) dockerImages() ([]source, error) {
	data, err := a.read(dockerManifest, MaxManifestBytes)
	if err != nil {
		return nil, err
	}
	var items []dockerItem
	if err := decodeJSON(data, &items); err != nil {
		return nil, invalid("cannot read %s of the archive: %w", dockerManifest, err)
	}
	var out []source
	for _, item := range items {
		if err := a.spend(0, len(item.Layers)+len(item.RepoTags), 1); err != nil {
			return nil, err
		}
		src, err := a.dockerImage(item)
		if err != nil {
			return nil, err
		}
		out = append(out, src)
	}
	return out, nil
}

func (a *archive) dockerImage(item dockerItem) (source, error) {
	config, err := a.read(item.Config, MaxConfigBytes)
	if err != nil {
		return source{}, err
	}
	id := digest.FromBytes(config)
	if want, ok := digestOfName(item.Config); ok && want != id {
		return source{}, invalid("the configuration %q in the archive has the digest %s", item.Config, id)
	}
	src := source{id: id, config: config}
	diffIDs, err := runnable(config, len(item.Layers))
	if err != nil {
		return source{}, err
	}
	for i, name := range item.Layers {
		blob, _ := digestOfName(name)
		c, err := a.layer(name, diffIDs[i], blob)
		if err != nil {
			return source{}, err
		}
		src.layers = append(src.layers, c)
	}
	for _, tag := range item.RepoTags {
		canonical, err := canonicalTag(tag)
		if err != nil {
			return source{}, err
		}
		src.tags = append(src.tags, canonical)
	}
	return src, nil
}

// digestOfName tells the digest that the name of a member promises: "blobs/sha256/<hex>" or "<hex>.json".
func digestOfName(name string) (digest.Digest, bool) {
	dir, base := path.Split(name)
	if dir != "blobs/sha256/" && !strings.HasSuffix(base, ".json") {
		return "", false
	}
	d := digest.NewDigestFromEncoded(digest.SHA256, strings.TrimSuffix(base, ".json"))
	return d, d.Validate() == nil
}

// runnable checks a configuration for a machine of this kind and returns its diff IDs, of which there must be layers.
func runnable(config []byte, layers int) ([]digest.Digest, error) {
	c, err := decodeConfig(config)
	if err != nil {
		return nil, err
	}
	if (c.OS != "" && c.OS != osLinux) || (c.Architecture != "" && c.Architecture != archAMD64) {
		return nil, invalid("cannot use an image for %s/%s: virtual machines here run linux/amd64", c.OS, c.Architecture)
	}
	if n := len(c.RootFS.DiffIDs); n != layers {
		return nil, invalid("cannot use the image: its configuration has %d diff IDs for %d layers", n, layers)
	}
	return c.RootFS.DiffIDs, nil
}
