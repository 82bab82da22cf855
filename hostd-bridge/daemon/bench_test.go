package daemon_test

import (
	"fmt"
	"net/url"
	"testing"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/session"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/containervm/containervm/hostd-bridge/daemon/daemontest"
)

// BenchmarkVimCalls measures what the API adds to a container's life: the machines are in memory, so all the time is the
// API's own, the journal's syncs included.
func BenchmarkVimCalls(b *testing.B) {
	e := daemontest.Start(b, freezer).Endpoint
	u, err := soap.ParseURL(e.URL)
	if err != nil {
		b.Fatal(err)
	}
	transport := soap.NewClient(u, false)
	if err := transport.SetRootCAs(e.CAFile); err != nil {
		b.Fatal(err)
	}
	c, err := vim25.NewClient(b.Context(), transport)
	if err != nil {
		b.Fatal(err)
	}
	if err := session.NewManager(c).Login(b.Context(), url.UserPassword(e.Username, e.Password)); err != nil {
		b.Fatal(err)
	}
	b.Run("CurrentTime", func(b *testing.B) {
		for b.Loop() {
			if _, err := methods.GetCurrentTime(b.Context(), c); err != nil {
				b.Fatal(err)
			}
		}
	})
	finish := func(task *object.Task, err error) *types.TaskInfo {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
		info, err := task.WaitForResult(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		return info
	}
	folder := object.NewFolder(c, types.ManagedObjectReference{Type: "Folder", Value: "group-v3"})
	pool := object.NewResourcePool(c, types.ManagedObjectReference{Type: "ResourcePool", Value: "resgroup-root"})
	n := 0
	create := func() *object.VirtualMachine {
		n++
		info := finish(folder.CreateVM(b.Context(), types.VirtualMachineConfigSpec{
			Name: fmt.Sprint("vm", n), NumCPUs: 1, MemoryMB: 64,
			ExtraConfig: []types.BaseOptionValue{
				&types.OptionValue{Key: "cvm.boot.kernel", Value: "[local] cvm/boot/current.json"},
				&types.OptionValue{Key: "cvm.boot.initrd", Value: "[local] cvm/boot/current.json"},
			},
		}, pool, nil))
		return object.NewVirtualMachine(c, info.Result.(types.ManagedObjectReference))
	}
	b.Run("CreateAndDestroy", func(b *testing.B) {
		for b.Loop() {
			finish(create().Destroy(b.Context()))
		}
	})
	source := create()
	finish(source.PowerOn(b.Context()))
	if err := property.Wait(b.Context(), property.DefaultCollector(c), source.Reference(), []string{"runtime.instantCloneFrozen"},
		func(changes []types.PropertyChange) bool { return changes[0].Val == true }); err != nil {
		b.Fatal(err)
	}
	b.Run("InstantClone", func(b *testing.B) {
		for b.Loop() {
			n++
			info := finish(source.InstantClone(b.Context(), types.VirtualMachineInstantCloneSpec{Name: fmt.Sprint("vm", n)}))
			b.StopTimer()
			child := object.NewVirtualMachine(c, info.Result.(types.ManagedObjectReference))
			finish(child.PowerOff(b.Context()))
			finish(child.Destroy(b.Context()))
			b.StartTimer()
		}
	})
	finish(source.PowerOff(b.Context()))
	machine := create()
	b.Run("PowerOnAndOff", func(b *testing.B) {
		for b.Loop() {
			finish(machine.PowerOn(b.Context()))
			finish(machine.PowerOff(b.Context()))
		}
	})
}
