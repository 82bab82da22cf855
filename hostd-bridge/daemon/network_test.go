package daemon_test

import (
	"context"
	"encoding/json"
	"net"
	"strings"
	"testing"

	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/containervm/containervm/hostd-bridge/daemon"
	"github.com/containervm/containervm/hostd-bridge/daemon/daemontest"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
	"github.com/containervm/containervm/tether/link"
)

// speaker is a guest whose tether has been heard.
func speaker(ctx context.Context, m *daemontest.Machine) {
	m.Set(link.KeyVersion, "1")
	<-ctx.Done()
}

// machineOf is the machine in memory of the one VM that there is.
func machineOf(t *testing.T, h *daemontest.Host, c *govmomi.Client, name string) *daemontest.Machine {
	t.Helper()
	v, err := find.NewFinder(c.Client).VirtualMachine(t.Context(), "/ha-datacenter/vm/"+name)
	if err != nil {
		t.Fatal(err)
	}
	m := h.Hypervisor.Machine(v.Reference().Value)
	if m == nil {
		t.Fatalf("VM %s has no machine", name)
	}
	return m
}

func refuses(t *testing.T, e daemon.Endpoint, want string, args ...string) {
	t.Helper()
	if out, err := govc(t, e, args...); err == nil || !strings.Contains(out, want) {
		t.Errorf("govc %s: %v, %s: want %q", strings.Join(args, " "), err, out, want)
	}
}

func bootable(t *testing.T, e daemon.Endpoint, name string) {
	t.Helper()
	mustGovc(t, e, "vm.change", "-vm", name, "-e", "cvm.boot.kernel="+bootFile(t, e, "kernel"), "-e", "cvm.boot.initrd="+bootFile(t, e, "initrd"))
}

// TestGovcNetworks: networks are made, shown and removed by vSphere's own command line.
func TestGovcNetworks(t *testing.T) {
	h := daemontest.Start(t, nil)
	e := h.Endpoint
	mustGovc(t, e, "host.portgroup.add", "-vswitch", "vSwitch0", "cvm-blue")
	wants(t, mustGovc(t, e, "ls", "network"), "/ha-datacenter/network/VM Network", "/ha-datacenter/network/cvm-blue")
	wants(t, mustGovc(t, e, "host.portgroup.info"), "cvm-blue", "VM Network", "vSwitch0", "Allow forged transmits:", "No")
	wants(t, mustGovc(t, e, "host.vswitch.info"), "VM Network, cvm-blue")
	wants(t, mustGovc(t, e, "object.collect", "-s", "/ha-datacenter/network/cvm-blue", "name"), "cvm-blue")
	for _, path := range []string{"/ha-datacenter", "/ha-datacenter/host/*"} {
		wants(t, mustGovc(t, e, "object.collect", "-s", path, "network"), "network-10", "network-11")
	}
	refuses(t, e, "already", "host.portgroup.add", "-vswitch", "vSwitch0", "cvm-blue")
	refuses(t, e, "no virtual switch", "host.portgroup.add", "-vswitch", "vSwitch1", "x")
	refuses(t, e, "have no VLANs", "host.portgroup.add", "-vswitch", "vSwitch0", "-vlan", "3", "x")
	refuses(t, e, "cannot be changed", "host.portgroup.change", "-vlan-id", "0", "-vswitch-name", "vSwitch0", "cvm-blue")
	refuses(t, e, "no port group", "host.portgroup.remove", "nope")
	refuses(t, e, "belongs to the host", "host.portgroup.remove", "VM Network")
	mustGovc(t, e, "vm.create", "-on=false", "-m", "64", "-net", "cvm-blue", "-net.adapter", "vmxnet3", "user")
	refuses(t, e, "VM user has a card there", "host.portgroup.remove", "cvm-blue")
	h.Stop()
	h.Run()
	e = h.Endpoint
	wants(t, mustGovc(t, e, "device.info", "-vm", "user", "ethernet-0"), "cvm-blue")
	mustGovc(t, e, "vm.destroy", "user")
	mustGovc(t, e, "host.portgroup.remove", "cvm-blue")
	if out := mustGovc(t, e, "ls", "network"); strings.Contains(out, "cvm-blue") {
		t.Errorf("the network is still there: %s", out)
	}
	mustGovc(t, e, "host.portgroup.add", "-vswitch", "vSwitch0", "cvm-blue") // another one, with a reference of its own
	wants(t, mustGovc(t, e, "object.collect", "-s", "/ha-datacenter", "network"), "network-12")
}

