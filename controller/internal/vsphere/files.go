package vsphere

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"
)

// FileInfo describes a file of the datastore.
type FileInfo struct {
	Name      string // last element of its path
	Size      int64  // bytes
	Modified  time.Time
	Directory bool
}

// BootFiles are the datastore paths of what VMs are made from.
type BootFiles struct {
	Kernel string `json:"kernel"`
	Initrd string `json:"initrd"`
	Blank  string `json:"blank"` // disk with an empty file system
}

// bootIndex names the BootFiles of the host's release (DESIGN.md, "Datastore layout").
const bootIndex = "cvm/boot/current.json"

// maxBootIndex bounds bootIndex, in bytes.
const maxBootIndex = 64 << 10

// Boot returns what new VMs boot and what their disks begin with.
func (c *Client) Boot() BootFiles { return c.boot }

func (c *Client) readBoot(ctx context.Context) (boot BootFiles, err error) {
	r, err := c.Download(ctx, bootIndex)
	if err != nil {
		return boot, fmt.Errorf("cannot find what containers boot: %w", err)
	}
	defer r.Close()
	if err := json.NewDecoder(io.LimitReader(r, maxBootIndex)).Decode(&boot); err != nil {
		return boot, fmt.Errorf("cannot find what containers boot: cannot decode %s: %w", bootIndex, err)
	}
	if boot.Kernel == "" || boot.Initrd == "" || boot.Blank == "" {
		return boot, fmt.Errorf("cannot find what containers boot: %s lacks kernel, initrd or blank", bootIndex)
	}
	return boot, nil
}

// Upload writes a file of the datastore from r, replacing it. Paths here and below are relative to the datastore's root.
func (c *Client) Upload(ctx context.Context, name string, r io.Reader) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, c.fileURL(name), r)
	if err != nil {
		return fmt.Errorf("cannot upload %s: %w", name, err)
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	res, err := c.do(ctx, req)
	if err == nil && res.StatusCode == http.StatusCreated {
		res.StatusCode = http.StatusOK // a new file: as good
	}
	if err := answerError(res, err, http.StatusOK); err != nil {
		return fmt.Errorf("cannot upload %s: %w", name, err)
	}
	return res.Body.Close()
}

// Download reads a file of the datastore.
func (c *Client) Download(ctx context.Context, name string) (io.ReadCloser, error) {
	return c.get(ctx, name, 0)
}

// get reads a file, or if tail is not zero only its last bytes, as many.
func (c *Client) get(ctx context.Context, name string, tail int) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.fileURL(name), nil)
	if err != nil {
		return nil, fmt.Errorf("cannot download %s: %w", name, err)
	}
	want := http.StatusOK
	if tail != 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=-%d", tail)) // RFC 9110, 14.1.2: suffix range
		want = http.StatusPartialContent
	}
	res, err := c.do(ctx, req)
	if err == nil && res.StatusCode == http.StatusOK {
		want = http.StatusOK // a server may ignore the range
	}
	if err := answerError(res, err, want); err != nil {
		return nil, fmt.Errorf("cannot download %s: %w", name, err)
	}
	return res.Body, nil
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
