package vim

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/containervm/containervm/hostd-bridge/internal/datastore"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// vm returns the VM that a request is for.
func (c *call) vm(ref types.ManagedObjectReference) (*vm.VM, error) {
	if v, ok := c.server.Inventory.Get(ref.Value); ok && ref.Type == "VirtualMachine" {
		return v, nil
	}
	return nil, notFound(ref)
}

// vmTask starts a task on a VM.
func (c *call) vmTask(ref types.ManagedObjectReference, do func(ctx context.Context, ref string) error) (types.ManagedObjectReference, error) {
	v, err := c.vm(ref)
	if err != nil {
		return types.ManagedObjectReference{}, err
	}
	return c.server.tasks.start(c, ref, v.Name, func(ctx context.Context) (types.AnyType, error) {
		return nil, do(ctx, v.Ref)
	}), nil
}

func createVM(c *call, req *types.CreateVM_Task) (*types.CreateVM_TaskResponse, error) {
	if req.This != vmFolderRef {
		return nil, notFound(req.This)
	}
	if req.Host != nil && *req.Host != hostRef {
		return nil, notFound(*req.Host)
	}
	change, err := vmChange(c.server.Inventory, nil, &req.Config)
	if err != nil {
		return nil, err
	}
	config, err := newConfig(&req.Config, req.Pool, change)
	if err != nil {
		return nil, err
	}
	task := c.server.tasks.start(c, req.This, config.Name, func(ctx context.Context) (types.AnyType, error) {
		ref, err := c.server.Inventory.Create(ctx, config, change.Disk, change.DataDisks...)
		if err != nil {
			return nil, err
		}
		return vmRef(ref), nil
	})
	return &types.CreateVM_TaskResponse{Returnval: task}, nil
}

// newConfig returns the configuration of a VM to be made.
func newConfig(spec *types.VirtualMachineConfigSpec, pool types.ManagedObjectReference, change *vm.Change) (vm.Config, error) {
	home, err := homeOf(spec.Files)
	return vm.Config{
		Name: change.Name, Pool: pool.Value, UUID: change.UUID, InstanceUUID: spec.InstanceUuid, GuestID: change.GuestID,
		Annotation: change.Annotation, Home: home, CPUs: max(change.CPUs, 1), MemoryMiB: change.MemoryMiB,
		CPULimit: limitOf(change), NICs: change.Cards.Add, Extra: change.Extra,
	}, err
}

func limitOf(change *vm.Change) int64 {
	if change.CPULimit == nil {
		return 0
	}
	return *change.CPULimit
}

// homeOf returns the directory that a new VM asks for: vmPathName names it, or the .vmx file in it, or only a datastore.
func homeOf(files *types.VirtualMachineFileInfo) (string, error) {
	if files == nil || files.VmPathName == "" {
		return "", nil
	}
	rel, err := datastore.ParsePath(files.VmPathName)
	if err != nil {
		return "", err
	}
	if strings.HasSuffix(rel, ".vmx") {
		rel = path.Dir(rel)
	}
	if rel == "." {
		rel = ""
	}
	return rel, nil
}

// vmChange returns what a spec asks for. in has the networks of its cards; v is the VM that is changed; nil: one that is to be made.
func vmChange(in networks, v *vm.VM, spec *types.VirtualMachineConfigSpec) (*vm.Change, error) {
	change := &vm.Change{
		Name: spec.Name, UUID: spec.Uuid, GuestID: spec.GuestId, Annotation: spec.Annotation, CPUs: int(spec.NumCPUs),
	}
	if spec.ChangeVersion != "" {
		var err error
		if change.Version, err = strconv.Atoi(spec.ChangeVersion); err != nil || change.Version <= 0 {
			return nil, invalidArgument("changeVersion", "%q is no version of a configuration", spec.ChangeVersion)
		}
	}
	if spec.MemoryMB < 0 || spec.MemoryMB > 1<<31-1 || spec.NumCPUs < 0 {
		return nil, invalidArgument("memoryMB", "memory %d MB, %d CPUs: out of range", spec.MemoryMB, spec.NumCPUs)
	}
	change.MemoryMiB = int(spec.MemoryMB)
	if err := allocations(spec, change); err != nil {
		return nil, err
	}
	change.Extra = map[string]string{}
	for _, option := range spec.ExtraConfig {
		o := option.GetOptionValue()
		change.Extra[o.Key] = text(o.Value)
	}
	return change, deviceChanges(in, v, spec.DeviceChange, change)
}

// allocations takes over the limit of CPU time. Whatever else a VM may be guaranteed or denied by its allocations it is not here.
func allocations(spec *types.VirtualMachineConfigSpec, change *vm.Change) error {
	for _, of := range []struct {
		what string
		info *types.ResourceAllocationInfo
	}{{"cpuAllocation", spec.CpuAllocation}, {"memoryAllocation", spec.MemoryAllocation}} {
		switch what, a := of.what, of.info; {
		case a == nil:
		case a.Reservation != nil && *a.Reservation != 0:
			return fault(&types.NotSupported{}, "%s: this host reserves nothing for single VMs.", what)
		case a.Shares != nil && a.Shares.Level != types.SharesLevelNormal:
			return fault(&types.NotSupported{}, "%s: all VMs of this host have the same shares.", what)
		case a.Limit != nil && *a.Limit != vm.Unlimited && a != spec.CpuAllocation:
			return fault(&types.NotSupported{}, "%s: a VM of this host has no limit of memory but its size.", what)
		}
	}
	if a := spec.CpuAllocation; a != nil && a.Limit != nil {
		limit := *a.Limit
		if limit == vm.Unlimited {
			limit = 0
		} else if limit <= 0 {
			return invalidArgument("cpuAllocation.limit", "%d MHz: out of range", limit)
		}
		change.CPULimit = &limit
	}
	return nil
}

