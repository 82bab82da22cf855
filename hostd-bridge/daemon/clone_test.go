package daemon_test

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/containervm/containervm/hostd-bridge/daemon"
	"github.com/containervm/containervm/hostd-bridge/daemon/daemontest"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// freezer is a guest that freezes when it is booted, and in a fork goes on.
func freezer(ctx context.Context, m *daemontest.Machine) {
	if m.Parent() == nil {
		m.Freeze(ctx)
		return
	}
	m.Set(link.KeyPhase, "forked")
	<-ctx.Done()
}

// frozenVM makes a VM with a network card that has frozen.
func frozenVM(t *testing.T, e daemon.Endpoint, c *govmomi.Client, name string) types.ManagedObjectReference {
	t.Helper()
	s := spec(t, e, name)
	addDevice(&types.VirtualVmxnet3{})(&s)
	ref, err := create(t, c, s)
	if err != nil {
		t.Fatal(err)
	}
	powerOn(t, c, ref)
	wait(t, c, ref, "runtime.instantCloneFrozen", func(v any) bool { return v == true })
	return ref
}

// instantClone clones a VM with govmomi.
func instantClone(t *testing.T, c *govmomi.Client, source types.ManagedObjectReference, s types.VirtualMachineInstantCloneSpec) (types.ManagedObjectReference, error) {
	t.Helper()
	task, err := object.NewVirtualMachine(c.Client, source).InstantClone(t.Context(), s)
	if err != nil {
		return types.ManagedObjectReference{}, err
	}
	info, err := task.WaitForResult(t.Context())
	if err != nil {
		return types.ManagedObjectReference{}, err
	}
	return info.Result.(types.ManagedObjectReference), nil
}

func retrieve(t *testing.T, c *govmomi.Client, ref types.ManagedObjectReference) *mo.VirtualMachine {
	t.Helper()
	var v mo.VirtualMachine
	if err := object.NewVirtualMachine(c.Client, ref).Properties(t.Context(), ref, nil, &v); err != nil {
		t.Fatal(err)
	}
	return &v
}

func changeDevice(op types.VirtualDeviceConfigSpecOperation, d types.BaseVirtualDevice) types.VirtualMachineInstantCloneSpec {
	change := &types.VirtualDeviceConfigSpec{Operation: op, Device: d}
	if _, ok := d.(*types.VirtualDisk); ok {
		change.FileOperation = types.VirtualDeviceConfigSpecFileOperationCreate
	}
	s := types.VirtualMachineInstantCloneSpec{Name: "x"}
	s.Location.DeviceChange = append(s.Location.DeviceChange, change)
	return s
}

func TestInstantClone(t *testing.T) {
	h := daemontest.Start(t, freezer)
	c := connect(t, h.Endpoint)
	source := frozenVM(t, h.Endpoint, c, "template")
	s := types.VirtualMachineInstantCloneSpec{
		Name: "child", BiosUuid: "00112233-4455-6677-8899-aabbccddeeff",
		Config: []types.BaseOptionValue{&types.OptionValue{Key: "guestinfo.k", Value: "v"}},
	}
	add := types.VirtualDeviceConfigSpec{
		Operation: types.VirtualDeviceConfigSpecOperationAdd, FileOperation: types.VirtualDeviceConfigSpecFileOperationCreate,
		Device: disk("[local] child/root.vmdk", ""),
	}
	src := retrieve(t, c, source)
	card := object.VirtualDeviceList(src.Config.Hardware.Device).SelectByType((*types.VirtualEthernetCard)(nil))[0]
	edit := types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationEdit, Device: card}
	s.Location.DeviceChange = []types.BaseVirtualDeviceConfigSpec{&add, &edit}
	pool, folder := *src.ResourcePool, *src.Parent
	s.Location.Pool, s.Location.Folder, s.Location.Datastore = &pool, &folder, &src.Datastore[0]
	ref, err := instantClone(t, c, source, s)
	if err != nil {
		t.Fatal(err)
	}
	waitExtra(t, c, ref, link.KeyPhase, "forked")
	child := retrieve(t, c, ref)
	if child.Name != "child" || child.Runtime.PowerState != "poweredOn" || *child.Runtime.InstantCloneFrozen || child.Config.Uuid != s.BiosUuid {
		t.Errorf("child %s: %+v", child.Name, child.Runtime)
	}
	mac := func(v *mo.VirtualMachine) string {
		cards := object.VirtualDeviceList(v.Config.Hardware.Device).SelectByType((*types.VirtualEthernetCard)(nil))
		return cards[0].(types.BaseVirtualEthernetCard).GetVirtualEthernetCard().MacAddress
	}
	if mac(child) == mac(src) || mac(child) == "" {
		t.Errorf("the child's MAC is %q", mac(child))
	}
	for key, want := range map[string]string{"guestinfo.k": "v", link.KeyPhase: "forked"} {
		if got := object.OptionValueList(child.Config.ExtraConfig).Map()[key]; got != want {
			t.Errorf("%s = %q, want %q", key, got, want)
		}
	}
	wants(t, mustGovc(t, h.Endpoint, "datastore.ls", "child"), "root.vmdk")
	s.Name, s.BiosUuid = "second", ""
	if _, err := instantClone(t, c, source, s); !isFault(err, &types.FileAlreadyExists{}) {
		t.Errorf("a disk over another's: %v", err)
	}
	add.Device = disk("[local] second/root.vmdk", "[local] none.vmdk")
	if _, err := instantClone(t, c, source, s); !isFault(err, &types.FileNotFound{}) {
		t.Errorf("a disk without its parent: %v", err)
	}
	mustGovc(t, h.Endpoint, "pool.create", "-mem.limit", "10", "/ha-datacenter/host/*/Resources/small")
	small := strings.TrimSpace(mustGovc(t, h.Endpoint, "ls", "-i", "/ha-datacenter/host/*/Resources/small"))
	s.Location.DeviceChange = nil
	if !s.Location.Pool.FromString(strings.Fields(small)[0]) {
		t.Fatal(small)
	}
	if _, err := instantClone(t, c, source, s); !isFault(err, &types.InsufficientMemoryResourcesFault{}) {
		t.Errorf("a clone in a pool that is too small: %v", err)
	}
}

