package testimage

import (
	"archive/tar"
	"bytes"
	"fmt"
	"time"
)

// Entry is a member of a layer. Its Type defaults to a regular file, or a directory when Name ends with a slash.
type Entry struct {
	Name, Link   string
	Type         byte  // of package tar
	Mode         int64 // defaults to 0644, 0755 for directories
	UID, GID     int
	Body         string
	Xattrs       map[string]string
	Major, Minor int64
}

// Time is the modification time of all that this package makes, so that the same input yields the same digests.
var Time = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// Layer is the tar of entries, in their order.
func Layer(entries ...Entry) []byte {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		if err := w.WriteHeader(e.header()); err != nil {
			panic(fmt.Sprintf("testimage: entry %q: %v", e.Name, err)) // a mistake in the test's own text
		}
		w.Write([]byte(e.Body))
	}
	w.Close()
	return buf.Bytes()
}

func (e Entry) header() *tar.Header {
	h := &tar.Header{
		Name: e.Name, Linkname: e.Link, Typeflag: e.Type, Mode: e.Mode, Uid: e.UID, Gid: e.GID,
		Size: int64(len(e.Body)), ModTime: Time, Devmajor: e.Major, Devminor: e.Minor, Format: tar.FormatPAX,
	}
	isDir := e.Name != "" && e.Name[len(e.Name)-1] == '/'
	switch {
	case h.Typeflag == 0 && isDir:
		h.Typeflag = tar.TypeDir
	case h.Typeflag == 0:
		h.Typeflag = tar.TypeReg
	}
	switch {
	case h.Mode == 0 && h.Typeflag == tar.TypeDir:
		h.Mode = 0o755
	case h.Mode == 0:
		h.Mode = 0o644
	}
	for name, value := range e.Xattrs {
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords["SCHILY.xattr."+name] = value
	}
	return h
}

// Evil are layers that try to leave the root they are unpacked in, by the name of the trick. An unpacker must refuse
// each, or keep what it writes within the root.
func Evil() map[string][]byte {
	return map[string][]byte{
		"parent path":        Layer(Entry{Name: "../escaped", Body: "x"}),
		"parent inside path": Layer(Entry{Name: "a/../../escaped", Body: "x"}),
		"absolute path":      Layer(Entry{Name: "/../escaped", Body: "x"}),
		"symlink then write": Layer(Entry{Name: "out", Type: tar.TypeSymlink, Link: "../.."}, Entry{Name: "out/escaped", Body: "x"}),
		"absolute symlink then write": Layer(
			Entry{Name: "out", Type: tar.TypeSymlink, Link: "/proc"}, Entry{Name: "out/sys/kernel/core_pattern", Body: "x"}),
		"hard link out":       Layer(Entry{Name: "passwd", Type: tar.TypeLink, Link: "../../etc/passwd"}),
		"hard link by a link": Layer(Entry{Name: "out", Type: tar.TypeSymlink, Link: "/"}, Entry{Name: "init", Type: tar.TypeLink, Link: "out/init"}),
		"whiteout of parent":  Layer(Entry{Name: ".wh.."}, Entry{Name: ".wh..."}),
		"not a tar":           bytes.Repeat([]byte("not a tar "), 200),
		"torn":                Layer(Entry{Name: "file", Body: string(make([]byte, 4096))})[:2048],
	}
}
