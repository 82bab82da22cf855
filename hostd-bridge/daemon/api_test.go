package daemon_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/task"
	"github.com/vmware/govmomi/view"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/containervm/containervm/hostd-bridge/daemon"
	"github.com/containervm/containervm/hostd-bridge/daemon/daemontest"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/vmtest"
	"github.com/containervm/containervm/tether/link"
	"github.com/containervm/containervm/tether/link/linktest"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

func TestSessions(t *testing.T) {
	h := daemontest.Start(t, nil)
	c := anonymous(t, h.Endpoint)
	if _, err := c.SessionManager.UserSession(t.Context()); err != nil {
		t.Errorf("no session is no error for govmomi: %v", err)
	}
	if err := c.Login(t.Context(), url.UserPassword(h.Endpoint.Username, "wrong")); !fault.Is(err, &types.InvalidLogin{}) {
		t.Errorf("wrong password: %v", err)
	}
	c = connect(t, h.Endpoint)
	user, err := c.SessionManager.UserSession(t.Context())
	if err != nil || user == nil || user.UserName != h.Endpoint.Username {
		t.Fatalf("session %+v, error %v", user, err)
	}
	if active, err := c.SessionManager.SessionIsActive(t.Context()); err != nil || !active {
		t.Errorf("active %v, error %v", active, err)
	}
	if err := c.Logout(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := create(t, connect(t, h.Endpoint), spec(t, h.Endpoint, "one")); err != nil {
		t.Fatal(err)
	}
	_, err = methods.GetCurrentTime(t.Context(), c.Client)
	if !fault.Is(err, &types.NotAuthenticated{}) {
		t.Errorf("call after logout: %v", err)
	}
}

func TestFaults(t *testing.T) {
	h := daemontest.Start(t, nil)
	c := connect(t, h.Endpoint)
	on := runningVM(t, h.Endpoint, c, "on")
	machine := object.NewVirtualMachine(c.Client, on)
	created := func(edit func(*types.VirtualMachineConfigSpec)) error {
		s := spec(t, h.Endpoint, "new")
		edit(&s)
		_, err := create(t, c, s)
		return err
	}
	result := func(task *object.Task, err error) error {
		if err != nil {
			return err
		}
		return task.Wait(t.Context())
	}
	ctx := t.Context()
	gone := object.NewVirtualMachine(c.Client, types.ManagedObjectReference{Type: "VirtualMachine", Value: "vm-99"})
	for what, tc := range map[string]struct {
		err  error
		want types.BaseMethodFault
	}{
		"name taken":     {created(func(s *types.VirtualMachineConfigSpec) { s.Name = "on" }), &types.DuplicateName{}},
		"bad name":       {created(func(s *types.VirtualMachineConfigSpec) { s.Name = "a/b" }), &types.InvalidName{}},
		"no memory":      {created(func(s *types.VirtualMachineConfigSpec) { s.MemoryMB = 0 }), &types.InvalidArgument{}},
		"minus memory":   {created(func(s *types.VirtualMachineConfigSpec) { s.MemoryMB = -1 }), &types.InvalidArgument{}},
		"host's memory":  {created(func(s *types.VirtualMachineConfigSpec) { s.MemoryMB = 1 << 30 }), &types.InsufficientMemoryResourcesFault{}},
		"cpu limit":      {created(allocate(types.ResourceAllocationInfo{Limit: types.NewInt64(5)}, nil)), &types.InvalidArgument{}},
		"cpu below none": {created(allocate(types.ResourceAllocationInfo{Limit: types.NewInt64(-2)}, nil)), &types.InvalidArgument{}},
		"cpu reserved":   {created(allocate(types.ResourceAllocationInfo{Reservation: types.NewInt64(1)}, nil)), &types.NotSupported{}},
		"cpu shares":     {created(allocate(types.ResourceAllocationInfo{Shares: &types.SharesInfo{Level: "high"}}, nil)), &types.NotSupported{}},
		"memory limit":   {created(allocate(types.ResourceAllocationInfo{}, types.NewInt64(5))), &types.NotSupported{}},
		"out of the ds":  {created(func(s *types.VirtualMachineConfigSpec) { s.Files.VmPathName = "[local] ../x" }), &types.InvalidDatastorePath{}},
		"unknown ds":     {created(func(s *types.VirtualMachineConfigSpec) { s.Files.VmPathName = "[other]" }), &types.InvalidDatastorePath{}},
		"unknown device": {created(addDevice(&types.VirtualUSB{})), &types.InvalidDeviceSpec{}},
		"missing parent": {created(addDevice(disk("", "[local] none.vmdk"))), &types.FileNotFound{}},
		"on again":       {result(machine.PowerOn(ctx)), &types.InvalidPowerState{}},
		"destroy on":     {result(machine.Destroy(ctx)), &types.InvalidPowerState{}},
		"suspend":        {result(machine.Suspend(ctx)), &types.NotSupported{}},
		"gone":           {result(gone.PowerOn(ctx)), &types.ManagedObjectNotFound{}},
		"no tether":      {machine.ShutdownGuest(ctx), &types.ToolsUnavailable{}},
		"not served":     {result(machine.Relocate(ctx, types.VirtualMachineRelocateSpec{}, "")), &types.NotSupported{}},
		"bad property":   {machine.Properties(ctx, on, []string{"nonsense"}, &mo.VirtualMachine{}), &types.InvalidProperty{}},
	} {
		if !isFault(tc.err, tc.want) {
			t.Errorf("%s: %v, want %T", what, tc.err, tc.want)
		}
	}
}

// allocate asks for an allocation of CPU time, and a limit of memory.
func allocate(cpu types.ResourceAllocationInfo, memory *int64) func(*types.VirtualMachineConfigSpec) {
	return func(s *types.VirtualMachineConfigSpec) {
		s.CpuAllocation, s.MemoryAllocation = &cpu, &types.ResourceAllocationInfo{Limit: memory}
	}
}

// TestCPULimit: the limit of a VM's CPU time is its machine's, at once, and its clones'.
func TestCPULimit(t *testing.T) {
	h := daemontest.Start(t, nil)
	c := connect(t, h.Endpoint)
	s := spec(t, h.Endpoint, "one")
	s.CpuAllocation = &types.ResourceAllocationInfo{Limit: types.NewInt64(1000)}
	ref, err := create(t, c, s)
	if err != nil {
		t.Fatal(err)
	}
	limited := func(ref types.ManagedObjectReference, mhz int64, cpus float64) {
		t.Helper()
		var v mo.VirtualMachine
		if err := property.DefaultCollector(c.Client).RetrieveOne(t.Context(), ref, []string{"config", "resourceConfig"}, &v); err != nil {
			t.Fatal(err)
		}
		if a, b := *v.Config.CpuAllocation.Limit, *v.ResourceConfig.CpuAllocation.Limit; a != mhz || b != mhz {
			t.Errorf("the VM shows limits of %d and %d MHz, want %d", a, b, mhz)
		}
		if m := h.Hypervisor.Machine(ref.Value); m != nil && m.CPULimit() != cpus {
			t.Errorf("the machine has a limit of %v CPUs, want %v", m.CPULimit(), cpus)
		}
	}
	limited(ref, 1000, 0)
	powerOn(t, c, ref)
	limited(ref, 1000, 0.5)
	machine := object.NewVirtualMachine(c.Client, ref)
	change := func(mhz int64) (*object.Task, error) {
		return machine.Reconfigure(t.Context(), types.VirtualMachineConfigSpec{CpuAllocation: &types.ResourceAllocationInfo{Limit: &mhz}})
	}
	done(t)(change(3000))
	limited(ref, 3000, 1.5)
	h.Hypervisor.On(vmtest.LimitCPUs, func() error { return errors.New("no control group") })
	if task, err := change(500); err != nil || !strings.Contains(fmt.Sprint(task.Wait(t.Context())), "no control group") {
		t.Errorf("a limit that the machine cannot have: %v", err)
	}
	limited(ref, 3000, 1.5)
	h.Hypervisor.On(vmtest.LimitCPUs, nil)
	done(t)(machine.Reconfigure(t.Context(), types.VirtualMachineConfigSpec{Annotation: "x"}))
	limited(ref, 3000, 1.5)
	task, err := machine.InstantClone(t.Context(), types.VirtualMachineInstantCloneSpec{Name: "two"})
	if err != nil {
		t.Fatal(err)
	}
	info, err := task.WaitForResult(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	limited(info.Result.(types.ManagedObjectReference), 3000, 1.5)
	done(t)(change(-1))
	limited(ref, -1, 0)
}

// isFault says whether an error, of a call or of a task, is of the type of want.
func isFault(err error, want types.BaseMethodFault) bool {
	var failed task.Error
	if errors.As(err, &failed) {
		return fmt.Sprintf("%T", failed.Fault()) == fmt.Sprintf("%T", want)
	}
	if soap.IsSoapFault(err) {
		return fmt.Sprintf("*%T", soap.ToSoapFault(err).VimFault()) == fmt.Sprintf("%T", want)
	}
	return fault.Is(err, want)
}

func addDevice(d types.BaseVirtualDevice) func(*types.VirtualMachineConfigSpec) {
	return func(s *types.VirtualMachineConfigSpec) {
		change := &types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationAdd, Device: d}
		if _, ok := d.(*types.VirtualDisk); ok {
			change.FileOperation = types.VirtualDeviceConfigSpecFileOperationCreate
		}
		s.DeviceChange = append(s.DeviceChange, change)
	}
}

func disk(path, parent string) *types.VirtualDisk {
	file := func(name string) types.VirtualDeviceFileBackingInfo {
		return types.VirtualDeviceFileBackingInfo{FileName: name}
	}
	backing := &types.VirtualDiskFlatVer2BackingInfo{VirtualDeviceFileBackingInfo: file(path)}
	if parent != "" {
		backing.Parent = &types.VirtualDiskFlatVer2BackingInfo{VirtualDeviceFileBackingInfo: file(parent)}
	}
	return &types.VirtualDisk{VirtualDevice: types.VirtualDevice{Key: -1, ControllerKey: 1000, Backing: backing}}
}

// The way in which a controller watches all VMs: one filter over a ContainerView.
func TestWatchOverAContainerView(t *testing.T) {
	h := daemontest.Start(t, nil)
	c := connect(t, h.Endpoint)
	w := newWatch(t, c)
	if set := w.next(t); len(set.FilterSet) != 0 {
		t.Fatalf("an empty inventory has %+v", set.FilterSet)
	}
	ref := newVM(t, h.Endpoint, c, "one")
	w.expect(t, ref, types.ObjectUpdateKindEnter, "name", "one")
	powerOn(t, c, ref)
	w.expect(t, ref, types.ObjectUpdateKindModify, "runtime.powerState", types.VirtualMachinePowerStatePoweredOn)
	machine := object.NewVirtualMachine(c.Client, ref)
	done(t)(machine.Rename(t.Context(), "two"))
	w.expect(t, ref, types.ObjectUpdateKindModify, "name", "two")
	done(t)(machine.PowerOff(t.Context()))
	w.expect(t, ref, types.ObjectUpdateKindModify, "runtime.powerState", types.VirtualMachinePowerStatePoweredOff)
	done(t)(machine.Destroy(t.Context()))
	w.expect(t, ref, types.ObjectUpdateKindLeave, "", nil)
}

// watch is a property collector with one filter over all VMs.
type watch struct {
	client    *vim25.Client
	collector *property.Collector
	version   string
	options   *types.WaitOptions
}

func newWatch(t *testing.T, c *govmomi.Client) *watch {
	t.Helper()
	v, err := view.NewManager(c.Client).CreateContainerView(t.Context(), c.ServiceContent.RootFolder, []string{"VirtualMachine"}, true)
	if err != nil {
		t.Fatal(err)
	}
	p, err := property.DefaultCollector(c.Client).Create(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, err = p.CreateFilter(t.Context(), types.CreateFilter{Spec: types.PropertyFilterSpec{
		ObjectSet: []types.ObjectSpec{{Obj: v.Reference(), Skip: types.NewBool(true), SelectSet: []types.BaseSelectionSpec{
			&types.TraversalSpec{Type: "ContainerView", Path: "view"},
		}}},
		PropSet: []types.PropertySpec{{Type: "VirtualMachine", PathSet: []string{"name", "runtime.powerState"}}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return &watch{client: c.Client, collector: p}
}

// next waits for the next updates; nil when none came in the time that the options allow.
func (w *watch) next(t *testing.T) *types.UpdateSet {
	t.Helper()
	res, err := w.wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if res != nil {
		w.version = res.Version
	}
	return res
}

func (w *watch) wait(ctx context.Context) (*types.UpdateSet, error) {
	res, err := methods.WaitForUpdatesEx(ctx, w.client, &types.WaitForUpdatesEx{
		This: w.collector.Reference(), Version: w.version, Options: w.options,
	})
	if err != nil {
		return nil, err
	}
	return res.Returnval, nil
}

// expect waits for an update of an object, of a kind, with a property's value.
func (w *watch) expect(t *testing.T, ref types.ManagedObjectReference, kind types.ObjectUpdateKind, name string, value any) {
	t.Helper()
	for {
		for _, f := range w.next(t).FilterSet {
			for _, u := range f.ObjectSet {
				if u.Obj == ref && u.Kind == kind && (name == "" || changedTo(u.ChangeSet, name, value)) {
					return
				}
			}
		}
	}
}

func changedTo(changes []types.PropertyChange, name string, value any) bool {
	for _, c := range changes {
		if c.Name == name {
			return c.Val == value
		}
	}
	return false
}

func TestTruncatedUpdates(t *testing.T) {
	h := daemontest.Start(t, nil)
	c := connect(t, h.Endpoint)
	want := map[types.ManagedObjectReference]bool{}
	for n := range 5 {
		want[newVM(t, h.Endpoint, c, fmt.Sprintf("vm%d", n))] = true
	}
	w := newWatch(t, c)
	w.options = &types.WaitOptions{MaxObjectUpdates: 2, MaxWaitSeconds: types.NewInt32(0)}
	for rounds := 1; ; rounds++ {
		set := w.next(t)
		if set == nil {
			t.Fatal("no more updates, but some are missing")
		}
		objects := set.FilterSet[0].ObjectSet
		if len(objects) > 2 {
			t.Errorf("%d objects in one answer", len(objects))
		}
		for _, u := range objects {
			if !want[u.Obj] {
				t.Errorf("%s came twice", u.Obj)
			}
			delete(want, u.Obj)
		}
		if truncated := set.Truncated != nil && *set.Truncated; truncated != (len(want) > 0) {
			t.Errorf("round %d: truncated %v, %d to come", rounds, truncated, len(want))
		}
		if len(want) == 0 {
			break
		}
	}
	if set := w.next(t); set != nil {
		t.Errorf("updates of nothing: %+v", set)
	}
}

func TestVersionsAndCancel(t *testing.T) {
	h := daemontest.Start(t, nil)
	c := connect(t, h.Endpoint)
	newVM(t, h.Endpoint, c, "one")
	w := newWatch(t, c)
	w.next(t)
	last := w.version
	w.version = "17"
	if _, err := w.wait(t.Context()); !fault.Is(err, &types.InvalidCollectorVersion{}) {
		t.Errorf("unknown version: %v", err)
	}
	w.version = last
	waited := make(chan error, 1)
	go func() {
		_, err := w.wait(t.Context())
		waited <- err
	}()
	for { // until the wait is under way there is nothing to cancel
		if err := w.collector.CancelWaitForUpdates(t.Context()); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-waited:
			if !fault.Is(err, &types.RequestCanceled{}) {
				t.Errorf("canceled wait: %v", err)
			}
			return
		default:
		}
	}
}

func TestShutdownGuest(t *testing.T) {
	h := daemontest.Start(t, daemontest.TetherGuest(t, func(_ *daemontest.Machine, tether *linktest.Tether) {
		tether.Program("serve", func(p *linktest.Process) *tetherv1.Exit {
			fmt.Fprintln(p.Stdout, "up")
			<-p.Signals
			return linktest.Exited(3)
		})
	}))
	c := connect(t, h.Endpoint)
	text, err := link.EncodeSpec(&tetherv1.Spec{Hostname: "box", Process: &tetherv1.Process{Args: []string{"serve"}}})
	if err != nil {
		t.Fatal(err)
	}
	s := spec(t, h.Endpoint, "one")
	s.ExtraConfig = append(s.ExtraConfig, &types.OptionValue{Key: link.KeySpec, Value: text})
	ref, err := create(t, c, s)
	if err != nil {
		t.Fatal(err)
	}
	powerOn(t, c, ref)
	wait(t, c, ref, "guest.hostName", func(v any) bool { return v == "box" })
	waitStatus(t, c, ref, tetherv1.State_RUNNING)
	if err := object.NewVirtualMachine(c.Client, ref).ShutdownGuest(t.Context()); err != nil {
		t.Fatal(err)
	}
	waitPower(t, c, ref, "poweredOff")
	if status := waitStatus(t, c, ref, tetherv1.State_EXITED); status.GetExit().GetCode() != 3 {
		t.Errorf("status %v", status)
	}
}

// waitStatus waits until the guest has set a state.
func waitStatus(t *testing.T, c *govmomi.Client, ref types.ManagedObjectReference, state tetherv1.State) (status *tetherv1.Status) {
	t.Helper()
	wait(t, c, ref, "config.extraConfig", func(v any) bool {
		array, _ := v.(types.ArrayOfOptionValue)
		text, _ := object.OptionValueList(array.OptionValue).Get(link.KeyStatus)
		value, _ := text.(string)
		got, err := link.DecodeStatus(value)
		status = got
		return err == nil && got.GetState() == state
	})
	return status
}

// Killed or stopped, the next daemon shows what was answered, and the machines that run.
func TestRestart(t *testing.T) {
	h := daemontest.Start(t, nil)
	c := connect(t, h.Endpoint)
	on := runningVM(t, h.Endpoint, c, "on")
	newVM(t, h.Endpoint, c, "off")
	h.Stop()
	h.Run()
	c = connect(t, h.Endpoint)
	var vms []mo.VirtualMachine
	v, err := view.NewManager(c.Client).CreateContainerView(t.Context(), c.ServiceContent.RootFolder, []string{"VirtualMachine"}, true)
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Retrieve(t.Context(), []string{"VirtualMachine"}, []string{"name", "runtime"}, &vms); err != nil {
		t.Fatal(err)
	}
	got := map[string]types.VirtualMachinePowerState{}
	for _, v := range vms {
		got[v.Name] = v.Runtime.PowerState
	}
	if len(got) != 2 || got["on"] != "poweredOn" || got["off"] != "poweredOff" {
		t.Errorf("VMs after the restart: %v", got)
	}
	done(t)(object.NewVirtualMachine(c.Client, on).PowerOff(t.Context()))
}

func TestSecondDaemonIsRefused(t *testing.T) {
	h := daemontest.Start(t, nil)
	err := daemon.RunOn(t.Context(), h.Config(), h.Hypervisor, func(daemon.Endpoint) { t.Error("it serves") })
	if err == nil || !strings.Contains(err.Error(), "another hostd-bridge") {
		t.Errorf("error %v", err)
	}
}
