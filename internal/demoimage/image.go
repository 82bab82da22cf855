// Package demoimage makes a small OCI image of a static busybox on the spot: something to run where no registry is.
package demoimage

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	_ "crypto/sha256" // go-digest takes its hashes from the registry of package crypto
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Source is what an image is made of.
type Source struct {
	Name    string    // "busybox:demo"
	Busybox []byte    // a static executable
	Applets []string  // paths without the leading slash, as `busybox --list-full` prints them
	Created time.Time // date of the image and of every file in it
}

// Write writes the image as a tar of an OCI image layout (image-spec, image-layout.md), which `docker load` reads. The
// same source gives the same bytes.
func Write(w io.Writer, s Source) error {
	l := layout{tw: tar.NewWriter(w), created: s.Created}
	l.file("oci-layout", encode(ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion}))
	layer, diffID, err := layerBlob(s)
	if err != nil {
		return fmt.Errorf("cannot make layer of %s: %w", s.Name, err)
	}
	manifest := l.blob(ocispec.MediaTypeImageManifest, encode(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    l.blob(ocispec.MediaTypeImageConfig, encode(config(s, diffID))),
		Layers:    []ocispec.Descriptor{l.blob(ocispec.MediaTypeImageLayerGzip, layer)},
	}))
	// The first name is the one of the specification, the second the one by which containerd and Docker go.
	manifest.Annotations = map[string]string{ocispec.AnnotationRefName: s.Name, "io.containerd.image.name": s.Name}
	l.file(ocispec.ImageIndexFile, encode(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{manifest},
	}))
	if err := l.close(); err != nil {
		return fmt.Errorf("cannot write image %s: %w", s.Name, err)
	}
	return nil
}

func config(s Source, diffID digest.Digest) ocispec.Image {
	return ocispec.Image{
		Created:  &s.Created,
		Platform: ocispec.Platform{Architecture: runtime.GOARCH, OS: "linux"},
		Config: ocispec.ImageConfig{
			Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
			Cmd: []string{"sh"},
		},
		RootFS:  ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{diffID}},
		History: []ocispec.History{{Created: &s.Created, CreatedBy: "package demoimage", Comment: "static busybox"}},
	}
}

// layerBlob returns the compressed layer and the digest of the layer before compression.
func layerBlob(s Source) ([]byte, digest.Digest, error) {
	var plain, packed bytes.Buffer
	if err := writeRoot(&plain, s); err != nil {
		return nil, "", err
	}
	z := gzip.NewWriter(&packed)
	if _, err := z.Write(plain.Bytes()); err != nil {
		return nil, "", err
	}
	if err := z.Close(); err != nil {
		return nil, "", err
	}
	return packed.Bytes(), digest.FromBytes(plain.Bytes()), nil
}

// encode writes JSON of a type of this file: none of them can fail.
func encode(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return data
}

// layout writes the files of an image layout. The first error stays and ends all further writing.
type layout struct {
	tw      *tar.Writer
	created time.Time
	err     error
}

func (l *layout) file(name string, data []byte) {
	if l.err != nil {
		return
	}
	l.err = l.tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(data)), ModTime: l.created})
	if l.err == nil {
		_, l.err = l.tw.Write(data)
	}
}

func (l *layout) blob(mediaType string, data []byte) ocispec.Descriptor {
	d := digest.FromBytes(data)
	l.file(ocispec.ImageBlobsDir+"/"+d.Algorithm().String()+"/"+d.Encoded(), data)
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))}
}

func (l *layout) close() error {
	if l.err != nil {
		return l.err
	}
	return l.tw.Close()
}
