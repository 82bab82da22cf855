package daemon_test

import (
	"strings"
	"testing"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/containervm/containervm/hostd-bridge/daemon/daemontest"
)

// govc makes, copies, extends, describes, moves and removes disks.
func TestGovcDatastoreDisks(t *testing.T) {
	e := daemontest.Start(t, nil).Endpoint
	source := bootFile(t, e, "volume")
	source = strings.TrimPrefix(source, "[local] ")
	mustGovc(t, e, "datastore.mkdir", "cvm-volumes")
	mustGovc(t, e, "datastore.cp", source, "cvm-volumes/v.vmdk")
	wants(t, mustGovc(t, e, "datastore.disk.info", "cvm-volumes/v.vmdk"), "cvm-volumes/v.vmdk", "thin")
	mustGovc(t, e, "datastore.disk.extend", "-size", "100G", "cvm-volumes/v.vmdk")
	for _, refused := range [][]string{
		{"datastore.cp", source, "cvm-volumes/v.vmdk"},
		{"datastore.disk.extend", "-size", "1G", "cvm-volumes/v.vmdk"},
		{"datastore.disk.extend", "-size", "5T", "cvm-volumes/v.vmdk"},
		{"datastore.disk.extend", "-size", "200G", "-eagerZero", "cvm-volumes/v.vmdk"},
		{"datastore.disk.create", "-size", "100G", "disks/new.vmdk"},
		{"datastore.disk.info", "cvm-volumes/none.vmdk"},
		{"datastore.disk.shrink", "cvm-volumes/v.vmdk"},
		{"datastore.disk.inflate", "cvm-volumes/v.vmdk"},
	} {
		if out, err := govc(t, e, refused...); err == nil {
			t.Errorf("govc %v: %s", refused, out)
		}
	}
	mustGovc(t, e, "datastore.disk.create", "-size", "10G", "disks/new.vmdk")
	wants(t, mustGovc(t, e, "datastore.disk.info", "-p", "-c", "disks/new.vmdk"), "disks/new.vmdk", "cvm/blank-")
	if out, err := govc(t, e, "datastore.cp", "disks/new.vmdk", "disks/copy.vmdk"); err == nil || !strings.Contains(out, "is a delta of") {
		t.Errorf("a copy of a delta: %v: %s", err, out)
	}
	mustGovc(t, e, "datastore.mv", "cvm-volumes/v.vmdk", "cvm-volumes/w.vmdk")
	mustGovc(t, e, "datastore.rm", "cvm-volumes/w.vmdk")
	if out, err := govc(t, e, "datastore.rm", "cvm-volumes/w.vmdk"); err == nil {
		t.Errorf("removed twice: %s", out)
	}
}

// govc attaches, shows and detaches data disks; a second writer hears who has the disk.
func TestGovcDataDisks(t *testing.T) {
	h := daemontest.Start(t, nil)
	e, c := h.Endpoint, connect(t, h.Endpoint)
	source := strings.TrimPrefix(bootFile(t, e, "volume"), "[local] ")
	mustGovc(t, e, "datastore.mkdir", "cvm-volumes")
	mustGovc(t, e, "datastore.cp", source, "cvm-volumes/v.vmdk")
	mustGovc(t, e, "datastore.disk.extend", "-size", "100G", "cvm-volumes/v.vmdk")
	one := runningVM(t, e, c, "one")
	two := newVM(t, e, c, "two")
	mustGovc(t, e, "vm.disk.create", "-vm", "one", "-name", "one/root", "-size", "1GB")
	mustGovc(t, e, "vm.disk.attach", "-vm", "one", "-link=false", "-disk", "cvm-volumes/v.vmdk")
	wants(t, mustGovc(t, e, "device.ls", "-vm", "one"), "disk-1000-0", "disk-1000-1")
	wants(t, mustGovc(t, e, "device.info", "-vm", "one", "disk-1000-1"), "104857600 KB", "[local] cvm-volumes/v.vmdk")
	if disks := h.Hypervisor.Machine(one.Value).DataDisks(); len(disks) != 1 || disks[1].ReadOnly {
		t.Errorf("the machine has %+v", disks)
	}
	mustGovc(t, e, "vm.disk.create", "-vm", "two", "-name", "two/root", "-size", "1GB")
	mustGovc(t, e, "vm.disk.attach", "-vm", "two", "-link=false", "-disk", "cvm-volumes/v.vmdk", "-mode", "independent_nonpersistent")
	if out, err := govc(t, e, "vm.power", "-on", "two"); err == nil || !strings.Contains(out, "disk [local] cvm-volumes/v.vmdk is locked: VM one writes to it") {
		t.Errorf("a reader beside a writer: %v: %s", err, out)
	}
	task, err := object.NewVirtualMachine(c.Client, two).PowerOn(t.Context())
	if err == nil {
		err = task.Wait(t.Context())
	}
	if !isFault(err, &types.FileLocked{}) {
		t.Errorf("a reader beside a writer: %v, want FileLocked", err)
	}
	if out, err := govc(t, e, "datastore.rm", "cvm-volumes/v.vmdk"); err == nil || !strings.Contains(out, "needs it") {
		t.Errorf("deleted: %v: %s", err, out)
	}
	for what, args := range map[string][]string{
		"extended while in use": {"datastore.disk.extend", "-size", "200G", "cvm-volumes/v.vmdk"},
		"destroyed with its VM": {"device.remove", "-vm", "one", "disk-1000-1"},
	} {
		if out, err := govc(t, e, args...); err == nil || !strings.Contains(out, "VM one") {
			t.Errorf("%s: %v: %s", what, err, out)
		}
	}
	mustGovc(t, e, "device.remove", "-vm", "one", "-keep", "disk-1000-1")
	if disks := h.Hypervisor.Machine(one.Value).DataDisks(); len(disks) != 0 {
		t.Errorf("the machine has %+v", disks)
	}
	mustGovc(t, e, "vm.power", "-on", "two")
	wants(t, mustGovc(t, e, "device.info", "-json", "-vm", "two", "disk-1000-1"), "independent_nonpersistent")
	mustGovc(t, e, "vm.power", "-off", "two")
	mustGovc(t, e, "vm.destroy", "two")
	mustGovc(t, e, "datastore.rm", "cvm-volumes/v.vmdk")
	wants(t, mustGovc(t, e, "object.collect", "-s", "/ha-datacenter/vm/one", "summary.config.numVirtualDisks"), "1")
}