// Faults of InstantClone_Task are those of the real one, and a frozen VM takes what a VM without a guest can.
func TestInstantCloneFaults(t *testing.T) {
	h := daemontest.Start(t, freezer, func(c *daemon.Config) { c.NoDiskAtFork = true })
	c := connect(t, h.Endpoint)
	source := frozenVM(t, h.Endpoint, c, "template")
	off := newVM(t, h.Endpoint, c, "off")
	ctx := t.Context()
	try := func(source types.ManagedObjectReference, edit func(*types.VirtualMachineInstantCloneSpec)) error {
		s := types.VirtualMachineInstantCloneSpec{Name: "x"}
		edit(&s)
		_, err := instantClone(t, c, source, s)
		return err
	}
	device := func(op types.VirtualDeviceConfigSpecOperation, d types.BaseVirtualDevice) error {
		_, err := instantClone(t, c, source, changeDevice(op, d))
		return err
	}
	at := func(edit func(*types.VirtualMachineRelocateSpec)) error {
		return try(source, func(s *types.VirtualMachineInstantCloneSpec) { edit(&s.Location) })
	}
	none := &types.ManagedObjectReference{Type: "ResourcePool", Value: "resgroup-99"}
	asIs := func(*types.VirtualMachineInstantCloneSpec) {}
	frozen := object.NewVirtualMachine(c.Client, source)
	result := func(task *object.Task, err error) error {
		if err != nil {
			return err
		}
		return task.Wait(ctx)
	}
	addDisk := types.VirtualMachineConfigSpec{}
	addDevice(disk("", ""))(&addDisk)
	edit, add, remove := types.VirtualDeviceConfigSpecOperationEdit, types.VirtualDeviceConfigSpecOperationAdd, types.VirtualDeviceConfigSpecOperationRemove
	for what, tc := range map[string]struct {
		err  error
		want types.BaseMethodFault
	}{
		"off":              {try(off, asIs), &types.InvalidPowerState{}},
		"gone":             {try(types.ManagedObjectReference{Type: "VirtualMachine", Value: "vm-99"}, asIs), &types.ManagedObjectNotFound{}},
		"name taken":       {try(source, func(s *types.VirtualMachineInstantCloneSpec) { s.Name = "off" }), &types.DuplicateName{}},
		"no name":          {try(source, func(s *types.VirtualMachineInstantCloneSpec) { s.Name = "" }), &types.InvalidName{}},
		"bad UUID":         {try(source, func(s *types.VirtualMachineInstantCloneSpec) { s.BiosUuid = "1" }), &types.InvalidArgument{}},
		"no pool":          {at(func(l *types.VirtualMachineRelocateSpec) { l.Pool = none }), &types.ManagedObjectNotFound{}},
		"no folder":        {at(func(l *types.VirtualMachineRelocateSpec) { l.Folder = none }), &types.ManagedObjectNotFound{}},
		"no datastore":     {at(func(l *types.VirtualMachineRelocateSpec) { l.Datastore = none }), &types.ManagedObjectNotFound{}},
		"no host":          {at(func(l *types.VirtualMachineRelocateSpec) { l.Host = none }), &types.ManagedObjectNotFound{}},
		"other settings":   {at(func(l *types.VirtualMachineRelocateSpec) { l.DiskMoveType = "moveAllDiskBackingsAndAllowSharing" }), &types.NotSupported{}},
		"disk":             {device(add, disk("", "")), &types.InvalidDeviceSpec{}},
		"added card":       {device(add, &types.VirtualVmxnet3{}), &types.InvalidDeviceSpec{}},
		"removed card":     {device(remove, &types.VirtualVmxnet3{}), &types.InvalidDeviceSpec{}},
		"unknown card":     {device(edit, &types.VirtualVmxnet3{}), &types.InvalidDeviceSpec{}},
		"controller":       {device(edit, &types.ParaVirtualSCSIController{}), &types.InvalidDeviceSpec{}},
		"frozen: reset":    {result(frozen.Reset(ctx)), &types.InvalidState{}},
		"frozen: shutdown": {frozen.ShutdownGuest(ctx), &types.InvalidState{}},
		"frozen: suspend":  {result(frozen.Suspend(ctx)), &types.NotSupported{}},
		"frozen: disk":     {result(frozen.Reconfigure(ctx, addDisk)), &types.InvalidState{}},
		"frozen: CPUs":     {result(frozen.Reconfigure(ctx, types.VirtualMachineConfigSpec{NumCPUs: 1, MemoryMB: 128})), &types.InvalidPowerState{}},
		"frozen: on":       {result(frozen.PowerOn(ctx)), &types.InvalidPowerState{}},
		"frozen: destroy":  {result(frozen.Destroy(ctx)), &types.InvalidPowerState{}},
	} {
		if !isFault(tc.err, tc.want) {
			t.Errorf("%s: %v, want %T", what, tc.err, tc.want)
		}
	}
	if _, _, status := dialVsock(t, h.Endpoint, c, source.Value, link.PortLink); status != http.StatusConflict {
		t.Errorf("vsock of a frozen VM: status %d", status)
	}
	done(t)(frozen.PowerOff(ctx))
	if v := retrieve(t, c, source); *v.Runtime.InstantCloneFrozen {
		t.Error("a VM that is off is frozen")
	}
}

