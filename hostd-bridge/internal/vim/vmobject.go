package vim

import (
	"encoding/json"
	"maps"
	"net/netip"
	"slices"
	"strconv"

	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/containervm/containervm/hostd-bridge/internal/datastore"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
	"github.com/containervm/containervm/internal/printable"
	"github.com/containervm/containervm/tether/link"
)

// hardwareVersion is that of vSphere 8.0 (VirtualMachineConfigInfo.version).
const hardwareVersion = "vmx-20"

// renderVM returns a VM as a managed object.
func renderVM(v *vm.VM, find findNetwork) *mo.VirtualMachine {
	pool, ref := poolRef(v.Pool), vmRef(v.Ref)
	config, guest, runtime := renderConfig(v, find), renderGuest(v, find), renderRuntime(v)
	networks := []types.ManagedObjectReference{}
	for _, card := range v.NICs {
		networks = append(networks, networkRef(card.Network))
	}
	return &mo.VirtualMachine{
		ManagedEntity: entity(ref, vmFolderRef, v.Name),
		Config:        config, Runtime: runtime, Guest: guest, ResourcePool: &pool, EnvironmentBrowser: environmentRef,
		Summary:        renderSummary(v, config, guest, runtime),
		ResourceConfig: &types.ResourceConfigSpec{Entity: &ref, CpuAllocation: *config.CpuAllocation, MemoryAllocation: allocation(vm.Limits{Limit: vm.Unlimited})},
		Datastore:      []types.ManagedObjectReference{datastoreRef}, Network: networks,
		RootSnapshot:         []types.ManagedObjectReference{},
		GuestHeartbeatStatus: heartbeat(v),
	}
}

func renderConfig(v *vm.VM, find findNetwork) *types.VirtualMachineConfigInfo {
	created := v.Created
	return &types.VirtualMachineConfigInfo{
		ChangeVersion: strconv.Itoa(v.Version), Modified: v.Modified, Name: v.Name, CreateDate: &created,
		GuestFullName: "Other Linux (64-bit)", GuestId: guestID(v), AlternateGuestName: "",
		Version: hardwareVersion, Uuid: v.UUID, InstanceUuid: v.InstanceUUID, Annotation: v.Annotation,
		Files: types.VirtualMachineFileInfo{
			VmPathName:        vmPath(v),
			SnapshotDirectory: datastore.FormatPath(v.Home), LogDirectory: datastore.FormatPath(v.Home),
		},
		Hardware: types.VirtualHardware{
			NumCPU: int32(v.CPUs), NumCoresPerSocket: types.NewInt32(1), MemoryMB: int32(v.MemoryMiB), Device: devices(v, find),
		},
		ExtraConfig: extraConfig(v), Firmware: "bios",
		CpuAllocation: cpuAllocation(v),
		DatastoreUrl:  []types.VirtualMachineConfigInfoDatastoreUrlPair{{Name: datastore.Name, Url: "ds:///" + datastore.Name + "/"}},
	}
}

// cpuAllocation is the limit of the VM's CPU time; there are no reservations, and all VMs' shares are equal.
func cpuAllocation(v *vm.VM) *types.ResourceAllocationInfo {
	limits := vm.Limits{Limit: vm.Unlimited}
	if v.CPULimit != 0 {
		limits.Limit = v.CPULimit
	}
	a := allocation(limits)
	return &a
}

func guestID(v *vm.VM) string {
	if v.GuestID == "" {
		return string(types.VirtualMachineGuestOsIdentifierOtherLinux64Guest)
	}
	return v.GuestID
}

func vmPath(v *vm.VM) string { return datastore.FormatPath(v.Home + "/" + v.Name + ".vmx") }

func extraConfig(v *vm.VM) []types.BaseOptionValue {
	all := v.ExtraConfig()
	out := make([]types.BaseOptionValue, 0, len(all))
	for _, key := range slices.Sorted(maps.Keys(all)) {
		out = append(out, &types.OptionValue{Key: key, Value: all[key]})
	}
	return out
}

func renderRuntime(v *vm.VM) types.VirtualMachineRuntimeInfo {
	host := hostRef
	info := types.VirtualMachineRuntimeInfo{
		Host: &host, ConnectionState: types.VirtualMachineConnectionStateConnected,
		PowerState:     types.VirtualMachinePowerState(v.Power),
		MaxMemoryUsage: int32(v.MemoryMiB), MaxCpuUsage: int32(v.CPUs) * vm.NominalMHz,
		InstantCloneFrozen: types.NewBool(v.Frozen),
	}
	if v.Power == vm.PoweredOn {
		started := v.Started
		info.BootTime = &started
	}
	return info
}

// spoke says whether the tether of the present run has been heard.
func spoke(v *vm.VM) bool { return v.Power == vm.PoweredOn && len(v.Guest) > 0 }

func heartbeat(v *vm.VM) types.ManagedEntityStatus {
	if spoke(v) {
		return types.ManagedEntityStatusGreen
	}
	return types.ManagedEntityStatusGray
}

