package vm

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/containervm/containervm/hostd-bridge/internal/datastore"
)

// ForksDir is the directory in the datastore of the disks that forks are deltas of: no VM's home. It is at depth one, as the homes
// of VMs are: disk files name their parents relative to their own directories.
const ForksDir = "cvm-forks"

// HostFile returns the path on this host of a file in the datastore that must be there.
func HostFile(store *datastore.Store, rel string) (string, error) {
	info, err := store.Stat(rel)
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("not a file: %w", fs.ErrInvalid)
	}
	if err != nil {
		return "", &FileError{Path: datastore.FormatPath(rel), Err: err}
	}
	return store.HostPath(rel), nil
}

// RemoveFile removes a file or directory of the datastore that may be gone already.
func RemoveFile(store *datastore.Store, rel string) error {
	if err := store.Remove(rel); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return &FileError{Path: datastore.FormatPath(rel), Err: err}
	}
	return nil
}
