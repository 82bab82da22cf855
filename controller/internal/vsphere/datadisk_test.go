package vsphere_test

import (
	"context"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/session/cache"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/containervm/containervm/controller/internal/vsphere"
)

// TestSimulatorDataDisks: disks of their own are copied, grown, attached, detached and deleted in the words of a vSphere that no one here wrote.
func TestSimulatorDataDisks(t *testing.T) {
	cfg := simulate(t, "host")
	c := connect(t, cfg)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	vim := simulated(t, cfg)
	finder := find.NewFinder(vim)
	dc, err := finder.DefaultDatacenter(ctx)
	must(err)
	must(c.MakeDirectory(ctx, "volumes"))
	task, err := object.NewVirtualDiskManager(vim).CreateVirtualDisk(ctx, c.DatastorePath("volumes/blank.vmdk"), dc, &types.FileBackedVirtualDiskSpec{
		VirtualDiskSpec: types.VirtualDiskSpec{DiskType: "thin", AdapterType: "lsiLogic"}, CapacityKb: 1 << 10,
	})
	must(err)
	must(task.Wait(ctx))

	must(c.CopyDisk(ctx, "volumes/blank.vmdk", "volumes/a.vmdk"))
	must(c.CopyDisk(ctx, "volumes/blank.vmdk", "volumes/b.vmdk"))
	if err := c.CopyDisk(ctx, "volumes/blank.vmdk", "volumes/a.vmdk"); !errdefs.IsAlreadyExists(err) {
		t.Errorf("a copy over a disk: %v", err)
	}
	must(c.ExtendDisk(ctx, "volumes/a.vmdk", 1<<30))
	boot := c.Boot()
	ref, err := c.CreateVM(ctx, vsphere.VMSpec{
		Name: "one", UUID: "01234567-89ab-4def-8123-456789abcdef", CPUs: 1, MemoryMiB: 64, Kernel: boot.Kernel, Initrd: boot.Initrd,
		Disks: []vsphere.DataDisk{{Unit: 1, Path: "volumes/a.vmdk"}},
	})
	must(err)
	must(c.AttachDisks(ctx, ref, []vsphere.DataDisk{{Unit: 2, Path: "volumes/b.vmdk", ReadOnly: true}}, map[string]string{"cvm.x": "1"}))
	if vm, _ := c.Get("one"); vm.Extra["cvm.x"] != "1" {
		t.Errorf("the key that came with the disk: %v", vm.Extra)
	}
	modes := func() map[string]string {
		t.Helper()
		devices, err := object.NewVirtualMachine(vim, ref).Device(ctx)
		must(err)
		all := map[string]string{}
		for _, d := range devices.SelectByType((*types.VirtualDisk)(nil)) {
			backing := d.GetVirtualDevice().Backing.(*types.VirtualDiskFlatVer2BackingInfo)
			all[backing.FileName] = backing.DiskMode
		}
		return all
	}
	a, b := c.DatastorePath("volumes/a.vmdk"), c.DatastorePath("volumes/b.vmdk")
	if got := modes(); len(got) != 2 || got[a] != "persistent" || got[b] != "independent_nonpersistent" {
		t.Errorf("the VM has %v", got)
	}
	must(c.DetachDisks(ctx, ref, []int{1, 2}, map[string]string{"cvm.x": ""}))
	if got := modes(); len(got) != 0 {
		t.Errorf("the VM has %v, of which all were detached", got)
	}
	for range 2 {
		must(c.DeleteDisk(ctx, "volumes/a.vmdk"))
	}
	if _, err := c.Stat(ctx, "volumes/a.vmdk"); !errdefs.IsNotFound(err) {
		t.Errorf("a disk that was deleted: %v", err)
	}
	if _, err := c.Stat(ctx, "volumes/b.vmdk"); err != nil {
		t.Errorf("a disk that was only detached: %v", err)
	}
}

// simulated is a session with a simulator of its own.
func simulated(t *testing.T, cfg vsphere.Config) *vim25.Client {
	t.Helper()
	u, err := soap.ParseURL(strings.TrimSpace(cfg.URL))
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(cfg.Username, cfg.Password)
	vim := new(vim25.Client)
	s := &cache.Session{URL: u, Insecure: true, Passthrough: true}
	if err := s.Login(t.Context(), vim, nil); err != nil {
		t.Fatal(err)
	}
	return vim
}
