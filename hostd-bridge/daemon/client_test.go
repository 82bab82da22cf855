package daemon_test

import (
	"net/url"
	"testing"

	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/session"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/containervm/containervm/hostd-bridge/daemon"
)

// anonymous connects with govmomi without logging in.
func anonymous(t *testing.T, e daemon.Endpoint) *govmomi.Client {
	t.Helper()
	u, err := soap.ParseURL(e.URL)
	if err != nil {
		t.Fatal(err)
	}
	transport := soap.NewClient(u, false)
	if err := transport.SetRootCAs(e.CAFile); err != nil {
		t.Fatal(err)
	}
	c, err := vim25.NewClient(t.Context(), transport)
	if err != nil {
		t.Fatal(err)
	}
	return &govmomi.Client{Client: c, SessionManager: session.NewManager(c)}
}

// connect logs in with govmomi.
func connect(t *testing.T, e daemon.Endpoint) *govmomi.Client {
	t.Helper()
	c := anonymous(t, e)
	if err := c.Login(t.Context(), url.UserPassword(e.Username, e.Password)); err != nil {
		t.Fatal(err)
	}
	return c
}

// spec is that of a VM that can be powered on.
func spec(t *testing.T, e daemon.Endpoint, name string) types.VirtualMachineConfigSpec {
	t.Helper()
	return types.VirtualMachineConfigSpec{
		Name: name, NumCPUs: 1, MemoryMB: 64,
		Files: &types.VirtualMachineFileInfo{VmPathName: "[local]"},
		ExtraConfig: []types.BaseOptionValue{
			&types.OptionValue{Key: "cvm.boot.kernel", Value: bootFile(t, e, "kernel")},
			&types.OptionValue{Key: "cvm.boot.initrd", Value: bootFile(t, e, "initrd")},
		},
	}
}

// create starts CreateVM_Task.
func create(t *testing.T, c *govmomi.Client, s types.VirtualMachineConfigSpec) (types.ManagedObjectReference, error) {
	t.Helper()
	finder := find.NewFinder(c.Client)
	dc, err := finder.DefaultDatacenter(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	finder.SetDatacenter(dc)
	pool, err := finder.DefaultResourcePool(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	folders, err := dc.Folders(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	task, err := folders.VmFolder.CreateVM(t.Context(), s, pool, nil)
	if err != nil {
		return types.ManagedObjectReference{}, err
	}
	info, err := task.WaitForResult(t.Context())
	if err != nil {
		return types.ManagedObjectReference{}, err
	}
	return info.Result.(types.ManagedObjectReference), nil
}

func newVM(t *testing.T, e daemon.Endpoint, c *govmomi.Client, name string) types.ManagedObjectReference {
	t.Helper()
	ref, err := create(t, c, spec(t, e, name))
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

func runningVM(t *testing.T, e daemon.Endpoint, c *govmomi.Client, name string) types.ManagedObjectReference {
	t.Helper()
	ref := newVM(t, e, c, name)
	powerOn(t, c, ref)
	return ref
}

func powerOn(t *testing.T, c *govmomi.Client, ref types.ManagedObjectReference) {
	t.Helper()
	done(t)(object.NewVirtualMachine(c.Client, ref).PowerOn(t.Context()))
}

// done returns a function that waits for a task to succeed.
func done(t *testing.T) func(*object.Task, error) {
	return func(task *object.Task, err error) {
		t.Helper()
		if err == nil {
			err = task.Wait(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// wait waits with property.Wait until a property of an object satisfies holds.
func wait(t *testing.T, c *govmomi.Client, ref types.ManagedObjectReference, path string, holds func(any) bool) {
	t.Helper()
	err := property.Wait(t.Context(), property.DefaultCollector(c.Client), ref, []string{path}, func(changes []types.PropertyChange) bool {
		for _, change := range changes {
			if change.Name == path && holds(change.Val) {
				return true
			}
		}
		return false
	})
	if err != nil {
		t.Fatal(err)
	}
}

func waitPower(t *testing.T, c *govmomi.Client, ref types.ManagedObjectReference, state types.VirtualMachinePowerState) {
	t.Helper()
	wait(t, c, ref, "runtime.powerState", func(v any) bool { return v == state })
}

func waitExtra(t *testing.T, c *govmomi.Client, ref types.ManagedObjectReference, key, value string) {
	t.Helper()
	wait(t, c, ref, "config.extraConfig", func(v any) bool {
		array, _ := v.(types.ArrayOfOptionValue)
		return object.OptionValueList(array.OptionValue).Map()[key] == value
	})
}
