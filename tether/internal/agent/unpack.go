package agent

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/containervm/containervm/tether/internal/rootfs"
	"github.com/containervm/containervm/tether/internal/unpack"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// Unpacker extracts layers to the root disk, one at a time. The host may change the disk between two of them.
type Unpacker struct {
	dir   string
	mount func(ctx context.Context, dir string) (rootfs.Disk, error)
	busy  chan struct{} // capacity 1: held while a layer is unpacked

	uploads *meeting[io.Reader]
}

// NewUnpacker returns an unpacker that mounts the root disk on dir.
func NewUnpacker(dir string) *Unpacker {
	return &Unpacker{dir: dir, mount: mountScratch, busy: make(chan struct{}, 1), uploads: newMeeting[io.Reader]("upload")}
}

// Unpack extracts the layer that comes by the upload of the request's id, and leaves the disk unmounted and durable.
func (u *Unpacker) Unpack(ctx context.Context, r *tetherv1.UnpackRequest) (res *tetherv1.UnpackResponse, err error) {
	select {
	case u.busy <- struct{}{}:
		defer func() { <-u.busy }()
	default:
		return nil, link.Refuse(errdefs.ErrFailedPrecondition, "another layer is being unpacked")
	}
	err = u.uploads.take(ctx, r.Upload, func(_ context.Context, stream io.Reader) (err error) {
		res, err = u.extract(ctx, stream, unpack.Limits{MaxBytes: r.MaxBytes, MaxEntries: r.MaxEntries})
		return err
	})
	return res, err
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