// renderGuest says of the tether what vSphere says of VMware Tools.
func renderGuest(v *vm.VM, find findNetwork) *types.GuestInfo {
	info := &types.GuestInfo{
		ToolsStatus:        types.VirtualMachineToolsStatusToolsNotRunning,
		ToolsRunningStatus: string(types.VirtualMachineToolsRunningStatusGuestToolsNotRunning),
		ToolsVersionStatus: string(types.VirtualMachineToolsVersionStatusGuestToolsUnmanaged),
		GuestState:         string(types.VirtualMachineGuestStateNotRunning),
		GuestId:            guestID(v),
	}
	if !spoke(v) {
		return info
	}
	info.ToolsStatus = types.VirtualMachineToolsStatusToolsOk
	info.ToolsRunningStatus = string(types.VirtualMachineToolsRunningStatusGuestToolsRunning)
	info.ToolsVersion = printable.Line(v.Guest[link.KeyVersion])
	info.GuestState = string(types.VirtualMachineGuestStateRunning)
	info.GuestFamily = string(types.VirtualMachineGuestOsFamilyLinuxGuest)
	info.HostName = hostName(v)
	if own, err := netip.ParseAddr(v.Guest[link.KeyIP]); err == nil && own.Zone() == "" {
		info.IpAddress = own.String()
	}
	info.Net = guestNet(v, find)
	if info.IpAddress == "" && len(info.Net) > 0 && len(info.Net[0].IpAddress) > 0 {
		info.IpAddress = info.Net[0].IpAddress[0]
	}
	return info
}

// guestNet says which addresses the VM has at each of its cards: those that it was given, and what its guest says of the first one.
func guestNet(v *vm.VM, find findNetwork) (out []types.GuestNicInfo) {
	given := map[string][]netip.Addr{}
	for _, e := range v.Net().Endpoints {
		given[e.Network] = e.Addresses
	}
	for at, card := range v.NICs {
		name, prefixes := networkOf(card, find)
		addresses := given[name]
		if own, err := netip.ParseAddr(v.Guest[link.KeyIP]); err == nil && at == 0 && !slices.Contains(addresses, own) {
			addresses = slices.Insert(slices.Clone(addresses), 0, own)
		}
		nic := types.GuestNicInfo{
			Network: name, MacAddress: card.MAC, Connected: card.Connected, DeviceConfigId: card.Key, IpConfig: &types.NetIpConfigInfo{},
		}
		for _, a := range addresses {
			nic.IpAddress = append(nic.IpAddress, a.String())
			nic.IpConfig.IpAddress = append(nic.IpConfig.IpAddress, types.NetIpConfigInfoIpAddress{
				IpAddress: a.String(), PrefixLength: prefixLength(a, prefixes), State: string(types.NetIpConfigInfoIpAddressStatusPreferred),
			})
		}
		out = append(out, nic)
	}
	return out
}

// prefixLength is that of the network which the address is in; all of the address's bits when it is in none.
func prefixLength(a netip.Addr, networks []netip.Prefix) int32 {
	for _, p := range networks {
		if p.Masked().Contains(a) {
			return int32(p.Bits())
		}
	}
	return int32(a.BitLen())
}

// hostName is the name that the tether was told to give its guest.
func hostName(v *vm.VM) string {
	var spec struct {
		Hostname string `json:"hostname"`
	}
	_ = json.Unmarshal([]byte(v.Extra[link.KeySpec]), &spec) // what is not JSON names no host
	return spec.Hostname
}

func renderSummary(v *vm.VM, config *types.VirtualMachineConfigInfo, guest *types.GuestInfo, runtime types.VirtualMachineRuntimeInfo) types.VirtualMachineSummary {
	ref := vmRef(v.Ref)
	disks := int32(len(v.DataDisks))
	if v.Disk != nil {
		disks++
	}
	return types.VirtualMachineSummary{
		Vm: &ref, Runtime: runtime, OverallStatus: types.ManagedEntityStatusGreen,
		Config: types.VirtualMachineConfigSummary{
			Name: v.Name, VmPathName: config.Files.VmPathName, MemorySizeMB: int32(v.MemoryMiB), NumCpu: int32(v.CPUs),
			NumEthernetCards: int32(len(v.NICs)), NumVirtualDisks: disks, Uuid: v.UUID, InstanceUuid: v.InstanceUUID,
			GuestId: config.GuestId, GuestFullName: config.GuestFullName, Annotation: v.Annotation, HwVersion: hardwareVersion,
		},
		Guest: &types.VirtualMachineGuestSummary{
			GuestId: config.GuestId, GuestFullName: config.GuestFullName, ToolsStatus: guest.ToolsStatus,
			ToolsRunningStatus: guest.ToolsRunningStatus, ToolsVersionStatus: guest.ToolsVersionStatus,
			HostName: guest.HostName, IpAddress: guest.IpAddress,
		},
		QuickStats: types.VirtualMachineQuickStats{GuestHeartbeatStatus: heartbeat(v)},
		Storage:    &types.VirtualMachineStorageSummary{Timestamp: v.Modified},
	}
}
