package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/containervm/containervm/hostd-bridge/internal/qemu/qmp"
)

// RootSlot is the name of the raw block node that the guest's root device sits on. Its file is a disk or a placeholder.
const RootSlot = "root"

// DiskOptions are the blockdev options of a disk's node. QEMU's own locks are off because the inventory gives each disk one writer,
// and because QEMU 7.2 keeps a disk at a fork point open for writing although nothing is written to it: its lock would keep the
// children from reading it.
func DiskOptions(node, path string) map[string]any {
	return map[string]any{"driver": "qcow2", "node-name": node, "discard": "unmap",
		"file": map[string]any{"driver": "file", "filename": path, "discard": "unmap", "locking": "off"}}
}

// openSuffix ends the name by which QEMU opens a disk that can be written to.
const openSuffix = ".open"

// openOnce has add open a disk by a second name, beside its own, that is gone afterwards.
//
// At a fork blockdev-snapshot makes what is below a delta read-only, and QEMU then opens that file once more by the name that it knows
// (block/file-posix.c, raw_reconfigure_getfd), and those further below at later forks. By then the disk's own name is the delta's, and the machine
// would read its delta in the place of what is below it. By a name that is gone it finds nothing, and goes on with the file that it has open.
// The name is in the same directory, since a disk names what it is a delta of by a path from there.
func openOnce(path string, add func(name string) error) error {
	name := path + openSuffix
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) { // of a supervisor that was killed
		return err
	}
	if err := os.Link(path, name); err != nil {
		return err
	}
	return errors.Join(add(name), os.Remove(name))
}

// EmptyOptions are the blockdev options of a placeholder's node, of size bytes.
func EmptyOptions(node string, size int64) map[string]any {
	return map[string]any{"driver": "null-co", "node-name": node, "size": size, "read-zeroes": true}
}

// SlotOptions are the blockdev options of the root slot on a node.
func SlotOptions(node string) map[string]any {
	return map[string]any{"driver": "raw", "node-name": RootSlot, "file": node, "discard": "unmap"}
}

// slot knows what the root slot holds. It belongs to the machine's owner.
type slot struct {
	emptySize int64

	node string // of the disk or placeholder
	path string // empty: a placeholder
	last int    // number of the newest node
}

func newSlot(cfg Config) slot { return slot{emptySize: cfg.EmptySize, node: cfg.RootNode} }

// attach puts a disk into the empty slot.
func (s *slot) attach(ctx context.Context, q *qmp.Client, path string) error {
	if s.path != "" {
		return fmt.Errorf("cannot attach %s: the root slot holds %s", path, s.path)
	}
	s.last++
	node := fmt.Sprintf("slot%d", s.last)
	if err := openOnce(path, func(name string) error { return s.swap(ctx, q, node, DiskOptions(node, name)) }); err != nil {
		return fmt.Errorf("cannot attach %s: %w", path, err)
	}
	s.path = path
	return nil
}

// attachRehearsal puts a disk into the empty slot, which still counts as empty, and removes the disk's file.
func (s *slot) attachRehearsal(ctx context.Context, q *qmp.Client, path string) error {
	if err := s.attach(ctx, q, path); err != nil {
		return err
	}
	s.path = ""
	return os.Remove(path)
}

// detach puts the placeholder back.
func (s *slot) detach(ctx context.Context, q *qmp.Client) error {
	if s.path == "" {
		return errors.New("cannot detach a disk: the root slot is empty")
	}
	s.last++
	node := fmt.Sprintf("slot%d", s.last)
	if err := s.swap(ctx, q, node, EmptyOptions(node, s.emptySize)); err != nil {
		return fmt.Errorf("cannot detach %s: %w", s.path, err)
	}
	s.path = ""
	return nil
}

// swap adds a node, makes it the slot's file, and removes the one before.
func (s *slot) swap(ctx context.Context, q *qmp.Client, node string, options map[string]any) error {
	if err := q.Execute(ctx, "blockdev-add", options, nil); err != nil {
		return err
	}
	reopen := map[string]any{"options": []any{SlotOptions(node)}}
	if err := q.Execute(ctx, "blockdev-reopen", reopen, nil); err != nil {
		return errors.Join(err, q.Execute(ctx, "blockdev-del", map[string]any{"node-name": node}, nil))
	}
	old := s.node
	s.node = node
	return q.Execute(ctx, "blockdev-del", map[string]any{"node-name": old}, nil)
}

// next returns the name of a node that is to take the place of the disk's.
func (s *slot) next() (string, error) {
	if s.path == "" {
		return "", errors.New("cannot put a delta over the root slot's disk: it is empty")
	}
	s.last++
	return fmt.Sprintf("slot%d", s.last), nil
}
