package vim

import (
	"github.com/vmware/govmomi/vim25/types"

	"github.com/containervm/containervm/hostd-bridge/internal/vm"
)

func createPool(c *call, req *types.CreateResourcePool) (*types.CreateResourcePoolResponse, error) {
	p := vm.Pool{Name: req.Name, Parent: req.This.Value}
	setLimits(&p.CPU, req.Spec.CpuAllocation)
	setLimits(&p.Memory, req.Spec.MemoryAllocation)
	ref, err := c.server.Inventory.CreatePool(p)
	return &types.CreateResourcePoolResponse{Returnval: poolRef(ref)}, err
}

func updatePool(c *call, req *types.UpdateConfig) (*types.UpdateConfigResponse, error) {
	err := c.server.Inventory.UpdatePool(req.This.Value, func(p *vm.Pool) {
		if req.Name != "" {
			p.Name = req.Name
		}
		if req.Config != nil {
			setLimits(&p.CPU, req.Config.CpuAllocation)
			setLimits(&p.Memory, req.Config.MemoryAllocation)
		}
	})
	return &types.UpdateConfigResponse{}, err
}

// setLimits takes over what an allocation sets.
func setLimits(l *vm.Limits, a types.ResourceAllocationInfo) {
	if a.Reservation != nil {
		l.Reservation = *a.Reservation
	}
	if a.Limit != nil {
		l.Limit = *a.Limit
	}
	if a.Shares != nil {
		l.Shares = a.Shares.Shares
	}
}
