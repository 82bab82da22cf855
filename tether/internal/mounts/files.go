package mounts

import (
	"errors"
	"fmt"
	"os"
	"path"

	"golang.org/x/sys/unix"

	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// plainFile is the mode of a file where nothing says it: anyone may read it.
const plainFile = 0o444

// putFiles puts the files over the container's root, from a file system in memory.
func (s *Set) putFiles(files []*tetherv1.File) error {
	if len(files) == 0 {
		return nil
	}
	dir, err := s.newPlace()
	if err == nil {
		err = unix.Mount("files", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=755")
	}
	if err != nil {
		return fmt.Errorf("cannot make room for files: %w", err)
	}
	s.places = append(s.places, place{dir: dir})
	for n, f := range files {
		name := fmt.Sprintf("%s/%d", dir, n)
		err := write(name, f)
		if err == nil {
			err = s.attach(name, path.Clean(f.Path), true)
		}
		if err != nil {
			return fmt.Errorf("cannot put the file %s: %w", f.Path, err)
		}
	}
	return nil
}

func write(name string, f *tetherv1.File) error {
	file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(f.Content)
	if err == nil {
		err = file.Chown(int(f.Uid), int(f.Gid))
	}
	mode := f.Mode & 0o7777
	if f.Mode == 0 {
		mode = plainFile
	}
	if err == nil {
		err = unix.Fchmod(int(file.Fd()), mode)
	}
	return errors.Join(err, file.Close())
}