func TestGovcInstantClone(t *testing.T) {
	h := daemontest.Start(t, freezer)
	c := connect(t, h.Endpoint)
	frozenVM(t, h.Endpoint, c, "template")
	mustGovc(t, h.Endpoint, "vm.instantclone", "-vm", "template", "-net.adapter", "vmxnet3", "-e", "guestinfo.k=v", "child")
	wants(t, mustGovc(t, h.Endpoint, "vm.info", "-e", "child"), "poweredOn", "guestinfo.k:", "cvm.host.timeline")
	if out, err := govc(t, h.Endpoint, "vm.instantclone", "-vm", "template", "child"); err == nil || !strings.Contains(out, "child") {
		t.Errorf("a second child of the name: %v, %s", err, out)
	}
}

// A container's life as a fork: template, child at its gate, gate opened, process, end.
func TestForkedContainer(t *testing.T) {
	h := daemontest.Start(t, daemontest.TetherGuest(t, nil))
	c := connect(t, h.Endpoint)
	encode := func(s *tetherv1.Spec) types.BaseOptionValue {
		text, err := link.EncodeSpec(s)
		if err != nil {
			t.Fatal(err)
		}
		return &types.OptionValue{Key: link.KeySpec, Value: text}
	}
	s := spec(t, h.Endpoint, "template")
	s.ExtraConfig = append(s.ExtraConfig, encode(&tetherv1.Spec{Mode: tetherv1.Mode_TEMPLATE}))
	source, err := create(t, c, s)
	if err != nil {
		t.Fatal(err)
	}
	powerOn(t, c, source)
	wait(t, c, source, "runtime.instantCloneFrozen", func(v any) bool { return v == true })
	fork, err := link.EncodeFork(&tetherv1.Fork{Generation: 1, Index: 3, Source: "template"})
	if err != nil {
		t.Fatal(err)
	}
	ref, err := instantClone(t, c, source, types.VirtualMachineInstantCloneSpec{Name: "child", Config: []types.BaseOptionValue{
		&types.OptionValue{Key: link.KeyFork, Value: fork}, encode(&tetherv1.Spec{Process: &tetherv1.Process{Args: []string{"echo", "hi"}}}),
	}})
	if err != nil {
		t.Fatal(err)
	}
	wait(t, c, ref, "config.extraConfig", func(v any) bool {
		array, _ := v.(types.ArrayOfOptionValue)
		text, _ := object.OptionValueList(array.OptionValue).Map()[link.KeyReceipt].(string)
		receipt, err := link.DecodeReceipt(text)
		return err == nil && receipt.Index == 3 && link.Failed(receipt) == nil
	})
	machine := object.NewVirtualMachine(c.Client, ref)
	done(t)(machine.Reconfigure(t.Context(), types.VirtualMachineConfigSpec{
		ExtraConfig: []types.BaseOptionValue{&types.OptionValue{Key: link.KeyGate, Value: link.GateOpen}},
	}))
	waitPower(t, c, ref, "poweredOff")
	if status := waitStatus(t, c, ref, tetherv1.State_EXITED); status.GetExit().GetCode() != 0 {
		t.Errorf("status %v", status)
	}
}
