package vim

import (
	"testing"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/containervm/containervm/hostd-bridge/internal/vm"
)

// A disk without a unit number is the root disk or a data disk, as there is room; what takes the place of a root disk that goes
// in the same call is not guessed.
func TestUnitsOfDisks(t *testing.T) {
	add := func(unit *int32) (*types.VirtualDeviceConfigSpec, *types.VirtualDisk) {
		d := &types.VirtualDisk{VirtualDevice: types.VirtualDevice{Key: -1, UnitNumber: unit, Backing: &types.VirtualDiskFlatVer2BackingInfo{}}}
		return &types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationAdd, Device: d}, d
	}
	remove := func(key int32) (*types.VirtualDeviceConfigSpec, *types.VirtualDisk) {
		d := &types.VirtualDisk{VirtualDevice: types.VirtualDevice{Key: key}}
		return &types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationRemove, Device: d}, d
	}
	var c vm.Change
	for n, unit := range []*int32{nil, nil, types.NewInt32(3), types.NewInt32(-1)} {
		spec, d := add(unit)
		if err := diskChange(n, spec, d, &c); err != nil {
			t.Fatal(err)
		}
	}
	if c.Disk == nil || c.Disk.Unit != vm.AnyUnit || len(c.DataDisks) != 3 || c.DataDisks[0].Unit != vm.AnyUnit || c.DataDisks[1].Unit != 3 {
		t.Errorf("root disk %+v, data disks %+v", c.Disk, c.DataDisks)
	}
	for _, key := range []int32{1999, 2016, 4000, -1, 0} {
		spec, d := remove(key)
		if err := diskChange(0, spec, d, &vm.Change{}); err == nil {
			t.Errorf("a disk with the key %d was removed", key)
		}
	}
	c = vm.Change{}
	spec, d := remove(2000)
	if err := diskChange(0, spec, d, &c); err != nil || c.Disk == nil || !c.Disk.Remove {
		t.Errorf("removal of the root disk: %+v, %v", c.Disk, err)
	}
	for _, unit := range []*int32{nil, types.NewInt32(0)} {
		spec, d := add(unit)
		if err := diskChange(1, spec, d, &c); err == nil {
			t.Error("the root disk was replaced in one call")
		}
	}
}
