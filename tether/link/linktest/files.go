package linktest

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// SetFile makes a file of the fake's container; a path that ends in "/" is a directory.
func (f *Tether) SetFile(name, content string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.files[name] = content
}

// File is a file of the fake's container.
func (f *Tether) File(name string) (content string, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	content, ok = f.files[name]
	return content, ok
}

// OnExport has write answer each Export, which ends with its error.
func (f *Tether) OnExport(write func(io.Writer) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.export = write
}

// Imports and Exports are the calls so far.
func (f *Tether) Imports() []*tetherv1.ImportRequest {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.imports)
}

// Exports are the Export calls so far.
func (f *Tether) Exports() []*tetherv1.ExportRequest {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.exports)
}

// at is what the fake has at a path: that of a directory gets a "/".
func (f *Tether) at(name string) (clean string, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	clean = path.Clean("/" + name)
	if _, ok := f.files[clean]; ok {
		return clean, true
	}
	_, ok = f.files[clean+"/"]
	return clean + "/", ok
}

// StatPath implements link.Handler, by SetFile.
func (f *Tether) StatPath(_ context.Context, req *tetherv1.StatPathRequest) (*tetherv1.StatPathResponse, error) {
	name, ok := f.at(req.GetPath())
	if !ok {
		return nil, link.Refuse(errdefs.ErrNotFound, "no such file or directory")
	}
	content, _ := f.File(name)
	mode := uint32(0o100644)
	if strings.HasSuffix(name, "/") {
		mode = 0o040755
	}
	return &tetherv1.StatPathResponse{Name: path.Base(name), Size: int64(len(content)), Mode: mode, MtimeUnixNano: 1}, nil
}

// meetTime is how long an Export waits for its download: a host that wants no more before they meet closes it. A real tether is more patient
// (tether/link/spec.md); a test that counts what is left is not.
const meetTime = 5 * time.Second

// Export implements link.Handler: a tar of what SetFile made at and below the path, or what OnExport writes.
func (f *Tether) Export(ctx context.Context, req *tetherv1.ExportRequest) (*tetherv1.ExportResponse, error) {
	var to io.Writer
	select {
	case to = <-f.download(req.GetDownload()):
	case <-time.After(meetTime):
		return nil, link.Refuse(errdefs.ErrFailedPrecondition, "nobody opened the download %q", req.GetDownload())
	case <-ctx.Done():
		return nil, link.Refuse(ctx.Err(), "%v", ctx.Err())
	}
	f.mu.Lock()
	f.exports = append(f.exports, req)
	write := f.export
	f.mu.Unlock()
	if write == nil {
		write = func(w io.Writer) error { return f.writeTar(w, req.GetPath()) }
	}
	err := write(to)
	to.(*transfer).done <- err
	if err != nil {
		return nil, link.Refuse(errdefs.ErrInternal, "%v", err)
	}
	return &tetherv1.ExportResponse{}, nil
}

func (f *Tether) writeTar(w io.Writer, name string) error {
	top, ok := f.at(name)
	if !ok {
		return link.Refuse(errdefs.ErrNotFound, "no such file or directory")
	}
	f.mu.Lock()
	files := maps.Clone(f.files)
	f.mu.Unlock()
	out := tar.NewWriter(w)
	for _, file := range slices.Sorted(maps.Keys(files)) {
		if file != top && !(strings.HasSuffix(top, "/") && strings.HasPrefix(file, top)) {
			continue
		}
		h := &tar.Header{
			Typeflag: tar.TypeReg, Name: path.Join(path.Base(top), strings.TrimPrefix(file, top)), Size: int64(len(files[file])), Mode: 0o644,
		}
		if strings.HasSuffix(file, "/") {
			h.Typeflag, h.Mode, h.Name = tar.TypeDir, 0o755, h.Name+"/"
		}
		if err := out.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.WriteString(out, files[file]); err != nil {
			return err
		}
	}
	return out.Close()
}

// transfer is a download on its way to its Export.
type transfer struct {
	io.Writer
	done chan error
}

func (f *Tether) download(id string) chan io.Writer {
	f.mu.Lock()
	defer f.mu.Unlock()
	ch := f.transfer[id]
	if ch == nil {
		ch = make(chan io.Writer)
		f.transfer[id] = ch
	}
	return ch
}

// Download implements link.Handler.
func (f *Tether) Download(ctx context.Context, id string, w io.Writer) error {
	t := &transfer{Writer: w, done: make(chan error, 1)}
	select {
	case f.download(id) <- t:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case err := <-t.done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Import implements link.Handler: files and directories of the tar become those of the fake.
func (f *Tether) Import(ctx context.Context, req *tetherv1.ImportRequest) (*tetherv1.ImportResponse, error) {
	u := f.upload(req.GetUpload())
	source, err := u.await(ctx)
	if err != nil {
		return nil, err
	}
	entries, err := f.readTar(source, req.GetPath())
	select {
	case u.taken <- err:
	case <-ctx.Done():
	}
	f.mu.Lock()
	f.imports = append(f.imports, req)
	delete(f.uploads, req.Upload)
	f.mu.Unlock()
	var refusal *link.Refusal
	if errors.As(err, &refusal) {
		return nil, refusal
	}
	if err != nil {
		return nil, link.Refuse(errdefs.ErrInvalidArgument, "%v", err)
	}
	return &tetherv1.ImportResponse{Entries: entries}, nil
}

func (f *Tether) readTar(r io.Reader, dir string) (entries uint64, err error) {
	at, ok := f.at(dir)
	if !ok {
		return 0, link.Refuse(errdefs.ErrNotFound, "no such file or directory")
	}
	if !strings.HasSuffix(at, "/") {
		return 0, link.Refuse(errdefs.ErrInvalidArgument, "extraction point is not a directory")
	}
	in := tar.NewReader(r)
	for {
		h, err := in.Next()
		if err == io.EOF {
			_, err = io.Copy(io.Discard, r)
			return entries, err
		}
		if err != nil {
			return entries, err
		}
		content, err := io.ReadAll(in)
		if err != nil {
			return entries, err
		}
		entries++
		name := path.Join(at, h.Name)
		if h.Typeflag == tar.TypeDir {
			name += "/"
		}
		f.SetFile(name, string(content))
	}
}
