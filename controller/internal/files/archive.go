package files

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"github.com/containervm/containervm/controller/internal/guest"
	"github.com/containervm/containervm/controller/internal/image"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// Stat says what is at a path of a container.
func (s *Service) Stat(ctx context.Context, ref, path string) (container.PathStat, error) {
	a, done, err := s.reach(ctx, ref, true)
	if err != nil {
		return container.PathStat{}, err
	}
	defer done()
	return s.stat(ctx, a, path)
}

func (s *Service) stat(ctx context.Context, a access, path string) (container.PathStat, error) {
	ctx, cancel := context.WithTimeout(ctx, s.times.Link)
	defer cancel()
	r, err := a.link.Tether().StatPath(ctx, &tetherv1.StatPathRequest{Path: path})
	if err != nil {
		return container.PathStat{}, a.failed(err, path)
	}
	return container.PathStat{
		Name: r.Name, Size: r.Size, Mode: fileMode(r.Mode), Mtime: time.Unix(0, r.MtimeUnixNano).UTC(), LinkTarget: r.LinkTarget,
	}, nil
}

// failed is what a tether did not do at a path, in Docker's words.
func (a access) failed(err error, path string) error {
	if errdefs.IsNotFound(err) {
		return errdefs.ErrNotFound.WithMessage(fmt.Sprintf("Could not find the file %s in container %s", path, a.ref))
	}
	return a.broken(err)
}

// clientError is what the client did wrong: no tether is at fault.
type clientError struct{ error }

func (e clientError) Unwrap() error { return e.error }

// broken is why files cannot be had of a tether: its own words where it says why.
func (a access) broken(err error) error {
	if errors.As(err, new(clientError)) {
		return err
	}
	if errors.As(err, new(*link.Refusal)) {
		return guest.Failed(err, "%s", &a.c)
	}
	return fmt.Errorf("cannot reach the files of %s: %w", &a.c, err)
}

// fileMode is a mode of Linux's (inode(7)) as Go's, which is what Docker's API has.
func fileMode(mode uint32) fs.FileMode {
	m := fs.FileMode(mode & 0o777)
	for bit, is := range map[uint32]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if mode&bit != 0 {
			m |= is
		}
	}
	switch mode & 0o170000 {
	case 0o040000:
		m |= fs.ModeDir
	case 0o120000:
		m |= fs.ModeSymlink
	case 0o010000:
		m |= fs.ModeNamedPipe
	case 0o140000:
		m |= fs.ModeSocket
	case 0o020000:
		m |= fs.ModeDevice | fs.ModeCharDevice
	case 0o060000:
		m |= fs.ModeDevice
	}
	return m
}

// Archive returns what is at a path of a container, as a tar, and says what it is. The reader is that of Layer.
func (s *Service) Archive(ctx context.Context, ref, path string) (stat container.PathStat, tar io.ReadCloser, err error) {
	a, done, err := s.reach(ctx, ref, true)
	if err != nil {
		return stat, nil, err
	}
	if stat, err = s.stat(ctx, a, path); err != nil {
		done()
		return stat, nil, err
	}
	if tar, err = s.export(ctx, a, &tetherv1.ExportRequest{Path: path}, done); err != nil {
		return stat, nil, a.failed(err, path)
	}
	s.containers.Tell(&a.c, events.ActionArchivePath, map[string]string{"path": path})
	return stat, tar, nil
}

// Root returns all of a container's own files, without what is mounted over them, as a tar. The reader is that of Layer.
func (s *Service) Root(ctx context.Context, ref string) (io.ReadCloser, error) {
	a, done, err := s.reach(ctx, ref, false)
	if err != nil {
		return nil, err
	}
	tar, err := s.export(ctx, a, &tetherv1.ExportRequest{Content: tetherv1.ExportRequest_ROOT}, done)
	if err != nil {
		return nil, a.failed(err, "/")
	}
	s.containers.Tell(&a.c, events.ActionExport, nil)
	return tar, nil
}

// download is an Export of a tether's. It ends when it is closed.
type download struct {
	from  *link.OutputStream
	first []byte // read already
	err   error  // behind first
	end   func() // once
}

