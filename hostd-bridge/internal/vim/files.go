package vim

import (
	"context"
	"io/fs"
	"path"
	"strings"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/containervm/containervm/hostd-bridge/internal/datastore"
)

// fileTask starts a task on the datastore's files.
func (c *call) fileTask(do func(ctx context.Context) (types.AnyType, error)) types.ManagedObjectReference {
	return c.server.tasks.start(c, datastoreRef, datastore.Name, do)
}

func moveFile(c *call, req *types.MoveDatastoreFile_Task) (*types.MoveDatastoreFile_TaskResponse, error) {
	from, to, err := twoPaths(req.SourceName, req.DestinationName)
	if err != nil {
		return nil, err
	}
	return &types.MoveDatastoreFile_TaskResponse{Returnval: c.fileTask(func(ctx context.Context) (types.AnyType, error) {
		return nil, c.server.Inventory.MoveFile(ctx, from, to, isTrue(req.Force))
	})}, nil
}

func copyFile(c *call, req *types.CopyDatastoreFile_Task) (*types.CopyDatastoreFile_TaskResponse, error) {
	from, to, err := twoPaths(req.SourceName, req.DestinationName)
	if err != nil {
		return nil, err
	}
	return &types.CopyDatastoreFile_TaskResponse{Returnval: c.fileTask(func(ctx context.Context) (types.AnyType, error) {
		return nil, c.server.Inventory.CopyFile(ctx, from, to, isTrue(req.Force))
	})}, nil
}

func twoPaths(source, destination string) (from, to string, err error) {
	if from, err = datastore.ParsePath(source); err == nil {
		to, err = datastore.ParsePath(destination)
	}
	return from, to, err
}

func deleteFile(c *call, req *types.DeleteDatastoreFile_Task) (*types.DeleteDatastoreFile_TaskResponse, error) {
	rel, err := datastore.ParsePath(req.Name)
	if err != nil {
		return nil, err
	}
	return &types.DeleteDatastoreFile_TaskResponse{Returnval: c.fileTask(func(ctx context.Context) (types.AnyType, error) {
		return nil, c.server.Inventory.RemoveFile(ctx, rel)
	})}, nil
}

func makeDirectory(c *call, req *types.MakeDirectory) (*types.MakeDirectoryResponse, error) {
	rel, err := datastore.ParsePath(req.Name)
	if err != nil {
		return nil, err
	}
	return &types.MakeDirectoryResponse{}, c.server.Store.Mkdir(rel, isTrue(req.CreateParentDirectories))
}

func searchDatastore(c *call, req *types.SearchDatastore_Task) (*types.SearchDatastore_TaskResponse, error) {
	rel, err := datastore.ParsePath(req.DatastorePath)
	if err != nil {
		return nil, err
	}
	return &types.SearchDatastore_TaskResponse{Returnval: c.fileTask(func(context.Context) (types.AnyType, error) {
		return c.server.list(rel, req.SearchSpec)
	})}, nil
}

func searchSubFolders(c *call, req *types.SearchDatastoreSubFolders_Task) (*types.SearchDatastoreSubFolders_TaskResponse, error) {
	rel, err := datastore.ParsePath(req.DatastorePath)
	if err != nil {
		return nil, err
	}
	return &types.SearchDatastoreSubFolders_TaskResponse{Returnval: c.fileTask(func(ctx context.Context) (types.AnyType, error) {
		out := types.ArrayOfHostDatastoreBrowserSearchResults{}
		err := c.server.listTree(ctx, rel, req.SearchSpec, &out.HostDatastoreBrowserSearchResults)
		return out, err
	})}, nil
}

func (s *Server) listTree(ctx context.Context, rel string, spec *types.HostDatastoreBrowserSearchSpec, out *[]types.HostDatastoreBrowserSearchResults) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	here, err := s.list(rel, spec)
	if err != nil {
		return err
	}
	*out = append(*out, here)
	infos, err := s.Store.List(rel)
	if err != nil {
		return err
	}
	for _, info := range infos {
		if info.IsDir() {
			if err := s.listTree(ctx, path.Join(rel, info.Name()), spec, out); err != nil {
				return err
			}
		}
	}
	return nil
}

// list returns the files of a directory that a search asks for.
func (s *Server) list(rel string, spec *types.HostDatastoreBrowserSearchSpec) (types.HostDatastoreBrowserSearchResults, error) {
	store := datastoreRef
	out := types.HostDatastoreBrowserSearchResults{Datastore: &store, FolderPath: datastore.FormatPath(rel)}
	if spec == nil {
		spec = &types.HostDatastoreBrowserSearchSpec{}
	}
	infos, err := s.Store.List(rel)
	if err != nil {
		return out, err
	}
	for _, info := range infos {
		if matches(info.Name(), spec.MatchPattern) {
			out.File = append(out.File, fileInfo(info, spec.Details))
		}
	}
	return out, nil
}

// matches says whether a name fits one of the patterns; no pattern fits all.
func matches(name string, patterns []string) bool {
	for _, p := range patterns {
		if ok, err := path.Match(p, name); ok && err == nil {
			return true
		}
	}
	return len(patterns) == 0
}

func fileInfo(info fs.FileInfo, details *types.FileQueryFlags) types.BaseFileInfo {
	f := types.FileInfo{Path: info.Name()}
	if details != nil {
		if details.FileSize && !info.IsDir() {
			f.FileSize = info.Size()
		}
		if details.Modification {
			modified := info.ModTime().UTC()
			f.Modification = &modified
		}
	}
	switch {
	case info.IsDir():
		return &types.FolderFileInfo{FileInfo: f}
	case strings.HasSuffix(info.Name(), ".vmdk"):
		return &types.VmDiskFileInfo{FileInfo: f}
	}
	return &f
}
