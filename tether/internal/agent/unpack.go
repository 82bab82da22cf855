package agent

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/containervm/containervm/tether/internal/rootfs"
	"github.com/containervm/containervm/tether/internal/unpack"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// uploadWait is how long an Unpack and its upload wait for each other.
const uploadWait = 30 * time.Second

// Unpacker extracts layers to the root disk, one at a time. The host may change the disk between two of them.
type Unpacker struct {
	dir   string
	mount func(ctx context.Context, dir string) (rootfs.Disk, error)
	wait  time.Duration // see uploadWait
	busy  chan struct{} // capacity 1: held while a layer is unpacked

	mu      sync.Mutex
	uploads map[string]chan upload
}

// upload is a byte stream on its way to an Unpack, which says how it ended.
type upload struct {
	r    io.Reader
	done chan error // capacity 1
}

// NewUnpacker returns an unpacker that mounts the root disk on dir.
func NewUnpacker(dir string) *Unpacker {
	return &Unpacker{
		dir: dir, mount: mountScratch, wait: uploadWait, busy: make(chan struct{}, 1), uploads: map[string]chan upload{},
	}
}

// meet is where the upload and the Unpack of an id find each other, whichever comes first.
func (u *Unpacker) meet(id string) chan upload {
	u.mu.Lock()
	defer u.mu.Unlock()
	ch, ok := u.uploads[id]
	if !ok {
		ch = make(chan upload)
		u.uploads[id] = ch
	}
	return ch
}

func (u *Unpacker) forget(id string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.uploads, id)
}

// Upload offers r to the Unpack of id and returns when that has ended, with its error: the host's end of the upload
// learns why no more of it is taken.
func (u *Unpacker) Upload(ctx context.Context, id string, r io.Reader) error {
	defer u.forget(id)
	up := upload{r: r, done: make(chan error, 1)}
	wait, cancel := context.WithTimeout(ctx, u.wait)
	defer cancel()
	select {
	case u.meet(id) <- up:
	case <-wait.Done():
		return unmet(ctx, "nobody unpacked the upload %s", id)
	}
	select {
	case err := <-up.done:
		return err
	case <-ctx.Done():
		return link.Refuse(ctx.Err(), "%v", ctx.Err())
	}
}

// Unpack extracts the layer that comes by the upload of the request's id, and leaves the disk unmounted and durable.
func (u *Unpacker) Unpack(ctx context.Context, r *tetherv1.UnpackRequest) (res *tetherv1.UnpackResponse, err error) {
	select {
	case u.busy <- struct{}{}:
		defer func() { <-u.busy }()
	default:
		return nil, link.Refuse(errdefs.ErrFailedPrecondition, "another layer is being unpacked")
	}
	defer u.forget(r.Upload)
	wait, cancel := context.WithTimeout(ctx, u.wait)
	defer cancel()
	select {
	case up := <-u.meet(r.Upload):
		defer func() { up.done <- err }()
		return u.extract(ctx, up.r, unpack.Limits{MaxBytes: r.MaxBytes, MaxEntries: r.MaxEntries})
	case <-wait.Done():
		return nil, unmet(ctx, "the upload %s did not come", r.Upload)
	}
}

// unmet says why an Unpack and its upload did not find each other: the caller has ended, or the other side did not come.
func unmet(ctx context.Context, format string, id string) error {
	if ctx.Err() != nil {
		return link.Refuse(ctx.Err(), "%v", ctx.Err())
	}
	return link.Refuse(context.DeadlineExceeded, format, id)
}

func (u *Unpacker) extract(ctx context.Context, r io.Reader, limits unpack.Limits) (*tetherv1.UnpackResponse, error) {
	begun := time.Now()
	disk, err := u.mount(ctx, u.dir)
	if err != nil {
		return nil, link.Refuse(errdefs.ErrFailedPrecondition, "%v", err)
	}
	result, err := unpack.Layer(ctx, u.dir, r, limits)
	if uerr := unix.Unmount(u.dir, 0); uerr != nil {
		err = errors.Join(err, uerr, unix.Unmount(u.dir, unix.MNT_DETACH))
	}
	if err == nil {
		err = disk.Flush()
	}
	if err != nil {
		return nil, link.Refuse(unpackClass(err), "cannot unpack layer: %v", err)
	}
	return &tetherv1.UnpackResponse{
		Entries: result.Entries, Bytes: result.Bytes, Micros: uint64(time.Since(begun).Microseconds()),
	}, nil
}

// mountScratch mounts the root disk as it is now.
func mountScratch(ctx context.Context, dir string) (rootfs.Disk, error) {
	ctx, cancel := context.WithTimeout(ctx, rootfs.DiskWait)
	defer cancel()
	disk, err := rootfs.WaitDisk(ctx)
	if err != nil {
		return disk, err
	}
	if err := disk.Reread(); err != nil {
		return disk, err
	}
	return disk, disk.Mount(dir, unix.MS_NOATIME, rootfs.ScratchOptions)
}

// unpackClass tells a layer at fault from a machine or a connection at fault.
func unpackClass(err error) error {
	switch {
	case errors.Is(err, link.ErrLost):
		return errdefs.ErrUnavailable
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return errdefs.ErrResourceExhausted
	case errors.Is(err, context.Canceled):
		return context.Canceled
	case errors.Is(err, unix.EIO), errors.Is(err, unix.EROFS):
		return errdefs.ErrInternal
	default:
		return errdefs.ErrInvalidArgument
	}
}
