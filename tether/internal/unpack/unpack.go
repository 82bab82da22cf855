// Package unpack extracts the layers of container images: OCI image layer tars, as specified by
// github.com/opencontainers/image-spec/blob/main/layer.md, onto the root disk that the tether has mounted.
//
// A layer is untrusted. Every path is resolved by the kernel beneath the root (openat2 with RESOLVE_IN_ROOT), entries are
// made relative to descriptors of their directories and never through a symbolic link, and sizes are limited.
package unpack

import (
	"archive/tar"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"runtime/debug"

	"golang.org/x/sys/unix"
)

var (
	// ErrEscape says that an entry names something outside the root.
	ErrEscape = errors.New("it leads out of the root")
	// ErrTooLarge says that a layer exceeds a limit.
	ErrTooLarge = errors.New("limit exceeded")
	// ErrUnsupported says that an entry has a type that no layer may hold.
	ErrUnsupported = errors.New("unsupported type of entry")
)

// EntryError says which entry of a layer could not be unpacked.
type EntryError struct {
	Name string // as in the layer, cut to 256 bytes
	Err  error
}

func (e *EntryError) Error() string { return fmt.Sprintf("cannot unpack %q: %v", e.Name, e.Err) }

func (e *EntryError) Unwrap() error { return e.Err }

// ReplaceError says that an entry would replace a directory by something else, or the other way round. Its words are Docker's.
type ReplaceError struct {
	Name      string // below the directory that is extracted to
	Directory bool   // there is one at Name
}

func (e *ReplaceError) Error() string {
	if e.Directory {
		return fmt.Sprintf("cannot overwrite directory %q with non-directory %q", "/"+e.Name, "/")
	}
	return fmt.Sprintf("cannot overwrite non-directory %q with directory %q", "/"+e.Name, "/")
}

// DefaultMaxEntries is used where Limits does not say.
const DefaultMaxEntries = 4_000_000

const (
	maxName  = 4096 // bytes of a path: PATH_MAX, include/uapi/linux/limits.h
	maxDepth = 256  // elements of a path, and directories below each other that are removed, each a descriptor
)

// Limits bound what a layer may hold.
type Limits struct {
	MaxBytes   uint64 // of file content, holes included; 0: the free space of the root's file system
	MaxEntries uint64 // directories that no entry describes included; 0: DefaultMaxEntries
}

// Result says what a layer held.
type Result struct {
	Entries uint64 // all of them, whiteouts included
	Bytes   uint64 // of file content, holes included
}

// Layer extracts an uncompressed layer from r, which it reads to its end, into the directory root. It needs to be root.
// When it fails, what it unpacked so far is left: throw the root away. Errors wrap ErrEscape, ErrTooLarge,
// ErrUnsupported, tar.ErrHeader, the reader's error, or a system call's.
func Layer(ctx context.Context, root string, r io.Reader, lim Limits) (Result, error) {
	fd, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return Result{}, fmt.Errorf("cannot unpack layer: cannot open root %s: %w", root, err)
	}
	defer unix.Close(fd)
	return apart(func() (Result, error) { return layer(ctx, fd, r, lim, nil) })
}

// Into says where files that are no layer go, and by which rules: Docker's of a copy into a container.
type Into struct {
	Dir                  int    // a descriptor of the directory, which may be O_PATH; names are resolved beneath it, mounts included
	Owner                *Owner // of all entries; nil: the one that each has
	NoOverwriteDirNonDir bool   // refuse to replace a directory by something else, or the other way round
}

// Owner is a user and a group.
type Owner struct{ UID, GID int }

// Files extracts an uncompressed tar of files, in which no name is a whiteout, and otherwise is Layer. An entry for the directory itself changes
// nothing of it.
func Files(ctx context.Context, r io.Reader, into Into) (Result, error) {
	return apart(func() (Result, error) { return layer(ctx, into.Dir, r, Limits{MaxBytes: math.MaxUint64}, &into) })
}

