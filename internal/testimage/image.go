package testimage

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Image is an image to be written in one of the forms.
type Image struct {
	Tags     []string
	Config   ocispec.ImageConfig
	Platform ocispec.Platform // defaults to linux/amd64
	Layers   [][]byte         // uncompressed tars, lowest first
	// Compress, when set, is applied to each layer of an OCI form; Suffix is what it adds to the media type ("+gzip").
	Compress func([]byte) []byte
	Suffix   string
}

// File is a member of an archive.
type File struct {
	Name string
	Data []byte
	Link string // set: a symbolic link
}

// Archive is a tar of files.
func Archive(files []File) []byte {
	entries := make([]Entry, len(files))
	for i, f := range files {
		entries[i] = Entry{Name: f.Name, Body: string(f.Data)}
		if f.Link != "" {
			entries[i] = Entry{Name: f.Name, Type: tar.TypeSymlink, Link: f.Link}
		}
	}
	return Layer(entries...)
}

// RawConfig is the image's configuration, whose digest is its ID.
func (i Image) RawConfig() []byte {
	c := ocispec.Image{
		Created:  &Time,
		Platform: i.platform(),
		Config:   i.Config,
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{}},
	}
	for _, l := range i.Layers {
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, digest.FromBytes(l))
		c.History = append(c.History, ocispec.History{Created: &Time, CreatedBy: "testimage"})
	}
	return encode(c)
}

// ID is the image's ID.
func (i Image) ID() digest.Digest { return digest.FromBytes(i.RawConfig()) }

func (i Image) platform() ocispec.Platform {
	if i.Platform.OS == "" {
		return ocispec.Platform{OS: "linux", Architecture: "amd64"}
	}
	return i.Platform
}

// blobName is the path of a blob in an OCI image layout (OCI image specification, image-layout.md).
func blobName(d digest.Digest) string { return "blobs/sha256/" + d.Encoded() }

func blob(data []byte) (File, ocispec.Descriptor) {
	d := digest.FromBytes(data)
	return File{Name: blobName(d), Data: data}, ocispec.Descriptor{Digest: d, Size: int64(len(data))}
}

// Manifest returns the image's OCI manifest and the blobs that it leads to, itself last.
func (i Image) Manifest() (ocispec.Descriptor, []File) {
	config, configDesc := blob(i.RawConfig())
	configDesc.MediaType = ocispec.MediaTypeImageConfig
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: configDesc, Layers: []ocispec.Descriptor{},
	}
	files := []File{config}
	for _, l := range i.Layers {
		if i.Compress != nil {
			l = i.Compress(l)
		}
		f, desc := blob(l)
		desc.MediaType = ocispec.MediaTypeImageLayer + i.Suffix
		files, m.Layers = append(files, f), append(m.Layers, desc)
	}
	f, desc := blob(encode(m))
	p := i.platform()
	desc.MediaType, desc.Platform = m.MediaType, &p
	return desc, append(files, f)
}

// Layout returns the files of an OCI image layout of images, index.json last.
func Layout(images ...Image) []File {
	files := []File{{Name: ocispec.ImageLayoutFile, Data: encode(ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})}}
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	for _, i := range images {
		desc, blobs := i.Manifest()
		files = append(files, blobs...)
		for _, tag := range i.Tags {
			named := desc
			named.Annotations = map[string]string{ocispec.AnnotationRefName: tag}
			index.Manifests = append(index.Manifests, named)
		}
		if len(i.Tags) == 0 {
			index.Manifests = append(index.Manifests, desc)
		}
	}
	return append(files, File{Name: ocispec.ImageIndexFile, Data: encode(index)})
}

// DockerArchive returns the files of a docker-archive of images, as older `docker save`s wrote them, manifest.json last.
func DockerArchive(images ...Image) []File {
	var files []File
	var items []map[string]any
	for n, i := range images {
		config := i.ID().Encoded() + ".json"
		files = append(files, File{Name: config, Data: i.RawConfig()})
		layers := []string{}
		for m, l := range i.Layers {
			name := fmt.Sprintf("%d-%d/layer.tar", n, m)
			files, layers = append(files, File{Name: name, Data: l}), append(layers, name)
		}
		items = append(items, map[string]any{"Config": config, "RepoTags": i.Tags, "Layers": layers})
	}
	return append(files, File{Name: "manifest.json", Data: encode(items)})
}

// Saved returns the files that newer `docker save`s write: a layout that is a docker-archive too.
func Saved(i Image) []File {
	layers := []string{}
	for _, l := range i.Layers {
		layers = append(layers, blobName(digest.FromBytes(l)))
	}
	items := []map[string]any{{"Config": blobName(i.ID()), "RepoTags": i.Tags, "Layers": layers}}
	return append(Layout(i), File{Name: "manifest.json", Data: encode(items)})
}

func encode(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("testimage: %v", err)) // plain values always can be encoded
	}
	return data
}

// Reader is the archive of files as a stream.
func Reader(files []File) io.Reader { return bytes.NewReader(Archive(files)) }