// export begins an Export and reads the first of it, so that a refusal is an error here and not in the middle of an answer. done is called
// when the download has ended, also when it fails.
func (s *Service) export(ctx context.Context, a access, req *tetherv1.ExportRequest, done func()) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancel(ctx)
	req.Download = rand.Text()
	called := make(chan error, 1)
	go func() {
		_, err := a.link.Tether().Export(context.WithoutCancel(ctx), req) // it ends with its download
		called <- err
	}()
	from, err := a.link.Download(ctx, req.Download)
	if err != nil {
		cancel()
		done()
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { from.Close() })
	d := &download{from: from, end: sync.OnceFunc(func() {
		stop()
		from.Close()
		cancel()
		<-called // its machine may go on to something else, or end
		done()
	})}
	d.first = make([]byte, 4096)
	var n int
	for n == 0 && d.err == nil {
		n, d.err = from.Read(d.first)
	}
	d.first = d.first[:n]
	if d.err != nil && d.err != io.EOF {
		d.end()
		return nil, d.err
	}
	return d, nil
}

func (d *download) Read(p []byte) (int, error) {
	if len(d.first) > 0 {
		n := copy(p, d.first)
		d.first = d.first[n:]
		return n, nil
	}
	if d.err != nil {
		return 0, d.err
	}
	var n int
	n, d.err = d.from.Read(p)
	return n, d.err
}

func (d *download) Close() error {
	d.end()
	return nil
}

// ExtractOptions say how a tar is extracted.
type ExtractOptions struct {
	NoOverwriteDirNonDir bool // refuse to replace a directory by something else, or the other way round
	// CopyUIDGID: all entries get the container's user, if it has one, as Docker has it; else those that the tar says.
	CopyUIDGID bool
}

// Extract extracts a tar, which may be compressed, at a directory of a container.
func (s *Service) Extract(ctx context.Context, ref, path string, opt ExtractOptions, tar io.Reader) error {
	a, done, err := s.reach(ctx, ref, true)
	if err != nil {
		return err
	}
	defer done()
	req := &tetherv1.ImportRequest{Path: path, NoOverwriteDirNonDir: opt.NoOverwriteDirNonDir}
	if opt.CopyUIDGID {
		req.Owner = a.c.Config.User
	}
	if err := s.upload(ctx, a, req, tar); err != nil {
		return a.failed(err, path)
	}
	s.containers.Tell(&a.c, events.ActionExtractToDir, map[string]string{"path": path})
	return nil
}

// upload feeds an Import. Of the errors of its two ends it returns the one that says why: the client's, or the tether's.
func (s *Service) upload(ctx context.Context, a access, req *tetherv1.ImportRequest, tar io.Reader) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	req.Upload = rand.Text()
	up, err := a.link.Upload(ctx, req.Upload)
	if err != nil {
		return err
	}
	defer up.Close()
	defer context.AfterFunc(ctx, func() { up.Close() })()
	called := make(chan error, 1)
	go func() {
		_, err := a.link.Tether().Import(context.WithoutCancel(ctx), req) // it ends with its upload
		called <- err
	}()
	plain, err := image.Decompress(tar)
	if err == nil {
		_, err = io.CopyBuffer(onlyWriter{up}, onlyReader{plain}, make([]byte, copySize))
		_ = plain.Close() // it has no end of its own
	}
	if err == nil {
		err = up.CloseWrite()
	}
	sent := err == nil
	if !sent {
		up.Close()
	}
	refused := <-called
	var refusal *link.Refusal
	switch {
	case sent, errors.As(err, &refusal), errors.Is(err, io.ErrClosedPipe), errors.Is(err, link.ErrLost):
		return refused // the tether took no more: it says why
	case ctx.Err() != nil:
		return err // the client has left
	default:
		return clientError{errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("cannot read the archive: %v", err))}
	}
}

// copySize is how much of an upload is passed on at once, in bytes.
const copySize = 128 << 10

// onlyWriter and onlyReader keep io.Copy to its buffer.
type (
	onlyWriter struct{ io.Writer }
	onlyReader struct{ io.Reader }
)
