package container

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/moby/moby/api/types/mount"
	"golang.org/x/sys/unix"

	"github.com/containervm/containervm/controller/internal/record"
	"github.com/containervm/containervm/controller/internal/volume"
)

// maxFiles bounds the files that are copied into a container, in bytes of all: they are in its Spec, in base64 (4 bytes for 3), and a Spec
// has at most 512 KiB of JSON (hostapi.MaxExtraValue).
const maxFiles = 350 << 10

// copyIn returns the files that a container gets: those of the host that it mounts read-only, which are secrets and configs of Compose, and
// those of other containers whose mounts it has. The client must be one who could read the host's files itself. Whatever else of the
// host's is to be mounted is refused.
func copyIn(wants []wanted, others []record.File, allowed bool) ([]record.File, error) {
	var all []record.File
	size := 0
	for _, w := range wants {
		if w.Type != mount.TypeBind {
			continue
		}
		var f record.File
		if w.shared != nil {
			i := slices.IndexFunc(others, func(f record.File) bool { return f.Path == w.Target })
			if i < 0 {
				return nil, invalid("cannot use %s of another container: it is not known any more", w.Target)
			}
			f = others[i]
		} else {
			if !allowed || !w.ReadOnly {
				return nil, notImplemented("%s", volume.NoBind(w.Source))
			}
			var err error
			if f, err = readHostFile(w.Source, maxFiles-size); err != nil {
				return nil, err
			}
			f.Path = w.Target
		}
		if size += len(f.Content); size > maxFiles {
			return nil, tooLarge(w.Target)
		}
		all = append(all, f)
	}
	return all, nil
}

func tooLarge(name string) error {
	return invalid("cannot copy %s into the container: files that are mounted read-only are copied in, and all of them together may have %d bytes. Use a volume, or docker cp", name, maxFiles)
}

// readHostFile reads a file of at most limit bytes. Nothing else is opened, whatever the path leads to: an open can have effects on a device
// or a pipe, or wait for ever.
func readHostFile(name string, limit int) (record.File, error) {
	refused := notImplemented("%s", volume.NoBind(name))
	place, err := unix.Open(name, unix.O_PATH|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return record.File{}, invalid("invalid mount config for type %q: bind source path does not exist: %s", mount.TypeBind, name)
	}
	if err != nil {
		return record.File{}, refused
	}
	defer unix.Close(place)
	var st unix.Stat_t
	var fs unix.Statfs_t
	if err := errors.Join(unix.Fstat(place, &st), unix.Fstatfs(place, &fs)); err != nil {
		return record.File{}, refused
	}
	made := fs.Type == unix.PROC_SUPER_MAGIC || fs.Type == unix.SYSFS_MAGIC // files there are no data, and reading one can wait for ever
	if st.Mode&unix.S_IFMT != unix.S_IFREG || made {
		return record.File{}, refused
	}
	f, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", place)) // the very same file
	if err != nil {
		return record.File{}, fmt.Errorf("cannot copy %s into the container: %w", name, err)
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, int64(limit)+1))
	if err != nil {
		return record.File{}, fmt.Errorf("cannot copy %s into the container: %w", name, err)
	}
	if len(content) > limit {
		return record.File{}, tooLarge(name)
	}
	return record.File{Mode: st.Mode & 0o7777, UID: st.Uid, GID: st.Gid, Content: content}, nil
}