// text returns an option's value, which clients send as any simple type.
func text(value any) string {
	if value == nil {
		return ""
	}
	return fmt.Sprint(value)
}

func reconfigureVM(c *call, req *types.ReconfigVM_Task) (*types.ReconfigVM_TaskResponse, error) {
	v, err := c.vm(req.This)
	if err != nil {
		return nil, err
	}
	change, err := vmChange(c.server.Inventory, v, &req.Spec)
	if err != nil {
		return nil, err
	}
	task, err := c.vmTask(req.This, func(ctx context.Context, ref string) error {
		return c.server.Inventory.Reconfigure(ctx, ref, *change)
	})
	return &types.ReconfigVM_TaskResponse{Returnval: task}, err
}

func powerOnVM(c *call, req *types.PowerOnVM_Task) (*types.PowerOnVM_TaskResponse, error) {
	task, err := c.vmTask(req.This, c.server.Inventory.PowerOn)
	return &types.PowerOnVM_TaskResponse{Returnval: task}, err
}

func powerOffVM(c *call, req *types.PowerOffVM_Task) (*types.PowerOffVM_TaskResponse, error) {
	task, err := c.vmTask(req.This, c.server.Inventory.PowerOff)
	return &types.PowerOffVM_TaskResponse{Returnval: task}, err
}

func resetVM(c *call, req *types.ResetVM_Task) (*types.ResetVM_TaskResponse, error) {
	task, err := c.vmTask(req.This, c.server.Inventory.Reset)
	return &types.ResetVM_TaskResponse{Returnval: task}, err
}

// suspendVM is refused: a suspended VM would need a place for its memory on disk, and nothing here would use it.
func suspendVM(*call, *types.SuspendVM_Task) (*types.SuspendVM_TaskResponse, error) {
	return nil, fault(&types.NotSupported{}, "VMs of this host cannot be suspended to disk.")
}

func rename(c *call, req *types.Rename_Task) (*types.Rename_TaskResponse, error) {
	do, err := c.renaming(req)
	if err != nil {
		return nil, err
	}
	task := c.server.tasks.start(c, req.This, req.NewName, func(ctx context.Context) (types.AnyType, error) {
		return nil, do(ctx)
	})
	return &types.Rename_TaskResponse{Returnval: task}, nil
}

func (c *call) renaming(req *types.Rename_Task) (func(context.Context) error, error) {
	if req.NewName == "" {
		return nil, fault(&types.InvalidName{}, "a name is needed")
	}
	inv := c.server.Inventory
	switch req.This.Type {
	case "VirtualMachine":
		if _, err := c.vm(req.This); err != nil {
			return nil, err
		}
		return func(ctx context.Context) error {
			return inv.Reconfigure(ctx, req.This.Value, vm.Change{Name: req.NewName})
		}, nil
	case "ResourcePool":
		return func(context.Context) error {
			return inv.UpdatePool(req.This.Value, func(p *vm.Pool) { p.Name = req.NewName })
		}, nil
	}
	return nil, fault(&types.NotSupported{}, "A %s of this host cannot be renamed.", req.This.Type)
}

func destroy(c *call, req *types.Destroy_Task) (*types.Destroy_TaskResponse, error) {
	switch req.This.Type {
	case "VirtualMachine":
		task, err := c.vmTask(req.This, c.server.Inventory.Destroy)
		return &types.Destroy_TaskResponse{Returnval: task}, err
	case "ResourcePool":
		p, ok := c.server.Inventory.Pool(req.This.Value)
		if !ok {
			return nil, notFound(req.This)
		}
		task := c.server.tasks.start(c, req.This, p.Name, func(context.Context) (types.AnyType, error) {
			return nil, c.server.Inventory.DestroyPool(p.Ref)
		})
		return &types.Destroy_TaskResponse{Returnval: task}, nil
	}
	return nil, fault(&types.NotSupported{}, "A %s of this host cannot be destroyed.", req.This.Type)
}

// shutdownGuest asks the tether to stop the container and power off; it answers when the tether has been told.
func shutdownGuest(c *call, req *types.ShutdownGuest) (*types.ShutdownGuestResponse, error) {
	v, err := c.vm(req.This)
	if err != nil {
		return nil, err
	}
	m, err := c.server.Inventory.Live(v.Ref)
	if err != nil {
		return nil, err
	}
	if err := askToStop(c.ctx, m, stopRequest(v)); err != nil {
		return nil, fault(&types.ToolsUnavailable{}, "cannot ask VM %s to shut down: %v", v.Name, err)
	}
	return &types.ShutdownGuestResponse{}, nil
}

// stopRequest is a stop as the VM's Spec wants it when nobody says how.
func stopRequest(v *vm.VM) *tetherv1.StopRequest {
	req := &tetherv1.StopRequest{GraceSeconds: link.DefaultStopGrace}
	if spec, err := link.DecodeSpec(v.Extra[link.KeySpec]); err == nil && spec.GetStopGraceSeconds() != 0 {
		req.GraceSeconds = spec.GetStopGraceSeconds()
	}
	return req
}

// askToStop returns when the tether has answered, or is gone: one that powers off at once may not get to answer.
func askToStop(ctx context.Context, m vm.Machine, req *tetherv1.StopRequest) error {
	conn, err := m.Dial(ctx, link.PortLink)
	if err != nil {
		return err
	}
	client, err := link.NewClient(ctx, conn)
	if err != nil {
		return err
	}
	defer client.Close()
	if _, err = client.Tether().Stop(ctx, req); errors.Is(err, link.ErrLost) {
		return nil
	}
	return err
}
