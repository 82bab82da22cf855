package supervisor

import (
	"context"
	"errors"
	"fmt"
)

// RootSlot is the name of the raw block node that the guest's root device sits on. Its file is a disk or a placeholder.
const RootSlot = "root"

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

	has    opened // a disk, or the node of the placeholder
	filled bool   // with a disk; false also of a rehearsal
	last   int    // number of the newest node
}

func newSlot(cfg Config) slot {
	return slot{emptySize: cfg.EmptySize, has: opened{nodes: []node{{name: cfg.RootNode}}}}
}

func (s *slot) newNode() string {
	s.last++
	return fmt.Sprintf("slot%d", s.last)
}

// attachRoot puts a disk into the empty slot.
func (m *machine) attachRoot(ctx context.Context, image Image) error {
	s := &m.slot
	if s.filled {
		return fmt.Errorf("cannot attach %s: the root slot holds %s", image.Name, s.has.name)
	}
	n, err := m.sets.open(ctx, m.qmp, s.newNode(), image, false, m.running())
	if err == nil {
		err = m.swap(ctx, image.Name, n)
	}
	if err != nil {
		return fmt.Errorf("cannot attach %s: %w", image.Name, err)
	}
	s.filled = true
	return nil
}

// attachRehearsal puts a disk into the empty slot, which still counts as empty.
func (m *machine) attachRehearsal(ctx context.Context, image Image) error {
	err := m.attachRoot(ctx, image)
	m.slot.filled = false
	return err
}

// detachRoot puts the placeholder back.
func (m *machine) detachRoot(ctx context.Context) error {
	s := &m.slot
	if !s.filled {
		return errors.New("cannot detach a disk: the root slot is empty")
	}
	was, empty := s.has.name, node{name: s.newNode()}
	err := m.qmp.Execute(ctx, "blockdev-add", EmptyOptions(empty.name, s.emptySize), nil)
	if err == nil {
		err = m.swap(ctx, "", empty)
	}
	if err != nil {
		return fmt.Errorf("cannot detach %s: %w", was, err)
	}
	s.filled = false
	return nil
}

// swap makes a node the slot's file, and removes what was that before.
func (m *machine) swap(ctx context.Context, name string, n node) error {
	reopen := map[string]any{"options": []any{SlotOptions(n.name)}}
	if err := m.qmp.Execute(ctx, "blockdev-reopen", reopen, nil); err != nil {
		return errors.Join(err, m.sets.close(ctx, m.qmp, m.running(), n))
	}
	old := m.slot.has.nodes
	m.slot.has = opened{name, []node{n}}
	return m.sets.close(ctx, m.qmp, m.running(), old...)
}
