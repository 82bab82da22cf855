package datastore

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/containervm/containervm/hostd-bridge/internal/spare"
)

// ReserveDir has the files that are set aside; it is never shown.
const ReserveDir = ".reserve"

// maxReserved bounds in bytes what replaces a file on a full disk: an index of some hundred images.
const maxReserved = 4 << 20

// reserved are the sizes in bytes of the files that are set aside, the smallest first. A removal replaces two indexes at most, of a few
// kilobytes, and gives space back.
var reserved = [...]int64{64 << 10, 64 << 10, 64 << 10, 64 << 10, 64 << 10, 64 << 10, 64 << 10, 64 << 10, maxReserved, maxReserved}

// reserve is what is set aside so that indexes can be replaced on a full disk: who removes something there has to write first what is removed.
type reserve struct {
	root *os.Root

	mu    sync.Mutex
	files []*spare.File
}

func newReserve(root *os.Root) *reserve {
	r := &reserve{root: root}
	for n, size := range reserved {
		r.files = append(r.files, spare.New(root, fmt.Sprintf("%s/%d", ReserveDir, n), size))
	}
	return r
}

// fill sets aside what is not, as far as there is room.
func (r *reserve) fill() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, f := range r.files {
		_ = f.Make() // it is tried again with the next change
	}
}

// write replaces a file by one that was set aside, with content. full is why it cannot be written otherwise.
func (r *reserve) write(rel string, content []byte, full error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, f := range r.files {
		if f.Size() < int64(len(content)) {
			continue
		}
		file, err := f.Take()
		if err != nil {
			continue // it is in use
		}
		_, err = file.WriteAt(content, 0)
		if err == nil {
			err = file.Truncate(int64(len(content))) // frees the rest
		}
		if err == nil {
			err = file.Sync()
		}
		if err = errors.Join(err, file.Close()); err == nil {
			err = r.root.Rename(f.Name(), rel)
		}
		if err != nil {
			return errors.Join(full, err)
		}
		return nil
	}
	return full
}
