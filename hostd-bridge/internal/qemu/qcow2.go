package qemu

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/containervm/containervm/hostd-bridge/internal/plainfile"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
)

// Of the qcow2 format (docs/interop/qcow2.txt of QEMU).
const (
	qcowMagic       = 0x514649fb // "QFI\xfb"
	qcowVersion     = 3
	qcowHeaderLen   = 104
	qcowHeaderLen2  = 72 // of version 2, which version 3 extends
	qcowClusterBits = 16
	qcowCluster     = 1 << qcowClusterBits
	qcowL2Bytes     = qcowCluster / 8 * qcowCluster // that one L1 entry maps
	extBackingFmt   = 0xe2792aca
	maxBackingName  = 1023
	formatQcow2     = "qcow2"
	// Incompatible features: a reader refuses an image with one that it does not know. Known are besides compression types (8) and extended
	// L2 entries (16), which QEMU does and nothing here sees; a separate file for the data (4) is not.
	incompatDirty   = 1
	incompatCorrupt = 2
	incompatKnown   = incompatDirty | 8 | 16
	// maxL1Bytes bounds an L1 table: QEMU's own limit (QCOW_MAX_L1_SIZE).
	maxL1Bytes = 32 << 20
)

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

// DiskInfo implements vm.Disks.
func (h *Hypervisor) DiskInfo(ctx context.Context, path string) (vm.DiskInfo, error) {
	d, err := readDisk(path)
	if err != nil {
		return vm.DiskInfo{}, fmt.Errorf("cannot read disk %s: %w", path, err)
	}
	return d, nil
}

// DiskParent implements vm.Disks.
func (h *Hypervisor) DiskParent(ctx context.Context, path string) (string, error) {
	d, err := h.DiskInfo(ctx, path)
	return d.Parent, err
}

func readDisk(path string) (vm.DiskInfo, error) {
	f, err := plainfile.Open(path)
	if err != nil {
		return vm.DiskInfo{}, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return vm.DiskInfo{}, err
	}
	d, err := parseDisk(f)
	if err != nil {
		return vm.DiskInfo{}, err
	}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		d.ActualBytes = sys.Blocks * 512
	}
	d.Parent = parentOf(path, d.Parent)
	return d, nil
}

// parseDisk decodes the header of a qcow2 image.
func parseDisk(r io.ReaderAt) (vm.DiskInfo, error) {
	h, err := parseHeader(r)
	return vm.DiskInfo{VirtualBytes: h.virtual, Parent: h.backing}, err
}

// header is what is used of an image's header.
type header struct {
	virtual     int64
	backing     string // as it stands there, or empty
	clusterBits uint32
	l1Entries   uint32
	l1At        uint64
	snapshots   uint32
	incompat    uint64 // of version 3, as autoclear
	autoclear   uint64
}

// parseHeader decodes the header of a qcow2 image, and refuses one by which QEMU would read other files than the image and the
// parent that it returns, or one that QEMU would refuse.
func parseHeader(r io.ReaderAt) (header, error) {
	raw := make([]byte, qcowHeaderLen)
	if _, err := r.ReadAt(raw[:qcowHeaderLen2], 0); err != nil {
		return header{}, fmt.Errorf("not a qcow2 image: %w", err)
	}
	be := binary.BigEndian
	if be.Uint32(raw) != qcowMagic {
		return header{}, errors.New("not a qcow2 image")
	}
	length := uint32(qcowHeaderLen2)
	switch v := be.Uint32(raw[4:]); v {
	case 2:
	case qcowVersion:
		if _, err := r.ReadAt(raw, 0); err != nil {
			return header{}, fmt.Errorf("the qcow2 header is cut off: %w", err)
		}
		length = be.Uint32(raw[100:])
	default:
		return header{}, fmt.Errorf("qcow2 version %d is unknown", v)
	}
	size := be.Uint64(raw[24:])
	h := header{
		virtual: int64(size), clusterBits: be.Uint32(raw[20:]), l1Entries: be.Uint32(raw[36:]), l1At: be.Uint64(raw[40:]),
		snapshots: be.Uint32(raw[60:]), incompat: be.Uint64(raw[72:]), autoclear: be.Uint64(raw[88:]),
	}
	switch {
	case size > 1<<62:
		return header{}, fmt.Errorf("a virtual size of %d bytes is out of range", size)
	case be.Uint32(raw[32:]) != 0:
		return header{}, errors.New("the image is encrypted, which this host does not do")
	case h.incompat&incompatCorrupt != 0:
		return header{}, errors.New("the image is damaged: QEMU has marked it as corrupt")
	case h.incompat&^incompatKnown != 0:
		return header{}, fmt.Errorf("the image has features %#x, which this host does not do", h.incompat&^incompatKnown)
	}
	var err error
	h.backing, err = backing(r, length, be.Uint64(raw[8:]), be.Uint32(raw[16:]))
	if err != nil {
		return header{}, err
	}
	return h, nil
}

