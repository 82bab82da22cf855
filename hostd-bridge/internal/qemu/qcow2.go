package qemu

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

// Of the qcow2 format (docs/interop/qcow2.txt of QEMU).
const (
	qcowMagic       = 0x514649fb // "QFI\xfb"
	qcowVersion     = 3
	qcowHeaderLen   = 104
	qcowClusterBits = 16
	qcowCluster     = 1 << qcowClusterBits
	qcowL2Bytes     = qcowCluster / 8 * qcowCluster // that one L1 entry maps
	extBackingFmt   = 0xe2792aca
	maxBackingName  = 1023
)

// DiskInfo is what a disk's header and file tell.
type DiskInfo struct {
	VirtualBytes int64
	ActualBytes  int64  // allocated on the host
	Parent       string // absolute path, or empty
}

// CreateDisk implements vm.Disks: it writes an empty qcow2 image of the parent's virtual size. The file names its parent
// relative to its own directory, so a datastore can be moved. It is written here because starting qemu-img costs thirty
// times as much.
func (h *Hypervisor) CreateDisk(ctx context.Context, path, parent string) error {
	if err := createDelta(path, parent); err != nil {
		return fmt.Errorf("cannot create disk %s: %w", path, err)
	}
	return nil
}

func createDelta(path, parent string) error {
	if parent == "" {
		return errors.New("a disk needs a parent; blank ones are artefacts of the build")
	}
	base, err := readDisk(parent)
	if err != nil {
		return err
	}
	name, err := filepath.Rel(filepath.Dir(path), parent)
	if err != nil {
		return err
	}
	image, size, err := emptyImage(base.VirtualBytes, name)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o640)
	if err != nil {
		return err
	}
	err = image.writeTo(f, size)
	if err := errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

// pieces are the parts of a sparse file that are not zero, by offset.
type pieces map[int64][]byte

func (ps pieces) writeTo(f *os.File, size int64) error {
	if err := f.Truncate(size); err != nil {
		return err
	}
	for at, b := range ps {
		if _, err := f.WriteAt(b, at); err != nil {
			return err
		}
	}
	return nil
}

// emptyImage lays out an image without data: header, refcount table, refcount block and L1 table, a cluster each or more.
func emptyImage(virtual int64, backing string) (pieces, int64, error) {
	l1Entries := (virtual + qcowL2Bytes - 1) / qcowL2Bytes
	clusters := 3 + (l1Entries*8+qcowCluster-1)/qcowCluster
	if virtual <= 0 || clusters > qcowCluster/2 {
		return nil, 0, fmt.Errorf("a virtual size of %d bytes is out of range", virtual)
	}
	if len(backing) == 0 || len(backing) > maxBackingName {
		return nil, 0, fmt.Errorf("the parent's name has %d bytes, not 1 to %d", len(backing), maxBackingName)
	}
	be := binary.BigEndian
	head := make([]byte, qcowHeaderLen)
	be.PutUint32(head[0:], qcowMagic)
	be.PutUint32(head[4:], qcowVersion)
	be.PutUint32(head[20:], qcowClusterBits)
	be.PutUint64(head[24:], uint64(virtual))
	be.PutUint32(head[36:], uint32(l1Entries))
	be.PutUint64(head[40:], 3*qcowCluster) // L1 table
	be.PutUint64(head[48:], qcowCluster)   // refcount table
	be.PutUint32(head[56:], 1)             // its clusters
	be.PutUint32(head[96:], 4)             // refcounts of 1<<4 bits
	be.PutUint32(head[100:], qcowHeaderLen)
	head = be.AppendUint32(head, extBackingFmt)
	head = be.AppendUint32(head, uint32(len("qcow2")))
	head = append(head, "qcow2\x00\x00\x00"...) // padded to 8 bytes
	head = be.AppendUint64(head, 0)             // end of the extensions
	be.PutUint64(head[8:], uint64(len(head)))
	be.PutUint32(head[16:], uint32(len(backing)))
	head = append(head, backing...)

	counts := make([]byte, 2*clusters)
	for i := range clusters {
		be.PutUint16(counts[2*i:], 1)
	}
	table := be.AppendUint64(nil, 2*qcowCluster)
	return pieces{0: head, qcowCluster: table, 2 * qcowCluster: counts}, clusters * qcowCluster, nil
}

// DiskInfo reads a disk's header.
func (h *Hypervisor) DiskInfo(ctx context.Context, path string) (DiskInfo, error) {
	d, err := readDisk(path)
	if err != nil {
		return DiskInfo{}, fmt.Errorf("cannot read disk %s: %w", path, err)
	}
	return d, nil
}

// DiskParent implements vm.Disks.
func (h *Hypervisor) DiskParent(ctx context.Context, path string) (string, error) {
	d, err := h.DiskInfo(ctx, path)
	return d.Parent, err
}

func readDisk(path string) (DiskInfo, error) {
	f, err := os.Open(path)
	if err != nil {
		return DiskInfo{}, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return DiskInfo{}, err
	}
	d, err := parseDisk(f)
	if err != nil {
		return DiskInfo{}, err
	}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		d.ActualBytes = sys.Blocks * 512
	}
	if d.Parent != "" && !filepath.IsAbs(d.Parent) {
		d.Parent = filepath.Join(filepath.Dir(path), d.Parent)
	}
	return d, nil
}

// parseDisk decodes the header of a qcow2 image.
func parseDisk(r io.ReaderAt) (DiskInfo, error) {
	head := make([]byte, 72) // of version 2, which version 3 extends
	if _, err := r.ReadAt(head, 0); err != nil {
		return DiskInfo{}, fmt.Errorf("not a qcow2 image: %w", err)
	}
	be := binary.BigEndian
	if be.Uint32(head) != qcowMagic {
		return DiskInfo{}, errors.New("not a qcow2 image")
	}
	if v := be.Uint32(head[4:]); v != 2 && v != 3 {
		return DiskInfo{}, fmt.Errorf("qcow2 version %d is unknown", v)
	}
	size, at, n := be.Uint64(head[24:]), be.Uint64(head[8:]), be.Uint32(head[16:])
	if size > 1<<62 {
		return DiskInfo{}, fmt.Errorf("a virtual size of %d bytes is out of range", size)
	}
	d := DiskInfo{VirtualBytes: int64(size)}
	if at == 0 {
		return d, nil
	}
	if n > maxBackingName || at > 1<<21 {
		return DiskInfo{}, errors.New("the parent's name is out of bounds")
	}
	name := make([]byte, n)
	if _, err := r.ReadAt(name, int64(at)); err != nil {
		return DiskInfo{}, fmt.Errorf("cannot read the parent's name: %w", err)
	}
	d.Parent = string(name)
	return d, nil
}