// TestGovcCards: network adapters come, change and go by vSphere's own command line, also while the VM runs.
func TestGovcCards(t *testing.T) {
	h := daemontest.Start(t, speaker)
	e := h.Endpoint
	c := connect(t, e)
	for _, name := range []string{"a", "b", "c", "d"} {
		mustGovc(t, e, "host.portgroup.add", "-vswitch", "vSwitch0", name)
	}
	mustGovc(t, e, "vm.create", "-on=false", "-m", "64", "-net", "VM Network", "-net.adapter", "vmxnet3", "one")
	bootable(t, e, "one")
	refuses(t, e, "vmxnet3", "vm.network.add", "-vm", "one", "-net", "a") // govc's default is an e1000
	refuses(t, e, "a VM is in a network once", "vm.network.add", "-vm", "one", "-net", "VM Network", "-net.adapter", "vmxnet3")
	mustGovc(t, e, "vm.network.add", "-vm", "one", "-net", "a", "-net.adapter", "vmxnet3", "-net.address", "02:42:ac:12:00:02")
	mustGovc(t, e, "vm.network.change", "-vm", "one", "-net", "b", "-net.address", "02:42:ac:12:00:03", "ethernet-1")
	wants(t, mustGovc(t, e, "device.info", "-vm", "one", "ethernet-1"), "02:42:ac:12:00:03", "b")
	mustGovc(t, e, "vm.power", "-on", "one")
	m := machineOf(t, h, c, "one")
	if nics := m.NICs(); len(nics) != 2 || nics[1].MAC != "02:42:ac:12:00:03" || !nics[1].Connected {
		t.Errorf("cards %+v", nics)
	}
	mustGovc(t, e, "vm.network.add", "-vm", "one", "-net", "c", "-net.adapter", "vmxnet3")
	mustGovc(t, e, "vm.network.change", "-vm", "one", "-net", "a", "ethernet-1")
	mustGovc(t, e, "vm.network.add", "-vm", "one", "-net", "d", "-net.adapter", "vmxnet3")
	refuses(t, e, "a VM has 4 at most", "vm.network.add", "-vm", "one", "-net", "b", "-net.adapter", "vmxnet3")
	refuses(t, e, "must be poweredOff", "vm.network.change", "-vm", "one", "-net", "a", "-net.address", "02:42:ac:12:00:09", "ethernet-1")
	mustGovc(t, e, "device.disconnect", "-vm", "one", "ethernet-0")
	if nics := m.NICs(); len(nics) != 4 || nics[0].Connected || nics[0].Frames != "" || !nics[2].Connected || nics[3].MAC == "" {
		t.Errorf("cards %+v", nics)
	}
	mustGovc(t, e, "device.connect", "-vm", "one", "ethernet-0")
	mustGovc(t, e, "device.remove", "-vm", "one", "ethernet-1")
	if nics := m.NICs(); !nics[0].Connected || nics[1] != (vm.NIC{}) {
		t.Errorf("cards %+v", nics)
	}
	mustGovc(t, e, "vm.network.add", "-vm", "one", "-net", "b", "-net.adapter", "vmxnet3") // the slot is free again
	wants(t, mustGovc(t, e, "device.info", "-vm", "one", "ethernet-1"), "b")
	var info struct {
		VirtualMachines []struct {
			Self    types.ManagedObjectReference
			Network []types.ManagedObjectReference
			Guest   struct {
				Net []struct {
					Network        string
					DeviceConfigID int32
				}
			}
		}
	}
	if err := json.Unmarshal([]byte(mustGovc(t, e, "vm.info", "-json", "one")), &info); err != nil {
		t.Fatal(err)
	}
	v := info.VirtualMachines[0]
	if len(v.Network) != 4 || len(v.Guest.Net) != 4 || v.Guest.Net[1].Network != "b" || v.Guest.Net[1].DeviceConfigID != 4001 {
		t.Errorf("networks %v, guest's cards %+v", v.Network, v.Guest.Net)
	}
	wants(t, mustGovc(t, e, "object.collect", "-s", "/ha-datacenter/network/b", "vm"), v.Self.Value)
	if out := mustGovc(t, e, "object.collect", "-s", "/ha-datacenter/network/a", "vm"); strings.Contains(out, v.Self.Value) {
		t.Errorf("the VM is still in a network that it left: %s", out)
	}
}