// backing reads the name of the parent, which has n bytes at an offset, and checks that QEMU takes it for that of a qcow2 file: it takes
// what has a colon before the first slash for a protocol, and guesses a format that is not named from the parent's content.
func backing(r io.ReaderAt, headerLen uint32, at uint64, n uint32) (string, error) {
	if at == 0 || n == 0 {
		return "", nil
	}
	if n > maxBackingName || at > 1<<21 {
		return "", errors.New("the parent's name is out of bounds")
	}
	name := make([]byte, n)
	if _, err := r.ReadAt(name, int64(at)); err != nil {
		return "", fmt.Errorf("cannot read the parent's name: %w", err)
	}
	if c := bytes.IndexAny(name, ":/"); (c >= 0 && name[c] == ':') || bytes.IndexByte(name, 0) >= 0 {
		return "", fmt.Errorf("the parent %.64q is no file", name)
	}
	format := make([]byte, len(formatQcow2))
	for off := int64(headerLen); ; {
		var ext [8]byte
		if _, err := r.ReadAt(ext[:], off); err != nil || off > qcowCluster {
			return "", errors.New("the header's extensions are out of bounds")
		}
		kind, length := binary.BigEndian.Uint32(ext[:]), int64(binary.BigEndian.Uint32(ext[4:]))
		switch {
		case kind == 0:
			return "", errors.New("the parent's format is not named")
		case kind == extBackingFmt:
			if _, err := r.ReadAt(format, off+8); err != nil || length != int64(len(format)) || string(format) != formatQcow2 {
				return "", errors.New("the parent's format is not " + formatQcow2)
			}
			return string(name), nil
		}
		off += 8 + (length+7)&^7
	}
}

// GrowDisk implements vm.Disks. The image's L1 table, which has whole clusters, grows into the rest of the last one, which is for 4 TiB with
// the usual clusters. What changes then are 16 bytes of one sector.
func (h *Hypervisor) GrowDisk(ctx context.Context, path string, size int64) error {
	if err := growDisk(path, size); err != nil {
		return fmt.Errorf("cannot make disk %s larger: %w", path, err)
	}
	return nil
}

func growDisk(path string, size int64) (err error) {
	f, err := plainfile.OpenFile(path, os.O_RDWR)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	h, err := parseHeader(f)
	if err != nil {
		return err
	}
	st, err := f.Stat()
	if err != nil {
		return err
	}
	entries, end, err := h.grown(f, st.Size(), size)
	if err != nil {
		return err
	}
	if st.Size() < end {
		if err := f.Truncate(end); err != nil {
			return err
		}
	}
	if h.backing != "" {
		parent, err := readDisk(path)
		if err == nil {
			parent, err = readDisk(parent.Parent)
		}
		if err != nil {
			return err
		}
		if parent.VirtualBytes > h.virtual {
			return fmt.Errorf("it has %d bytes, its parent %d: what the parent has beyond would show", h.virtual, parent.VirtualBytes)
		}
	}
	be := binary.BigEndian
	var change []byte // the virtual size, that it is not encrypted, the entries of the L1 table: bytes 24 to 39
	change = be.AppendUint64(change, uint64(size))
	change = be.AppendUint32(change, 0)
	change = be.AppendUint32(change, entries)
	if _, err := f.WriteAt(change, 24); err != nil {
		return err
	}
	return f.Sync()
}

// grown returns how many entries the L1 table has when the image, a file with a size, has another virtual size, and where the file ends then at
// least. The new entries are zero.
func (h *header) grown(r io.ReaderAt, fileSize, size int64) (entries uint32, end int64, err error) {
	if h.incompat&^incompatDirty != 0 || h.autoclear != 0 || h.snapshots != 0 || h.clusterBits < 9 || h.clusterBits > 21 {
		return 0, 0, errors.New("the image has snapshots, bitmaps or other features that hinder it")
	}
	if size <= h.virtual || size%512 != 0 {
		return 0, 0, fmt.Errorf("it has %d bytes, and cannot have %d", h.virtual, size)
	}
	cluster := int64(1) << h.clusterBits
	perEntry := cluster / 8 * cluster
	first := int64(h.l1Entries) * 8
	room := (first + cluster - 1) / cluster * cluster
	want := (size-1)/perEntry*8 + 8
	if want > room || room > maxL1Bytes {
		return 0, 0, fmt.Errorf("this image can have %d bytes at most", room/8*perEntry)
	}
	if h.l1At == 0 || h.l1At%uint64(cluster) != 0 || h.l1At > uint64(fileSize) || want < first {
		return 0, 0, errors.New("the image is damaged: its L1 table is out of bounds")
	}
	added := make([]byte, want-first)
	if n, err := r.ReadAt(added, int64(h.l1At)+first); err != nil && !errors.Is(err, io.EOF) {
		return 0, 0, err
	} else if len(bytes.Trim(added[:n], "\x00")) > 0 {
		return 0, 0, errors.New("the image is damaged: something lies behind its L1 table")
	}
	return uint32(want / 8), int64(h.l1At) + room, nil
}
