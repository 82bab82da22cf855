package agent

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/containervm/containervm/internal/testimage"
	"github.com/containervm/containervm/tether/internal/rootfs"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// scratch is an unpacker whose disk is a small tmpfs, with what was in it when it was last unmounted.
type scratch struct {
	*Unpacker
	mounts int
}

func newScratch(t *testing.T) *scratch {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root to mount; try: sudo go test")
	}
	dir := t.TempDir()
	s := &scratch{Unpacker: NewUnpacker(filepath.Join(dir, "mnt"))}
	must(t, os.Mkdir(s.dir, 0o755))
	device := filepath.Join(dir, "device") // stands for the disk that is flushed
	must(t, os.WriteFile(device, nil, 0o600))
	s.mount = func(_ context.Context, dir string) (rootfs.Disk, error) {
		s.mounts++
		return rootfs.Disk{Path: device}, unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m")
	}
	t.Cleanup(func() {
		if err := unix.Unmount(s.dir, 0); err == nil {
			t.Error("the disk was left mounted")
		}
	})
	return s
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// both runs an Upload and its Unpack, and returns their errors.
func (s *scratch) both(t *testing.T, r io.Reader) (res *tetherv1.UnpackResponse, uploaded, unpacked error) {
	t.Helper()
	up := make(chan error, 1)
	go func() { up <- s.uploads.offer(t.Context(), "id", r) }()
	res, unpacked = s.Unpack(t.Context(), &tetherv1.UnpackRequest{Upload: "id"})
	return res, <-up, unpacked
}

func TestUnpackAnswersBothSides(t *testing.T) {
	big := testimage.Layer(testimage.Entry{Name: "big", Body: strings.Repeat("x", 900<<10)}, testimage.Entry{Name: "more", Body: strings.Repeat("y", 900<<10)})
	good := testimage.Layer(testimage.Entry{Name: "file", Body: "text"})
	for name, test := range map[string]struct {
		r    io.Reader
		code codes.Code
		text string
	}{
		"good":      {bytes.NewReader(good), codes.OK, ""},
		"evil":      {bytes.NewReader(testimage.Evil()["parent path"]), codes.InvalidArgument, "leads out of the root"},
		"not a tar": {bytes.NewReader(testimage.Evil()["not a tar"]), codes.InvalidArgument, "cannot read layer"},
		"too large": {bytes.NewReader(big), codes.InvalidArgument, "limit exceeded"},
		"lost":      {io.MultiReader(bytes.NewReader(good[:700]), iotest.ErrReader(fmt.Errorf("%w: cut", link.ErrLost))), codes.Unavailable, "lost"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScratch(t)
			res, uploaded, unpacked := s.both(t, test.r)
			for side, err := range map[string]error{"upload": uploaded, "unpack": unpacked} {
				if status.Code(err) != test.code || err != nil && !strings.Contains(err.Error(), test.text) {
					t.Errorf("%s: %v, want %v with %q", side, err, test.code, test.text)
				}
			}
			if test.code == codes.OK && (res.GetEntries() != 1 || res.GetBytes() != 4) {
				t.Errorf("result %v", res)
			}
			if _, uploaded, unpacked := s.both(t, bytes.NewReader(good)); uploaded != nil || unpacked != nil {
				t.Errorf("the next layer: %v, %v", uploaded, unpacked)
			}
		})
	}
}

func TestUploadAndUnpackWaitForEachOtherOnlySoLong(t *testing.T) {
	u := NewUnpacker(t.TempDir())
	u.uploads.wait = time.Millisecond
	if err := u.uploads.offer(t.Context(), "id", strings.NewReader("")); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("upload: %v", err)
	}
	if _, err := u.Unpack(t.Context(), &tetherv1.UnpackRequest{Upload: "id"}); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("unpack: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	u.uploads.wait = time.Hour
	if err := u.uploads.offer(ctx, "id", strings.NewReader("")); status.Code(err) != codes.Canceled {
		t.Errorf("upload of a host that went away: %v", err)
	}
	if _, err := u.Unpack(ctx, &tetherv1.UnpackRequest{Upload: "id"}); status.Code(err) != codes.Canceled {
		t.Errorf("unpack of a host that went away: %v", err)
	}
	if len(u.uploads.ids) != 0 {
		t.Errorf("%d meetings are remembered", len(u.uploads.ids))
	}
}

func TestOneUnpackAtATime(t *testing.T) {
	s := newScratch(t)
	r, w := io.Pipe()
	first := make(chan error, 1)
	go func() {
		_, _, err := s.both(t, r)
		first <- err
	}()
	layer := testimage.Layer(testimage.Entry{Name: "file", Body: "text"})
	_, err := w.Write(layer[:10]) // it is being read now
	must(t, err)
	if _, err := s.Unpack(t.Context(), &tetherv1.UnpackRequest{Upload: "other"}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("second unpack: %v", err)
	}
	_, err = w.Write(layer[10:])
	must(t, err)
	must(t, w.Close())
	must(t, <-first)
}