// TestGovcAddresses: a VM's addresses are those that it was given, and what its guest says.
func TestGovcAddresses(t *testing.T) {
	h := daemontest.Start(t, speaker)
	e := h.Endpoint
	mustGovc(t, e, "host.portgroup.add", "-vswitch", "vSwitch0", "a")
	mustGovc(t, e, "vm.create", "-on=false", "-m", "64", "-net", "VM Network", "-net.adapter", "vmxnet3", "one")
	mustGovc(t, e, "vm.network.add", "-vm", "one", "-net", "a", "-net.adapter", "vmxnet3")
	bootable(t, e, "one")
	mustGovc(t, e, "vm.change", "-vm", "one", "-e",
		`cvm.net={"endpoints":[{"network":"VM Network","addresses":["172.17.0.2"]},{"network":"a","addresses":["172.18.0.2","fd00::2"]}]}`)
	mustGovc(t, e, "vm.power", "-on", "one")
	wants(t, mustGovc(t, e, "vm.ip", "-a", "one"), "172.17.0.2", "172.18.0.2,fd00::2")
	wants(t, mustGovc(t, e, "vm.ip", "one"), "172.17.0.2")
	machineOf(t, h, connect(t, e), "one").Set(link.KeyIP, "172.17.0.9")
	wants(t, mustGovc(t, e, "vm.ip", "one"), "172.17.0.9")
	wants(t, mustGovc(t, e, "vm.ip", "-a", "one"), "172.17.0.9,172.17.0.2", "172.18.0.2,fd00::2")
	refuses(t, e, "cannot read cvm.net", "vm.change", "-vm", "one", "-e", `cvm.net={"endpoint":1}`)
}

