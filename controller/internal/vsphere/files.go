package vsphere

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/hostapi/hostclient"
)

// FileInfo describes a file of the datastore.
type FileInfo struct {
	Name      string // last element of its path
	Size      int64  // bytes
	Modified  time.Time
	Directory bool
}

// BootFiles are the datastore paths of what VMs are made from.
type BootFiles = hostapi.BootFiles

// Boot returns what new VMs boot and what their disks begin with.
func (c *Client) Boot() BootFiles { return c.boot }

func (c *Client) readBoot(ctx context.Context) (BootFiles, error) {
	r, err := c.Download(ctx, hostapi.BootIndex)
	if err != nil {
		return BootFiles{}, err
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, hostapi.MaxBootIndex+1))
	if err != nil {
		return BootFiles{}, err
	}
	if len(data) > hostapi.MaxBootIndex {
		return BootFiles{}, fmt.Errorf("cannot read %s: it is longer than %d bytes", hostapi.BootIndex, hostapi.MaxBootIndex)
	}
	return hostapi.DecodeBootFiles(data)
}

// Upload writes a file of the datastore from r, replacing it. Paths here and below are relative to the datastore's root.
func (c *Client) Upload(ctx context.Context, name string, r io.Reader) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, c.fileURL(name), r)
	if err != nil {
		return fmt.Errorf("cannot upload %s: %w", name, err)
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	res, err := c.exchange(req, http.StatusOK, http.StatusCreated)
	if err != nil {
		return fmt.Errorf("cannot upload %s: %w", name, err)
	}
	return res.Body.Close()
}

// Download reads a file of the datastore.
func (c *Client) Download(ctx context.Context, name string) (io.ReadCloser, error) {
	return c.get(ctx, name, "")
}

// get reads a file, or the part of it that a range names (RFC 9110, 14.1.2: "-9" is the last nine bytes, "0-8" the first nine); a server may
// send all of it.
func (c *Client) get(ctx context.Context, name, part string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.fileURL(name), nil)
	if err != nil {
		return nil, fmt.Errorf("cannot download %s: %w", name, err)
	}
	if part != "" {
		req.Header.Set("Range", "bytes="+part)
	}
	res, err := c.exchange(req, http.StatusOK, http.StatusPartialContent) // a server may ignore the range
	if err != nil {
		return nil, fmt.Errorf("cannot download %s: %w", name, err)
	}
	return res.Body, nil
}

// exchange sends a request and returns the answer if its status is one of those wanted.
func (c *Client) exchange(req *http.Request, want ...int) (*http.Response, error) {
	res, err := c.do(req)
	if err == nil && !slices.Contains(want, res.StatusCode) {
		return nil, hostclient.Refused(res)
	}
	return res, err
}

// Stat describes a file of the datastore. The error wraps errdefs.ErrNotFound when there is none.
func (c *Client) Stat(ctx context.Context, name string) (FileInfo, error) {
	dir, base := path.Split(name)
	files, err := c.search(ctx, path.Clean("/" + dir)[1:], base)
	if err != nil {
		return FileInfo{}, failed(err, "find %s", name)
	}
	for _, f := range files {
		if f.Name == base {
			return f, nil
		}
	}
	return FileInfo{}, fmt.Errorf("cannot find %s: %w", name, errdefs.ErrNotFound)
}

// ListFiles lists a directory of the datastore. The error wraps errdefs.ErrNotFound when there is none.
func (c *Client) ListFiles(ctx context.Context, dir string) ([]FileInfo, error) {
	files, err := c.search(ctx, dir, "*")
	return files, failed(err, "list %s", dir)
}

func (c *Client) search(ctx context.Context, dir, pattern string) ([]FileInfo, error) {
	browser, err := c.place.datastore.Browser(ctx)
	if err != nil {
		return nil, err
	}
	spec := types.HostDatastoreBrowserSearchSpec{
		MatchPattern: []string{pattern},
		Details:      &types.FileQueryFlags{FileSize: true, FileType: true, Modification: true, FileOwner: false},
	}
	result, err := c.run(ctx, func(ctx context.Context) (*object.Task, error) {
		return browser.SearchDatastore(ctx, c.path(dir), &spec)
	})
	if err != nil {
		return nil, err
	}
	found, ok := result.(types.HostDatastoreBrowserSearchResults)
	if !ok {
		return nil, fmt.Errorf("the host's task yields %T, not a list of files", result)
	}
	var files []FileInfo
	for _, f := range found.File {
		files = append(files, fileInfo(f))
	}
	return files, nil
}

func fileInfo(f types.BaseFileInfo) FileInfo {
	base := f.GetFileInfo()
	info := FileInfo{Name: strings.TrimSuffix(path.Base(base.Path), "/"), Size: base.FileSize}
	if base.Modification != nil {
		info.Modified = *base.Modification
	}
	_, info.Directory = f.(*types.FolderFileInfo)
	return info
}

// MoveFile renames a file of the datastore, replacing none.
func (c *Client) MoveFile(ctx context.Context, from, to string) error {
	files, dc := object.NewFileManager(c.vim), c.place.datacenter
	err := c.wait(ctx, func(ctx context.Context) (*object.Task, error) {
		return files.MoveDatastoreFile(ctx, c.path(from), dc, c.path(to), dc, false)
	})
	return failed(err, "move %s to %s", from, to)
}

// DeleteFile removes a file or directory of the datastore; one that does not exist is no error.
func (c *Client) DeleteFile(ctx context.Context, name string) error {
	files := object.NewFileManager(c.vim)
	err := c.wait(ctx, func(ctx context.Context) (*object.Task, error) {
		return files.DeleteDatastoreFile(ctx, c.path(name), c.place.datacenter)
	})
	if fault.Is(err, &types.FileNotFound{}) {
		return nil
	}
	return failed(err, "delete %s", name)
}

// MakeDirectory makes a directory of the datastore and what is missing above it; one that exists is no error.
func (c *Client) MakeDirectory(ctx context.Context, name string) error {
	err := object.NewFileManager(c.vim).MakeDirectory(ctx, c.path(name), c.place.datacenter, true)
	if fault.Is(err, &types.FileAlreadyExists{}) {
		return nil
	}
	return failed(err, "make directory %s", name)
}

// fileURL is the address of a file of the datastore (vSphere's "/folder").
func (c *Client) fileURL(name string) string {
	u := c.place.datastore.NewURL(name)
	u.User = nil
	return u.String()
}
