package vim

import (
	"context"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/datastore"
)

// inDatacenter says whether the datacenter that a call names is the one that there is.
func inDatacenter(refs ...*types.ManagedObjectReference) error {
	for _, ref := range refs {
		if ref != nil && *ref != datacenterRef {
			return notFound(*ref)
		}
	}
	return nil
}

// thin refuses a kind of disk that this host does not make.
func thin(spec types.BaseVirtualDiskSpec) error {
	if spec == nil {
		return nil
	}
	if kind := spec.GetVirtualDiskSpec().DiskType; kind != "" && kind != string(types.VirtualDiskTypeThin) {
		return invalidArgument("spec.diskType", "a disk of this host is %s, not %s", types.VirtualDiskTypeThin, kind)
	}
	return nil
}

func createDisk(c *call, req *types.CreateVirtualDisk_Task) (*types.CreateVirtualDisk_TaskResponse, error) {
	rel, err := datastore.ParsePath(req.Name)
	if err == nil {
		err = inDatacenter(req.Datacenter)
	}
	if err != nil {
		return nil, err
	}
	if spec, ok := req.Spec.(*types.FileBackedVirtualDiskSpec); ok && spec.CapacityKb > hostapi.DiskBytes>>10 {
		return nil, invalidArgument("spec.capacityKb", "every new disk has %d GiB, more is not possible: ExtendVirtualDisk_Task makes one larger", hostapi.DiskBytes>>30)
	}
	return &types.CreateVirtualDisk_TaskResponse{Returnval: c.fileTask(func(ctx context.Context) (types.AnyType, error) {
		return req.Name, c.server.Inventory.CreateDisk(ctx, rel)
	})}, nil
}

func copyDisk(c *call, req *types.CopyVirtualDisk_Task) (*types.CopyVirtualDisk_TaskResponse, error) {
	from, to, err := twoPaths(req.SourceName, req.DestName)
	if err == nil {
		err = inDatacenter(req.SourceDatacenter, req.DestDatacenter)
	}
	if err == nil {
		err = thin(req.DestSpec)
	}
	if err != nil {
		return nil, err
	}
	return &types.CopyVirtualDisk_TaskResponse{Returnval: c.fileTask(func(ctx context.Context) (types.AnyType, error) {
		return nil, c.server.Inventory.CopyDisk(ctx, from, to, isTrue(req.Force))
	})}, nil
}

func moveDisk(c *call, req *types.MoveVirtualDisk_Task) (*types.MoveVirtualDisk_TaskResponse, error) {
	from, to, err := twoPaths(req.SourceName, req.DestName)
	if err == nil {
		err = inDatacenter(req.SourceDatacenter, req.DestDatacenter)
	}
	if err != nil {
		return nil, err
	}
	if len(req.Profile) > 0 {
		return nil, invalidArgument("profile", "this host has no storage profiles")
	}
	return &types.MoveVirtualDisk_TaskResponse{Returnval: c.fileTask(func(ctx context.Context) (types.AnyType, error) {
		return nil, c.server.Inventory.MoveDisk(ctx, from, to, isTrue(req.Force))
	})}, nil
}

func extendDisk(c *call, req *types.ExtendVirtualDisk_Task) (*types.ExtendVirtualDisk_TaskResponse, error) {
	rel, err := datastore.ParsePath(req.Name)
	if err == nil {
		err = inDatacenter(req.Datacenter)
	}
	if err != nil {
		return nil, err
	}
	if isTrue(req.EagerZero) {
		return nil, invalidArgument("eagerZero", "a disk of this host is thin")
	}
	if req.NewCapacityKb < 0 || req.NewCapacityKb > hostapi.MaxDiskBytes>>10 {
		return nil, invalidArgument("newCapacityKb", "%d: a disk has %d at most", req.NewCapacityKb, hostapi.MaxDiskBytes>>10)
	}
	return &types.ExtendVirtualDisk_TaskResponse{Returnval: c.fileTask(func(ctx context.Context) (types.AnyType, error) {
		return nil, c.server.Inventory.ExtendDisk(ctx, rel, req.NewCapacityKb<<10)
	})}, nil
}

func deleteDisk(c *call, req *types.DeleteVirtualDisk_Task) (*types.DeleteVirtualDisk_TaskResponse, error) {
	rel, err := datastore.ParsePath(req.Name)
	if err == nil {
		err = inDatacenter(req.Datacenter)
	}
	if err != nil {
		return nil, err
	}
	return &types.DeleteVirtualDisk_TaskResponse{Returnval: c.fileTask(func(ctx context.Context) (types.AnyType, error) {
		return nil, c.server.Inventory.DeleteDisk(ctx, rel)
	})}, nil
}

// What follows is vSphere's, and not in its published API: govc's datastore.disk.info uses it. The names of types and elements are those of
// govmomi's object/internal.
type (
	// QueryVirtualDiskInfo_Task asks what a disk is made of.
	QueryVirtualDiskInfo_Task struct { //nolint:revive,staticcheck // the method's name
		This           types.ManagedObjectReference  `xml:"_this"`
		Name           string                        `xml:"name"`
		Datacenter     *types.ManagedObjectReference `xml:"datacenter,omitempty"`
		IncludeParents bool                          `xml:"includeParents"`
	}
	// QueryVirtualDiskInfo_TaskResponse answers with a task, whose result is an ArrayOfVirtualDiskInfo.
	QueryVirtualDiskInfo_TaskResponse struct { //nolint:revive,staticcheck // see above
		Returnval types.ManagedObjectReference `xml:"returnval"`
	}
	// ArrayOfVirtualDiskInfo are the files of a disk, its own first.
	ArrayOfVirtualDiskInfo struct {
		VirtualDiskInfo []VirtualDiskInfo `xml:"VirtualDiskInfo,omitempty"`
	}
	// VirtualDiskInfo is one of them.
	VirtualDiskInfo struct {
		Name     string `xml:"unit>name"`
		DiskType string `xml:"diskType"`
		Parent   string `xml:"parent,omitempty"`
	}
)

func queryDisk(c *call, req *QueryVirtualDiskInfo_Task) (*QueryVirtualDiskInfo_TaskResponse, error) {
	rel, err := datastore.ParsePath(req.Name)
	if err == nil {
		err = inDatacenter(req.Datacenter)
	}
	if err != nil {
		return nil, err
	}
	return &QueryVirtualDiskInfo_TaskResponse{Returnval: c.fileTask(func(ctx context.Context) (types.AnyType, error) {
		files, err := c.server.Inventory.Chain(ctx, rel)
		if err != nil {
			return nil, err
		}
		var out ArrayOfVirtualDiskInfo
		for n, file := range files {
			info := VirtualDiskInfo{Name: datastore.FormatPath(file), DiskType: string(types.VirtualDiskTypeThin)}
			if n+1 < len(files) {
				info.Parent = datastore.FormatPath(files[n+1])
			}
			if n == 0 || req.IncludeParents {
				out.VirtualDiskInfo = append(out.VirtualDiskInfo, info)
			}
		}
		return out, nil
	})}, nil
}
