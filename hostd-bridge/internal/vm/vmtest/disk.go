package vmtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
)

// Whole is the first line of the file of a disk that is a delta of none. The first line of others is the parent's path, relative to
// the file's own directory. The second one, where there is one, is the virtual size; what follows is anything.
const Whole = "whole"

// damaged is what a file that is not to be a disk begins with.
const damaged = "damaged"

// CreateDisk implements vm.Disks.
func (h *Hypervisor) CreateDisk(_ context.Context, path, parent string) error {
	text, err := filepath.Rel(filepath.Dir(path), parent)
	if err != nil {
		return err
	}
	if _, size, err := readDisk(parent); err == nil && size != hostapi.DiskBytes {
		text += fmt.Sprintf("\n%d\n", size)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprint(f, text)
	return errors.Join(err, f.Close())
}

// DiskParent implements vm.Disks.
func (h *Hypervisor) DiskParent(_ context.Context, path string) (string, error) {
	parent, _, err := readDisk(path)
	return parent, err
}

// DiskInfo implements vm.Disks.
func (h *Hypervisor) DiskInfo(_ context.Context, path string) (vm.DiskInfo, error) {
	parent, size, err := readDisk(path)
	return vm.DiskInfo{VirtualBytes: size, Parent: parent}, err
}

// GrowDisk implements vm.Disks.
func (h *Hypervisor) GrowDisk(_ context.Context, path string, size int64) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if _, old, err := readDisk(path); err != nil || old >= size {
		return errors.Join(err, fmt.Errorf("it has %d bytes", old))
	}
	lines := append(strings.SplitN(string(data), "\n", 3), "", "")
	next := path + ".grown"
	text := fmt.Sprintf("%s\n%d\n%s", lines[0], size, lines[2])
	return errors.Join(os.WriteFile(next, []byte(text), 0o600), os.Rename(next, path))
}

func readDisk(path string) (parent string, size int64, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", 0, err
	}
	if strings.HasPrefix(string(data), damaged) {
		return "", 0, errors.New("the image is damaged")
	}
	name, rest, _ := strings.Cut(string(data), "\n")
	line, _, _ := strings.Cut(rest, "\n")
	if size, err = strconv.ParseInt(line, 10, 64); err != nil {
		size = hostapi.DiskBytes
	}
	if name == Whole {
		return "", size, nil
	}
	return filepath.Join(filepath.Dir(path), name), size, nil
}