// apart calls f on a thread of its own, with a umask of its own.
func apart(f func() (Result, error)) (Result, error) {
	type outcome struct {
		res Result
		err error
	}
	done := make(chan outcome, 1)
	go func() {
		// The umask belongs to the process, but a thread can have its own: then files get their modes as they are
		// made. The thread ends with the goroutine, since it stays locked.
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			done <- outcome{err: fmt.Errorf("cannot unpack layer: cannot get a umask of its own: %w", err)}
			return
		}
		unix.Umask(0)
		defer func() { // a layer must not end the program, which is PID 1 of a machine
			if p := recover(); p != nil {
				done <- outcome{err: fmt.Errorf("cannot unpack layer: the unpacker is broken: %v\n%s", p, debug.Stack())}
			}
		}()
		res, err := f()
		done <- outcome{res, err}
	}()
	o := <-done
	return o.res, o.err
}

func layer(ctx context.Context, root int, r io.Reader, lim Limits, into *Into) (Result, error) {
	t, err := openTree(root)
	if err != nil {
		return Result{}, fmt.Errorf("cannot unpack layer: %w", err)
	}
	defer t.close()
	if lim.MaxBytes == 0 {
		if lim.MaxBytes, err = t.free(); err != nil {
			return Result{}, fmt.Errorf("cannot unpack layer: %w", err)
		}
	}
	t.entriesLeft = cmp.Or(lim.MaxEntries, DefaultMaxEntries)
	u := &unpacker{tree: t, layer: newReader(contextReader{ctx, r}), writer: startWriter(), maxBytes: lim.MaxBytes, into: into}
	t.crosses = into != nil
	if err := u.written(); err != nil {
		return u.res, err
	}
	if err := u.finishDirs(); err != nil {
		return u.res, err
	}
	if n := u.layer.n; n%tarBlock != 0 { // archive/tar takes padding that is cut off for the end
		return u.res, fmt.Errorf("cannot unpack layer: it is cut off at byte %d: %w", n, io.ErrUnexpectedEOF)
	}
	// Some writers leave bytes behind the end. They are part of the layer's digest, so whoever sends them wants them read.
	if err := u.layer.rest(); err != nil {
		return u.res, fmt.Errorf("cannot read layer behind its last entry: %w", err)
	}
	return u.res, nil
}

// contextReader fails when the context ends.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.r.Read(p)
}

// unpacker is the state of one layer.
type unpacker struct {
	tree     *tree
	layer    *reader
	writer   *writer
	maxBytes uint64
	res      Result
	dirs     []dirTimes
	into     *Into // nil: a layer
}

// written makes all entries and waits until their content is written, also when it panics.
func (u *unpacker) written() (err error) {
	defer func() {
		if werr := u.writer.end(); werr != nil {
			err = werr // of an earlier entry
		}
	}()
	return u.entries()
}

func (u *unpacker) entries() error {
	for {
		h, err := u.layer.next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot read layer behind entry %d: %w", u.res.Entries, err)
		}
		u.tree.closeOld()
		if err := u.writer.failure(); err != nil {
			return err
		}
		if err := u.entry(h); err != nil {
			return entryError(h.Name, err)
		}
	}
}

func entryError(name string, err error) error {
	return &EntryError{Name: name[:min(len(name), 256)], Err: err}
}

func (u *unpacker) entry(h *tar.Header) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	u.res.Entries++
	if err := u.tree.spend(); err != nil {
		return err
	}
	name, err := cleanName(h.Name)
	if err != nil {
		return err
	}
	parent, base := split(name)
	if hidden, ok := whiteout(base); ok && u.into == nil {
		return u.whiteout(parent, hidden)
	}
	if u.into != nil {
		if name == "" {
			return nil
		}
		if u.into.Owner != nil {
			h.Uid, h.Gid = u.into.Owner.UID, u.into.Owner.GID
		}
	}
	if err := checkOwner(h); err != nil {
		return err
	}
	return u.create(h, name)
}
