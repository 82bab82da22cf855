// Package datastore is the one datastore of a host: a directory tree, reached by vSphere's datastore paths and over HTTP.
package datastore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// uploadPrefix begins the names of files that are still being written; they are swept at start and never shown.
const uploadPrefix = ".upload-"

// Store is a directory tree. All paths are relative to its root, as ParsePath returns them; none leads out of it, not
// even by a symbolic link.
type Store struct {
	dir     string
	root    *os.Root
	reserve *reserve
}

// Open opens the directory dir, creating it when it is missing, and removes what interrupted uploads left.
func Open(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the datastore's directory: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot open the datastore: %w", err)
	}
	s := &Store{dir: dir, root: root, reserve: newReserve(root)}
	if err := s.sweep(); err != nil {
		return nil, err
	}
	if err := root.Mkdir(ReserveDir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("cannot make the datastore's reserve: %w", err)
	}
	s.reserve.fill()
	return s, nil
}

// sweep removes the files of interrupted uploads; they are all in the upload directory.
func (s *Store) sweep() error {
	entries, err := fs.ReadDir(s.root.FS(), ".")
	if err != nil {
		return fmt.Errorf("cannot read the datastore: %w", err)
	}
	for _, e := range entries {
		if isUpload(e.Name()) {
			if err := s.root.Remove(e.Name()); err != nil {
				return fmt.Errorf("cannot remove an interrupted upload: %w", err)
			}
		}
	}
	return nil
}

// Close lets go of the root directory.
func (s *Store) Close() error { return s.root.Close() }

// HostPath returns the absolute path on this host of a path in the store.
func (s *Store) HostPath(rel string) string { return filepath.Join(s.dir, rel) }

// Rel returns the path in the store of an absolute path on this host; one outside of it is returned as it is.
func (s *Store) Rel(host string) string {
	if rel, err := filepath.Rel(s.dir, host); err == nil && filepath.IsLocal(rel) {
		return rel
	}
	return host
}

// Stat describes a file or directory.
func (s *Store) Stat(rel string) (fs.FileInfo, error) { return s.root.Stat(rel) }

// Open opens a file for reading.
func (s *Store) Open(rel string) (*os.File, error) { return s.root.Open(rel) }

// List returns the entries of a directory in the order of their names.
func (s *Store) List(rel string) ([]fs.FileInfo, error) {
	entries, err := fs.ReadDir(s.root.FS(), rel)
	if err != nil {
		return nil, err
	}
	infos := make([]fs.FileInfo, 0, len(entries))
	for _, e := range entries {
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) || isUpload(e.Name()) || e.Name() == ReserveDir {
			continue
		}
		if err != nil {
			return nil, err
		}
		infos = append(infos, info)
	}
	return infos, nil
}

// Mkdir makes a directory, with its parents when all is set. Without all an existing one is an error.
func (s *Store) Mkdir(rel string, all bool) error {
	if all {
		return s.root.MkdirAll(rel, 0o700)
	}
	return s.root.Mkdir(rel, 0o700)
}

// Remove removes a file, or a directory with all its content.
func (s *Store) Remove(rel string) error {
	if rel == "." {
		return invalid(FormatPath(rel), "the root cannot be removed")
	}
	if _, err := s.root.Lstat(rel); err != nil {
		return err
	}
	err := s.root.RemoveAll(rel)
	s.reserve.fill() // there may be space again
	return err
}

