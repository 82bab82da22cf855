package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// ownPrefix begins the names in the root of a disk and in its /dev that are the tether's own, such as that of its swap file.
const ownPrefix = ".cvm"

// ownName reports whether a name below the root of a disk is not the container's: the tether's, or ext4's.
func ownName(name string) bool {
	dir, base := path.Split(name)
	return name == "lost+found" || (dir == "" || dir == "dev/") && strings.HasPrefix(base, ownPrefix)
}

// Export writes what a request asks for.
func (f *Files) Export(ctx context.Context, req *tetherv1.ExportRequest, to io.Writer) (*tetherv1.ExportResponse, error) {
	end, err := f.begin()
	if err != nil {
		return nil, err
	}
	defer end()
	switch req.GetContent() {
	case tetherv1.ExportRequest_PATH:
		return f.exportPath(ctx, req.GetPath(), to)
	case tetherv1.ExportRequest_ROOT:
		return f.exportRoot(ctx, to)
	case tetherv1.ExportRequest_CHANGES, tetherv1.ExportRequest_CHANGED_NAMES:
		return f.exportChanges(ctx, req, to)
	default:
		return nil, fmt.Errorf("%w: this tether does not know the content %v", ErrInvalid, req.GetContent())
	}
}

// exportPath writes what is at a path of the container. The names in the tar begin with the path's last name; those of the root with "/",
// as Docker has it.
func (f *Files) exportPath(ctx context.Context, name string, to io.Writer) (*tetherv1.ExportResponse, error) {
	clean, err := cleanPath(name)
	if err != nil {
		return nil, err
	}
	root, err := f.Root()
	if err != nil {
		return nil, err
	}
	defer unix.Close(root)
	fd, err := openIn(root, clean, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return nil, notFound(err)
	}
	defer unix.Close(fd)
	if err := ours(fd); err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	w := newWriter(ctx, to)
	w.crosses = true
	if same, err := sameFile(root, fd); err != nil {
		return nil, err
	} else if same {
		w.bare = "dev" // the machine's: Docker's copies have none of it
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		err = w.directory(fd, ".", topName(clean), 0)
	} else {
		err = w.single(root, clean)
	}
	return w.finish(err)
}

func sameFile(a, b int) (bool, error) {
	var one, other unix.Stat_t
	err := errors.Join(unix.Fstat(a, &one), unix.Fstat(b, &other))
	return one.Dev == other.Dev && one.Ino == other.Ino, err
}

func topName(clean string) string {
	if strings.HasSuffix(clean, "/.") {
		return "./"
	}
	return path.Base(clean)
}

// single writes what is at a clean path and no directory, by its directory.
func (w *writer) single(root int, clean string) error {
	dir, err := openIn(root, path.Dir(clean), unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return notFound(err)
	}
	defer unix.Close(dir)
	if err := w.entry(dir, path.Base(clean), path.Base(clean), 0); err != nil {
		return err
	}
	if w.entries == 0 {
		return ErrNotFound // it vanished, or is a socket
	}
	return nil
}

// exportRoot writes the root's disk, without what is mounted over it.
func (f *Files) exportRoot(ctx context.Context, to io.Writer) (*tetherv1.ExportResponse, error) {
	root, err := Within(f.Disk)
	if err != nil {
		return nil, err
	}
	defer unix.Close(root)
	w := newWriter(ctx, to)
	w.skip = ownName
	return w.finish(w.below(root, "", 0))
}

// finish ends the tar, unless it is to stay cut off.
func (w *writer) finish(err error) (*tetherv1.ExportResponse, error) {
	if err == nil {
		err = w.tar.Close()
	}
	if err != nil {
		return nil, err
	}
	return &tetherv1.ExportResponse{Entries: w.entries}, nil
}