// TestNetworksAreWatched: whoever watches networks hears of those that come and go, and of the VMs in them.
func TestNetworksAreWatched(t *testing.T) {
	h := daemontest.Start(t, nil)
	c := connect(t, h.Endpoint)
	host, err := find.NewFinder(c.Client).DefaultHostSystem(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	system, err := host.ConfigManager().NetworkSystem(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	added := make(chan error, 1)
	folder := types.ManagedObjectReference{Type: "Folder", Value: "group-n6"}
	go func() {
		added <- system.AddPortGroup(context.WithoutCancel(t.Context()), types.HostPortGroupSpec{Name: "new", VswitchName: "vSwitch0"})
	}()
	wait(t, c, folder, "childEntity", func(v any) bool {
		refs, ok := v.(types.ArrayOfManagedObjectReference)
		return ok && len(refs.ManagedObjectReference) == 2
	})
	if err := <-added; err != nil {
		t.Fatal(err)
	}
	s := spec(t, h.Endpoint, "one")
	addDevice(&types.VirtualVmxnet3{VirtualVmxnet: types.VirtualVmxnet{VirtualEthernetCard: types.VirtualEthernetCard{VirtualDevice: types.VirtualDevice{
		Backing: &types.VirtualEthernetCardNetworkBackingInfo{VirtualDeviceDeviceBackingInfo: types.VirtualDeviceDeviceBackingInfo{DeviceName: "new"}},
	}}}})(&s)
	go func() { _, _ = create(t, c, s) }()
	wait(t, c, types.ManagedObjectReference{Type: "Network", Value: "network-11"}, "vm", func(v any) bool {
		refs, ok := v.(types.ArrayOfManagedObjectReference)
		return ok && len(refs.ManagedObjectReference) == 1
	})
}

// TestCardsOfClones: a clone's cards can be others than its source's; each has a MAC of its own.
func TestCardsOfClones(t *testing.T) {
	h := daemontest.Start(t, freezer)
	c := connect(t, h.Endpoint)
	source := frozenVM(t, h.Endpoint, c, "template")
	mustGovc(t, h.Endpoint, "host.portgroup.add", "-vswitch", "vSwitch0", "other")
	mustGovc(t, h.Endpoint, "host.portgroup.add", "-vswitch", "vSwitch0", "more")
	backing := func(name string) types.BaseVirtualDeviceBackingInfo {
		return &types.VirtualEthernetCardNetworkBackingInfo{VirtualDeviceDeviceBackingInfo: types.VirtualDeviceDeviceBackingInfo{DeviceName: name}}
	}
	card := func(op types.VirtualDeviceConfigSpecOperation, key int32, mac string, b types.BaseVirtualDeviceBackingInfo) types.BaseVirtualDeviceConfigSpec {
		d := &types.VirtualVmxnet3{}
		d.Key, d.Backing, d.MacAddress, d.AddressType = key, b, mac, string(types.VirtualEthernetCardMacTypeManual)
		return &types.VirtualDeviceConfigSpec{Operation: op, Device: d}
	}
	add, edit, remove := types.VirtualDeviceConfigSpecOperationAdd, types.VirtualDeviceConfigSpecOperationEdit, types.VirtualDeviceConfigSpecOperationRemove
	clone := func(name string, changes ...types.BaseVirtualDeviceConfigSpec) (*mo.VirtualMachine, error) {
		ref, err := instantClone(t, c, source, types.VirtualMachineInstantCloneSpec{
			Name: name, Location: types.VirtualMachineRelocateSpec{DeviceChange: changes},
		})
		if err != nil {
			return nil, err
		}
		return retrieve(t, c, ref), nil
	}
	child, err := clone("child", card(edit, 4000, "02:42:ac:12:00:05", backing("other")), card(add, -1, "", backing("more")))
	if err != nil {
		t.Fatal(err)
	}
	nics := h.Hypervisor.Machine(child.Self.Value).NICs()
	if len(child.Network) != 2 || len(nics) != 2 || nics[0].MAC != "02:42:ac:12:00:05" || nics[1].MAC == "" {
		t.Errorf("networks %v, cards %+v", child.Network, nics)
	}
	if mac, err := net.ParseMAC(nics[1].MAC); err != nil || len(mac) != 6 {
		t.Errorf("MAC %v, %v", mac, err)
	}
	bare, err := clone("bare", card(remove, 4000, "", nil))
	if err != nil {
		t.Fatal(err)
	}
	if len(bare.Network) != 0 {
		t.Errorf("networks %v", bare.Network)
	}
	if _, err := clone("no", card(edit, 4000, "", backing("nowhere"))); err == nil || !strings.Contains(err.Error(), `no network "nowhere"`) {
		t.Errorf("a card in a network that is not there: %v", err)
	}
	task, err := object.NewVirtualMachine(c.Client, source).Reconfigure(t.Context(), types.VirtualMachineConfigSpec{
		DeviceChange: []types.BaseVirtualDeviceConfigSpec{card(add, -1, "", backing("more"))},
	})
	if err == nil {
		err = task.Wait(t.Context())
	}
	if err == nil || !strings.Contains(err.Error(), "frozen") {
		t.Errorf("a card of a frozen VM: %v", err)
	}
}