// RemoveIfEmpty removes a directory that has no content and leaves any other.
func (s *Store) RemoveIfEmpty(rel string) error {
	err := s.root.Remove(rel)
	if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Move renames a file or directory. An existing target is an error unless force is set.
func (s *Store) Move(from, to string, force bool) error {
	if err := s.makeRoom(to, force); err != nil {
		return err
	}
	return s.root.Rename(from, to)
}

// Link gives a file a second name, which must be free.
func (s *Store) Link(from, to string) error { return s.root.Link(from, to) }

// Sync returns when a file's content is on the disk.
func (s *Store) Sync(rel string) error {
	f, err := s.root.Open(rel)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Copy copies a file. An existing target is an error unless force is set.
func (s *Store) Copy(from, to string, force bool) error {
	if err := s.makeRoom(to, force); err != nil {
		return err
	}
	src, err := s.root.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	return s.Write(to, src, -1)
}

// CopyChecked copies a file, and has the copy in its place when check finds nothing wrong after that: whole, on the disk, or not at all.
// An existing target is an error unless force is set; missing parent directories are made.
func (s *Store) CopyChecked(ctx context.Context, from, to string, force bool, check func() error) (err error) {
	src, err := s.root.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	tmp := uploadPrefix + randomName()
	file, err := s.root.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if e := s.root.Remove(tmp); e != nil && !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}()
	if err := fill(file, &canceled{ctx: ctx, r: src}, -1); err != nil {
		return fmt.Errorf("cannot write %s: %w", FormatPath(to), err)
	}
	if err := check(); err != nil {
		return err
	}
	if err := s.root.MkdirAll(path.Dir(to), 0o700); err != nil {
		return err
	}
	if force {
		err = s.root.Rename(tmp, to)
	} else {
		err = s.root.Link(tmp, to) // which replaces nothing
	}
	if err != nil {
		return err
	}
	return s.Sync(path.Dir(to))
}

func (s *Store) makeRoom(to string, force bool) error {
	_, err := s.root.Lstat(to)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !force:
		return &fs.PathError{Op: "create", Path: to, Err: fs.ErrExist}
	}
	return nil
}

// Write puts what r yields at rel, so that rel has its old content or all of the new. A size of 0 or more is checked
// against what r yields; missing parent directories are made. On a full disk a file can be replaced by one of maxReserved bytes at most,
// as often as the reserve allows.
func (s *Store) Write(rel string, r io.Reader, size int64) error {
	if info, err := s.root.Lstat(rel); err == nil && info.Mode().IsRegular() && size >= 0 && size <= maxReserved {
		return s.replace(rel, r, size)
	}
	return s.write(rel, r, size)
}

// replace is Write over a file that is there.
func (s *Store) replace(rel string, r io.Reader, size int64) error {
	content := bytes.NewBuffer(make([]byte, 0, size+bytes.MinRead))
	if _, err := content.ReadFrom(io.LimitReader(r, size+1)); err != nil {
		return fmt.Errorf("cannot write %s: %w", FormatPath(rel), err)
	}
	err := s.write(rel, bytes.NewReader(content.Bytes()), size)
	if whole := int64(content.Len()) == size; whole && errors.Is(err, unix.ENOSPC) {
		err = s.reserve.write(rel, content.Bytes(), err)
	}
	s.reserve.fill()
	return err
}

func (s *Store) write(rel string, r io.Reader, size int64) (err error) {
	tmp := uploadPrefix + randomName()
	file, err := s.root.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.root.Remove(tmp))
		}
	}()
	if err := fill(file, r, size); err != nil {
		return fmt.Errorf("cannot write %s: %w", FormatPath(rel), err)
	}
	if err := s.root.MkdirAll(path.Dir(rel), 0o700); err != nil {
		return err
	}
	return s.root.Rename(tmp, rel)
}

// fill writes all of r into file, syncs and closes it.
func fill(file *os.File, r io.Reader, size int64) error {
	n, err := io.Copy(file, r)
	if err == nil && size >= 0 && n != size {
		err = fmt.Errorf("%d bytes came, %d were announced: %w", n, size, io.ErrUnexpectedEOF)
	}
	if err == nil {
		err = file.Sync()
	}
	return errors.Join(err, file.Close())
}

// Space returns the capacity and the free space in bytes of the file system that holds the store.
func (s *Store) Space() (capacity, free int64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(s.dir, &st); err != nil {
		return 0, 0, fmt.Errorf("cannot measure the datastore: %w", err)
	}
	return int64(st.Blocks) * st.Bsize, int64(st.Bavail) * st.Bsize, nil
}

// canceled reads until its context ends.
type canceled struct {
	ctx context.Context
	r   io.Reader
}

func (c *canceled) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
