package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"

	"github.com/containervm/containervm/controller/internal/feed"
	"github.com/containervm/containervm/controller/internal/vsphere"
)

// fakeHost is a datastore in memory. A controller that is killed is one whose calls all fail from a moment on.
type fakeHost struct {
	mu     sync.Mutex
	files  map[string]string // content; of a disk "source, size"
	left   int               // calls until the controller is killed; negative: it is not
	after  bool              // the call at which it is killed takes effect on the host
	calls  []string
	noBoot bool
}

func newFakeHost() *fakeHost {
	return &fakeHost{files: map[string]string{"cvm/volume.vmdk": "empty"}, left: -1}
}

var errKilled = errors.New("killed")

// call counts a call that changes something; do is what the host does.
func (h *fakeHost) call(name string, do func() error) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.calls = append(h.calls, name)
	switch {
	case h.left == 0:
		return errKilled
	case h.left > 0:
		if h.left--; h.left == 0 {
			if h.after {
				_ = do()
			}
			return errKilled
		}
	}
	return do()
}

func (h *fakeHost) Upload(_ context.Context, name string, r io.Reader) error {
	data, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	return h.call("upload "+name, func() error { h.files[name] = string(data); return nil })
}

func (h *fakeHost) read(name string) (string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	data, ok := h.files[name]
	if !ok {
		return "", fmt.Errorf("no file %s: %w", name, errdefs.ErrNotFound)
	}
	return data, nil
}

func (h *fakeHost) Download(_ context.Context, name string) (io.ReadCloser, error) {
	data, err := h.read(name)
	return io.NopCloser(strings.NewReader(data)), err
}

func (h *fakeHost) MakeDirectory(context.Context, string) error { return nil }

func (h *fakeHost) ListFiles(_ context.Context, dir string) ([]vsphere.FileInfo, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var all []vsphere.FileInfo
	for name, data := range h.files {
		if path.Dir(name) == dir {
			all = append(all, vsphere.FileInfo{Name: path.Base(name), Size: int64(len(data))})
		}
	}
	return all, nil
}

func (h *fakeHost) Stat(_ context.Context, name string) (vsphere.FileInfo, error) {
	data, err := h.read(name)
	return vsphere.FileInfo{Name: path.Base(name), Size: int64(len(data))}, err
}

func (h *fakeHost) CopyDisk(_ context.Context, from, to string) error {
	return h.call("copy "+to, func() error {
		if _, ok := h.files[to]; ok {
			return errdefs.ErrAlreadyExists
		}
		h.files[to] = h.files[from]
		return nil
	})
}

func (h *fakeHost) ExtendDisk(_ context.Context, name string, size int64) error {
	return h.call("extend "+name, func() error {
		if size < 1<<20 {
			return errdefs.ErrInvalidArgument
		}
		h.files[name] = fmt.Sprintf("%s, %d", h.files[name], size)
		return nil
	})
}

func (h *fakeHost) DeleteDisk(_ context.Context, name string) error {
	return h.call("delete "+name, func() error { delete(h.files, name); return nil })
}

func (h *fakeHost) DatastorePath(name string) string { return "[local] " + name }

func (h *fakeHost) Boot() vsphere.BootFiles {
	if h.noBoot {
		return vsphere.BootFiles{}
	}
	return vsphere.BootFiles{Volume: "cvm/volume.vmdk"}
}

// disks are the disks of volumes, and their content.
func (h *fakeHost) disks() map[string]string {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := maps.Clone(h.files)
	maps.DeleteFunc(all, func(name, _ string) bool { return path.Dir(name) != Dir })
	return all
}

func open(t *testing.T, h *fakeHost) *Service {
	t.Helper()
	s, err := New(t.Context(), h, &feed.Feed{}, testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// listen returns what yields the events of volumes one after the other.
func listen(t *testing.T, s *Service) (next func() events.Message) {
	_, r := s.feed.Open(time.Time{}, time.Time{})
	t.Cleanup(r.Close)
	var heard []events.Message
	return func() events.Message {
		t.Helper()
		if len(heard) == 0 {
			var err error
			if heard, err = r.Next(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		m := heard[0]
		heard = heard[1:]
		return m
	}
}
