package image

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"path"

	"github.com/opencontainers/go-digest"
)

// archive is a tar of blobs, as `docker save` and other tools make it, with its members found. Names are looked up,
// never used as paths of a file system.
type archive struct {
	r       io.ReaderAt
	members map[string]member

	// What it has cost so far:
	metadata int64 // bytes read into memory
	entries  int   // of manifests and indexes
	found    int   // images
}

// spend counts what the archive costs, before it is spent.
func (a *archive) spend(metadata int64, entries, images int) error {
	a.metadata, a.entries, a.found = a.metadata+metadata, a.entries+entries, a.found+images
	switch {
	case a.metadata > MaxArchiveMetadata:
		return invalid("cannot read the archive: its names, manifests and configurations have more than %d bytes", MaxArchiveMetadata)
	case a.entries > MaxArchiveEntriesRead:
		return invalid("cannot read the archive: its manifests and indexes name more than %d things", MaxArchiveEntriesRead)
	case a.found > MaxArchiveImages:
		return invalid("cannot read the archive: it has more than %d images; load them in parts", MaxArchiveImages)
	}
	return nil
}

// member is a regular file, or a link to another member.
type member struct {
	offset, size int64
	link         string // name of the target
}

// maxLinks bounds a chain of links between members; old `docker save`s made chains of one.
const maxLinks = 8

// openArchive finds the members of a tar of size bytes.
func openArchive(r io.ReaderAt, size int64) (*archive, error) {
	a := &archive{r: r, members: map[string]member{}}
	section := io.NewSectionReader(r, 0, size)
	t := tar.NewReader(section)
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return a, nil
		}
		if err != nil {
			return nil, invalid("cannot read the archive: %w", err)
		}
		if len(a.members) == MaxArchiveEntries {
			return nil, invalid("cannot read the archive: more than %d members", MaxArchiveEntries)
		}
		if err := a.spend(int64(len(h.Name)+len(h.Linkname)), 0, 0); err != nil {
			return nil, err
		}
		// The reader reads whole blocks and no further, so the section stands at the member's first byte.
		offset, err := section.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, err
		}
		a.add(h, offset)
	}
}

func (a *archive) add(h *tar.Header, offset int64) {
	name := memberName(h.Name)
	switch h.Typeflag {
	case tar.TypeReg:
		if h.PAXRecords["GNU.sparse.major"] == "" { // a sparse file's bytes are not in one piece; no tool makes one here
			a.members[name] = member{offset: offset, size: h.Size}
		}
	case tar.TypeSymlink:
		a.members[name] = member{link: memberName(path.Join(path.Dir(name), h.Linkname))}
	case tar.TypeLink:
		a.members[name] = member{link: memberName(h.Linkname)}
	}
}

// memberName is a name without ".", ".." and leading slashes.
func memberName(name string) string { return path.Clean("/" + name)[1:] }

// open finds a regular member, following links.
func (a *archive) open(name string) (*io.SectionReader, error) {
	at := memberName(name)
	for range maxLinks {
		m, ok := a.members[at]
		if !ok {
			break
		}
		if m.link == "" {
			return io.NewSectionReader(a.r, m.offset, m.size), nil
		}
		at = m.link
	}
	return nil, invalid("the archive has no %q", name)
}

func (a *archive) has(name string) bool {
	_, ok := a.members[name]
	return ok
}

// read returns a whole member of at most limit bytes.
func (a *archive) read(name string, limit int64) ([]byte, error) {
	r, err := a.open(name)
	if err != nil {
		return nil, err
	}
	if r.Size() > limit {
		return nil, invalid("%q in the archive has %d bytes, more than %d", name, r.Size(), limit)
	}
	if err := a.spend(r.Size(), 0, 0); err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

// blobName is where an OCI image layout keeps a blob (OCI image specification, image-layout.md).
func blobName(d digest.Digest) string { return "blobs/" + d.Algorithm().String() + "/" + d.Encoded() }

// blob returns a whole blob of at most limit bytes, whose digest it verifies.
func (a *archive) blob(d digest.Digest, limit int64) ([]byte, error) {
	if err := checkDigest(d); err != nil {
		return nil, invalid("cannot read a blob: %w", err)
	}
	data, err := a.read(blobName(d), limit)
	if err != nil {
		return nil, err
	}
	if got := digest.FromBytes(data); got != d {
		return nil, invalid("blob %s in the archive has the digest %s", d, got)
	}
	return data, nil
}

// layer is the content of a member; want is the digest of its bytes, empty: not to be checked.
func (a *archive) layer(name string, diffID, want digest.Digest) (content, error) {
	r, err := a.open(name)
	if err != nil {
		return content{}, err
	}
	return content{diffID: diffID, digest: want, size: r.Size(), open: func(context.Context) (io.ReadCloser, error) {
		return io.NopCloser(io.NewSectionReader(r, 0, r.Size())), nil
	}}, nil
}
