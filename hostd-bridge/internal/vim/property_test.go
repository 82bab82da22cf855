package vim

import (
	"reflect"
	"testing"

	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/containervm/containervm/hostd-bridge/internal/vm"
)

func testVM() *mo.VirtualMachine {
	return renderVM(&vm.VM{Ref: "vm-1", Power: vm.PoweredOn, Guest: map[string]string{"guestinfo.ip": "10.0.0.1"}, Config: vm.Config{
		Name: "n", Pool: vm.RootPool, CPUs: 2, MemoryMiB: 512, CID: 7, Disk: &vm.Disk{Path: "a/b.vmdk", Parent: "p.vmdk"},
		NICs:  []vm.Card{{Key: 4000, NIC: vm.NIC{MAC: "00:50:56:80:00:01"}}},
		Extra: map[string]string{"k": "v", "guestinfo.cvm.spec": `{"hostname":"h"}`},
	}}, func(ref string) (*vm.Network, bool) { return &vm.Network{Ref: ref, Name: "VM Network"}, true })
}

func TestProperty(t *testing.T) {
	object := testVM()
	for path, want := range map[string]any{
		"name":                                    "n",
		"runtime.powerState":                      types.VirtualMachinePowerStatePoweredOn,
		"summary.config.memorySizeMB":             int32(512),
		"guest.ipAddress":                         "10.0.0.1",
		"guest.hostName":                          "h",
		"guestHeartbeatStatus":                    types.ManagedEntityStatusGreen,
		`config.extraConfig["k"].value`:           "v",
		"config.hardware.device[12000]":           nil, // below
		"config.vAppConfig":                       nil, // unset
		"config.vAppConfig.property":              nil, // below something unset
		"snapshot.currentSnapshot":                nil,
		"config.hardware.device[99]":              nil,
		"config.hardware.device[99].key":          nil,
		"config.hardware.device[4000].macAddress": "00:50:56:80:00:01",
	} {
		got, err := property(object, path)
		if err != nil {
			t.Errorf("%s: %v", path, err)
		}
		if want != nil && !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %#v, want %#v", path, got, want)
		}
	}
	for _, path := range []string{"", "none", "Name.x", "self", "config.none", "name.x", "config.extraConfig.key", "config..name", "managedEntity", "config.extraConfig["} {
		if got, err := property(object, path); err == nil {
			t.Errorf("%q: %v, want a fault", path, got)
		}
	}
}

func TestArraysHaveTheirNames(t *testing.T) {
	object := testVM()
	for path, want := range map[string]any{
		"datastore":              types.ArrayOfManagedObjectReference{},
		"config.extraConfig":     types.ArrayOfOptionValue{},
		"config.hardware.device": types.ArrayOfVirtualDevice{},
		"disabledMethod":         types.ArrayOfString{},
		"effectiveRole":          types.ArrayOfInt{},
	} {
		got, err := property(object, path)
		if err != nil || reflect.TypeOf(got) != reflect.TypeOf(want) {
			t.Errorf("%s: %T, %v", path, got, err)
		}
	}
}

func TestIsA(t *testing.T) {
	for kind, want := range map[string]bool{"VirtualMachine": true, "ManagedEntity": true, "ExtensibleManagedObject": true, "Folder": false, "Name": false} {
		if isA(testVM(), kind) != want {
			t.Errorf("a VM is a %s: %v", kind, !want)
		}
	}
}

func FuzzProperty(f *testing.F) {
	for _, path := range []string{"name", `config.extraConfig["k"]`, "config.hardware.device[4000].backing.deviceName", "summary", "a[", "[]"} {
		f.Add(path)
	}
	object := testVM()
	f.Fuzz(func(t *testing.T, path string) {
		_, _ = property(object, path) // must not panic
	})
}
