package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/containervm/containervm/hostd-bridge/internal/qemu/qmp"
)

// fdsets gives QEMU open files, which it then opens as /dev/fdset/N (add-fd of QMP). It belongs to the machine's owner.
type fdsets struct {
	last  int
	stale []int // sets that were to be removed while the CPUs stood still, when QEMU keeps their files open
}

// add passes a file to QEMU and returns the number of its set. The file may be closed then. The answers of calls come before that of what is
// sent after them.
func (s *fdsets) add(q *qmp.Client, f *os.File) (set int, call *qmp.Call) {
	s.last++
	return s.last, q.Send("add-fd", map[string]any{"fdset-id": s.last}, f)
}

// remove has QEMU close the files of sets when nothing has them open any more.
func (s *fdsets) remove(ctx context.Context, q *qmp.Client, running bool, sets ...int) error {
	calls := make([]*qmp.Call, len(sets))
	for i, set := range sets {
		calls[i] = q.Send("remove-fd", map[string]any{"fdset-id": set}, nil)
	}
	var errs []error
	for i, call := range calls {
		err := call.Wait(context.WithoutCancel(ctx), nil)
		if err == nil && !running {
			s.stale = append(s.stale, sets[i])
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// sweep removes the stale sets. The CPUs run.
func (s *fdsets) sweep(ctx context.Context, q *qmp.Client) {
	stale := s.stale
	s.stale = nil
	_ = s.remove(ctx, q, true, stale...) // QEMU may have closed them by itself
}

// opened is a disk that QEMU has open.
type opened struct {
	name  string // for people
	nodes []node // the first is that which a device uses, the others lie below it
}

// node is a block node that QEMU was told to make, with those inside it.
type node struct {
	name string
	sets []int
}

// fileOptions are the blockdev options of a file that was passed to QEMU. QEMU's own locks are off because the inventory gives each disk one
// writer, and because QEMU 7.2 keeps a disk at a fork point open for writing although nothing is written to it: its lock would keep the
// children from reading it.
func fileOptions(set int) map[string]any {
	return map[string]any{"driver": "file", "filename": fmt.Sprintf("/dev/fdset/%d", set), "locking": "off"}
}

// diskOptions are the blockdev options of a disk's node whose files are sets. Each level is named, so that no header decides what is opened.
func diskOptions(name string, sets []int, readOnly bool) map[string]any {
	var below any // the last file is no delta, or the one below it is open already
	for i := len(sets) - 1; i > 0; i-- {
		below = map[string]any{"driver": "qcow2", "file": fileOptions(sets[i]), "backing": below}
	}
	file := fileOptions(sets[0])
	options := map[string]any{"driver": "qcow2", "node-name": name, "file": file, "backing": below}
	if readOnly { // others may have it open, too, and it is never forked
		options["read-only"], file["read-only"] = true, true
	} else {
		options["discard"], file["discard"] = "unmap", "unmap"
	}
	return options
}

// open opens an image as a node. The files may be closed then.
//
// At a fork blockdev-snapshot makes what is below a delta read-only, and QEMU then opens that file once more (block/file-posix.c,
// raw_reconfigure_getfd). It finds none in the set that is open for reading alone, and goes on with the one that it has.
func (s *fdsets) open(ctx context.Context, q *qmp.Client, name string, image Image, readOnly, running bool) (node, error) {
	n := node{name: name}
	if len(image.Files) == 0 {
		return n, errors.New("the disk has no file")
	}
	var calls []*qmp.Call
	for _, f := range image.Files {
		set, call := s.add(q, f)
		n.sets, calls = append(n.sets, set), append(calls, call)
	}
	calls = append(calls, q.Send("blockdev-add", diskOptions(name, n.sets, readOnly), nil))
	var errs []error
	for _, call := range calls {
		errs = append(errs, call.Wait(ctx, nil))
	}
	if err := errors.Join(errs...); err != nil {
		return n, errors.Join(err, s.remove(ctx, q, running, n.sets...))
	}
	return n, nil
}

// close removes nodes, the first of which nothing uses any more.
func (s *fdsets) close(ctx context.Context, q *qmp.Client, running bool, nodes ...node) error {
	for _, n := range nodes {
		err := q.Execute(context.WithoutCancel(ctx), "blockdev-del", map[string]any{"node-name": n.name}, nil)
		if err == nil {
			err = s.remove(ctx, q, running, n.sets...)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