// What vSphere has of disks and this host has not is refused by name, in all calls that add one.
func TestDataDiskFaults(t *testing.T) {
	h := daemontest.Start(t, freezer)
	c := connect(t, h.Endpoint)
	mustGovc(t, h.Endpoint, "datastore.mkdir", "cvm-volumes")
	mustGovc(t, h.Endpoint, "datastore.cp", strings.TrimPrefix(bootFile(t, h.Endpoint, "volume"), "[local] "), "cvm-volumes/v.vmdk")
	source := frozenVM(t, h.Endpoint, c, "template")
	add := func(edit func(*types.VirtualDisk, *types.VirtualDiskFlatVer2BackingInfo)) types.BaseVirtualDeviceConfigSpec {
		d := disk("[local] cvm-volumes/v.vmdk", "")
		d.UnitNumber = types.NewInt32(1)
		edit(d, d.Backing.(*types.VirtualDiskFlatVer2BackingInfo))
		return &types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationAdd, Device: d}
	}
	for what, edit := range map[string]func(*types.VirtualDisk, *types.VirtualDiskFlatVer2BackingInfo){
		"nonpersistent": func(_ *types.VirtualDisk, b *types.VirtualDiskFlatVer2BackingInfo) { b.DiskMode = "nonpersistent" },
		"undoable":      func(_ *types.VirtualDisk, b *types.VirtualDiskFlatVer2BackingInfo) { b.DiskMode = "undoable" },
		"append":        func(_ *types.VirtualDisk, b *types.VirtualDiskFlatVer2BackingInfo) { b.DiskMode = "append" },
		"multiwriter":   func(_ *types.VirtualDisk, b *types.VirtualDiskFlatVer2BackingInfo) { b.Sharing = "sharingMultiWriter" },
		"root read-only": func(d *types.VirtualDisk, b *types.VirtualDiskFlatVer2BackingInfo) {
			d.UnitNumber, b.DiskMode = nil, "independent_nonpersistent"
		},
		"unit 7":    func(d *types.VirtualDisk, _ *types.VirtualDiskFlatVer2BackingInfo) { d.UnitNumber = types.NewInt32(7) },
		"unit 16":   func(d *types.VirtualDisk, _ *types.VirtualDiskFlatVer2BackingInfo) { d.UnitNumber = types.NewInt32(16) },
		"unit -3":   func(d *types.VirtualDisk, _ *types.VirtualDiskFlatVer2BackingInfo) { d.UnitNumber = types.NewInt32(-3) },
		"other bus": func(d *types.VirtualDisk, _ *types.VirtualDiskFlatVer2BackingInfo) { d.ControllerKey = 15000 },
		"other backing": func(d *types.VirtualDisk, _ *types.VirtualDiskFlatVer2BackingInfo) {
			d.Backing = &types.VirtualDiskSparseVer2BackingInfo{}
		},
		"parent of its": func(_ *types.VirtualDisk, b *types.VirtualDiskFlatVer2BackingInfo) {
			b.Parent = &types.VirtualDiskFlatVer2BackingInfo{VirtualDeviceFileBackingInfo: types.VirtualDeviceFileBackingInfo{FileName: "[local] x.vmdk"}}
		},
		"raw device": func(d *types.VirtualDisk, _ *types.VirtualDiskFlatVer2BackingInfo) {
			d.Backing = &types.VirtualDiskRawDiskMappingVer1BackingInfo{}
		},
	} {
		s := spec(t, h.Endpoint, "new")
		s.DeviceChange = append(s.DeviceChange, add(edit))
		if _, err := create(t, c, s); !isFault(err, &types.InvalidDeviceSpec{}) {
			t.Errorf("%s: created: %v", what, err)
		}
		clone := types.VirtualMachineInstantCloneSpec{Name: "x"}
		clone.Location.DeviceChange = append(clone.Location.DeviceChange, add(edit))
		if _, err := instantClone(t, c, source, clone); !isFault(err, &types.InvalidDeviceSpec{}) {
			t.Errorf("%s: cloned: %v", what, err)
		}
	}
	clone := types.VirtualMachineInstantCloneSpec{Name: "child"}
	clone.Location.DeviceChange = append(clone.Location.DeviceChange, add(func(*types.VirtualDisk, *types.VirtualDiskFlatVer2BackingInfo) {}))
	ref, err := instantClone(t, c, source, clone)
	if err != nil {
		t.Fatal(err)
	}
	if disks := h.Hypervisor.Machine(ref.Value).DataDisks(); len(disks) != 1 {
		t.Errorf("the child has %+v", disks)
	}
	frozen := object.NewVirtualMachine(c.Client, source)
	change := types.VirtualMachineConfigSpec{DeviceChange: clone.Location.DeviceChange}
	task, err := frozen.Reconfigure(t.Context(), change)
	if err == nil {
		err = task.Wait(t.Context())
	}
	if !isFault(err, &types.InvalidState{}) {
		t.Errorf("a disk for a frozen VM: %v", err)
	}
}
