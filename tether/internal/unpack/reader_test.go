package unpack

import (
	"archive/tar"
	"bytes"
	"io"
	"strings"
	"testing"
	"time"
)

// FuzzReader compares the reader with archive/tar: the same entries, the same content, an error where that has one.
func FuzzReader(f *testing.F) {
	for _, seed := range seeds(f) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, layer []byte) {
		want, got := tar.NewReader(bytes.NewReader(layer)), newReader(bytes.NewReader(layer))
		for entry := 0; ; entry++ {
			w, werr := want.Next()
			g, gerr := got.next()
			if (werr == nil) != (gerr == nil) || (werr == io.EOF) != (gerr == io.EOF) {
				t.Fatalf("entry %d: error %v, archive/tar has %v", entry, gerr, werr)
			}
			if werr != nil {
				return
			}
			if !alike(g, w) {
				t.Fatalf("entry %d: %+v, archive/tar has %+v", entry, g, w)
			}
			if g.Typeflag == tar.TypeReg && !compareContent(t, want, got, g.Size) {
				return
			}
		}
	})
}

// compareContent reports whether there is more to compare.
func compareContent(t *testing.T, want *tar.Reader, got *reader, size int64) bool {
	for left := size; left > 0; {
		piece, gerr := got.content()
		other := make([]byte, len(piece))
		_, werr := io.ReadFull(want, other)
		if gerr != nil {
			if _, werr := io.Copy(io.Discard, want); werr == nil {
				t.Fatalf("content: %v, archive/tar reads it", gerr)
			}
			return false
		}
		if werr != nil || !bytes.Equal(piece, other) {
			t.Fatalf("content differs (archive/tar: %v)", werr)
		}
		if left -= int64(len(piece)); size > 1<<24 {
			return false // a sparse one that is mostly a hole
		}
	}
	return true
}

func alike(a, b *tar.Header) bool {
	return a.Typeflag == b.Typeflag && a.Name == b.Name && a.Linkname == b.Linkname && a.Size == b.Size && a.Mode == b.Mode &&
		a.Uid == b.Uid && a.Gid == b.Gid && a.ModTime.Equal(b.ModTime) && a.AccessTime.Equal(b.AccessTime) &&
		a.Devmajor == b.Devmajor && a.Devminor == b.Devminor && len(a.PAXRecords) == len(b.PAXRecords)
}

// seeds are layers with each kind of entry in each format.
func seeds(f *testing.F) [][]byte {
	var all [][]byte
	for _, format := range []tar.Format{tar.FormatUSTAR, tar.FormatGNU, tar.FormatPAX} {
		var out bytes.Buffer
		w := tar.NewWriter(&out)
		for _, h := range []tar.Header{
			{Typeflag: tar.TypeReg, Name: "file", Mode: 0o4755, Uid: 1000, Gid: 50, Size: 700},
			{Typeflag: tar.TypeDir, Name: "./dir/", Mode: 0o755},
			{Typeflag: tar.TypeSymlink, Name: "dir/link", Linkname: "../file"},
			{Typeflag: tar.TypeLink, Name: "hard", Linkname: "file"},
			{Typeflag: tar.TypeChar, Name: "null", Mode: 0o666, Devmajor: 1, Devminor: 3},
			{Typeflag: tar.TypeFifo, Name: "pipe"},
			{Typeflag: tar.TypeReg, Name: strings.Repeat("long/", 25) + "name", Size: 1},
			{Typeflag: tar.TypeReg, Name: "empty"},
		} {
			h.Format, h.ModTime = format, time.Unix(1700000000, 0)
			if format == tar.FormatPAX {
				h.PAXRecords = map[string]string{paxXattr + "user.a": "b"}
			}
			if err := w.WriteHeader(&h); err != nil {
				f.Fatal(err)
			}
			if _, err := w.Write(make([]byte, h.Size)); err != nil {
				f.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			f.Fatal(err)
		}
		all = append(all, out.Bytes(), out.Bytes()[:1000], out.Bytes()[:1300]) // the last ends within padding of some formats
	}
	return all
}
