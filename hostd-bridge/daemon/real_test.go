package daemon_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/cgroups/v3"
	"github.com/containerd/cgroups/v3/cgroup1"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/containervm/containervm/hostd-bridge/daemon"
	"github.com/containervm/containervm/internal/vmtest"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// realConfig is that of a daemon on QEMU; the test is skipped where something for it is missing.
func realConfig(t *testing.T) daemon.Config {
	t.Helper()
	if testing.Short() {
		t.Skip("boots a real VM (leave -short out)")
	}
	guest, err := filepath.Abs("../../bin/guest")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"vmlinux", "bzImage", "initramfs.cpio", "blank.vmdk", "volume.vmdk"} {
		if _, err := os.Stat(filepath.Join(guest, name)); err != nil {
			vmtest.Missing(t, fmt.Sprintf("no guest's artefacts (make guest): %v", err))
		}
	}
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		vmtest.Missing(t, fmt.Sprintf("no QEMU (apt-get install qemu-system-x86): %v", err))
	}
	dir, err := os.MkdirTemp("", "cvm") // socket paths are at most 107 bytes: the test's own directory is too long
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	supervisor := filepath.Join(dir, "cvm-supervisor")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", supervisor, "../supervisor")
	build.Env = append(build.Environ(), "CGO_ENABLED=0") // as users get it: no other can be confined
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("cannot build the supervisor: %v\n%s", err, out)
	}
	return daemon.Config{
		StateDir: filepath.Join(dir, "state"), RunDir: filepath.Join(dir, "run"), GuestDir: guest,
		Listen: "127.0.0.1:0", Supervisor: supervisor, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
}

// runReal runs a daemon until stop is called.
func runReal(t *testing.T, c daemon.Config) (e daemon.Endpoint, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan daemon.Endpoint, 1), make(chan error, 1)
	go func() { ended <- daemon.Run(ctx, c, func(e daemon.Endpoint) { ready <- e }) }()
	select {
	case e = <-ready:
	case err := <-ended:
		t.Fatalf("daemon ended at start: %v", err)
	}
	return e, func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("daemon: %v", err)
		}
	}
}

// A real guest, driven by govmomi, is found again by the next daemon, takes a disk while it runs, and shuts down.
func TestRealVMOutlivesTheDaemon(t *testing.T) {
	config := realConfig(t)
	e, stop := runReal(t, config)
	c := connect(t, e)
	text, err := link.EncodeSpec(&tetherv1.Spec{Mode: tetherv1.Mode_UNPACK, Hostname: "box"})
	if err != nil {
		t.Fatal(err)
	}
	s := spec(t, e, "real")
	s.MemoryMB = 128
	s.CpuAllocation = &types.ResourceAllocationInfo{Limit: types.NewInt64(1800)} // of 2000
	s.ExtraConfig = append(s.ExtraConfig, &types.OptionValue{Key: link.KeySpec, Value: text})
	ref, err := create(t, c, s)
	if err != nil {
		t.Fatal(err)
	}
	powerOn(t, c, ref)
	waitStatus(t, c, ref, tetherv1.State_RUNNING)
	stop()
	e, stop = runReal(t, config)
	defer stop()
	c = connect(t, e)
	status := waitStatus(t, c, ref, tetherv1.State_RUNNING)
	if procs := groups(t); len(procs) != 1 || len(procs[0]) < 2 {
		t.Errorf("control groups with the processes %v, want one with a supervisor and QEMU", procs)
	}
	machine := object.NewVirtualMachine(c.Client, ref)
	defer func() {
		if t.Failed() { // nothing may go on running
			if task, err := machine.PowerOff(context.Background()); err == nil {
				_ = task.Wait(context.Background())
			}
		}
	}()
	hot := disk("[local] hot/disk.vmdk", "")
	hot.CapacityInKB = 1 << 20 // what makes govmomi ask for a new file
	if err := machine.AddDevice(t.Context(), hot); err != nil {
		t.Fatal(err)
	}
	devices, err := machine.Device(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := machine.RemoveDevice(t.Context(), true, devices.SelectByType(&types.VirtualDisk{})...); err != nil {
		t.Fatal(err)
	}
	if err := machine.ShutdownGuest(t.Context()); err != nil {
		t.Fatalf("guest with status %v: %v", status, err)
	}
	waitPower(t, c, ref, "poweredOff")
	done(t)(machine.Destroy(t.Context()))
	for end := time.Now().Add(20 * time.Second); len(groups(t)) > 0; time.Sleep(10 * time.Millisecond) { // the supervisor goes last
		if time.Now().After(end) {
			t.Fatalf("control groups of a machine that is gone, with the processes %v", groups(t))
		}
	}
	left, err := os.ReadDir(filepath.Join(config.RunDir, "vm"))
	if err != nil || len(left) != 0 {
		t.Errorf("left in the run directory: %v, %v", left, err)
	}
}

// groups are the processes in each of the control groups that this process has made.
func groups(t *testing.T) (procs [][]string) {
	t.Helper()
	dir, controller := "/sys/fs/cgroup", ""
	if cgroups.Mode() != cgroups.Unified {
		own, err := cgroup1.ParseCgroupFile("/proc/self/cgroup")
		if err != nil {
			t.Fatal(err)
		}
		dir, controller = filepath.Join(dir, "cpu"), own["cpu"]
	}
	found, err := filepath.Glob(filepath.Join(dir, controller, "containervm", strconv.Itoa(os.Getpid())+"-*", "cgroup.procs"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range found {
		if text, err := os.ReadFile(path); err == nil {
			procs = append(procs, strings.Fields(string(text)))
		}
	}
	return procs
}

// Volumes of real machines: at the boot, plugged in and taken out while they run, forked with them, and opened again as deltas of what was
// kept. QEMU's tools find nothing wrong with what is left.
func TestRealDataDisks(t *testing.T) {
	config := realConfig(t)
	e, stop := runReal(t, config)
	defer func() { stop() }()
	c := connect(t, e)
	blank := strings.TrimPrefix(bootFile(t, e, "volume"), "[local] ")
	volumes := []string{"cvm-volumes/one.vmdk", "cvm-volumes/two.vmdk"}
	for _, v := range volumes {
		mustGovc(t, e, "datastore.cp", blank, v)
		mustGovc(t, e, "datastore.disk.extend", "-size", "100G", v)
	}
	check := func() {
		t.Helper()
		for _, v := range volumes {
			path := filepath.Join(config.StateDir, "hostd", "datastore", v)
			if out, err := exec.CommandContext(t.Context(), "qemu-img", "check", path).CombinedOutput(); err != nil {
				t.Errorf("%s: %v: %s", v, err, out)
			}
		}
	}
	check()
	made := func(name string, disks ...*types.VirtualDisk) types.ManagedObjectReference {
		t.Helper()
		text, err := link.EncodeSpec(&tetherv1.Spec{Mode: tetherv1.Mode_UNPACK, Hostname: name})
		if err != nil {
			t.Fatal(err)
		}
		s := spec(t, e, name)
		s.MemoryMB = 128
		s.ExtraConfig = append(s.ExtraConfig, &types.OptionValue{Key: link.KeySpec, Value: text})
		for _, d := range disks {
			s.DeviceChange = append(s.DeviceChange, &types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationAdd, Device: d})
		}
		ref, err := create(t, c, s)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { // nothing may go on running; it has ended where all went well
			if task, err := object.NewVirtualMachine(c.Client, ref).PowerOff(context.Background()); err == nil {
				_ = task.Wait(context.Background())
			}
		})
		return ref
	}
	volume := func(unit int32, rel string) *types.VirtualDisk {
		d := disk("[local] "+rel, "")
		d.UnitNumber = types.NewInt32(unit)
		return d
	}
	one := made("one", volume(1, volumes[0]))
	powerOn(t, c, one)
	waitStatus(t, c, one, tetherv1.State_RUNNING)
	machine := object.NewVirtualMachine(c.Client, one)
	change := func(spec *types.VirtualDeviceConfigSpec) {
		t.Helper()
		done(t)(machine.Reconfigure(t.Context(), types.VirtualMachineConfigSpec{DeviceChange: []types.BaseVirtualDeviceConfigSpec{spec}}))
	}
	change(&types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationAdd, Device: volume(9, volumes[1])})
	stop() // the next daemon finds what the machine has
	e, stop = runReal(t, config)
	c = connect(t, e)
	machine = object.NewVirtualMachine(c.Client, one)
	two := made("two", volume(1, volumes[1]))
	task, err := object.NewVirtualMachine(c.Client, two).PowerOn(t.Context())
	if err == nil {
		err = task.Wait(t.Context())
	}
	if !isFault(err, &types.FileLocked{}) {
		t.Errorf("a second writer: %v", err)
	}
	child, err := instantClone(t, c, one, types.VirtualMachineInstantCloneSpec{Name: "child"})
	if err != nil {
		t.Fatal(err)
	}
	wants(t, mustGovc(t, e, "device.ls", "-vm", "child"), "disk-1000-1", "disk-1000-9")
	wants(t, mustGovc(t, e, "datastore.ls", "child"), "volume-1.vmdk", "volume-9.vmdk")
	change(&types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationRemove, Device: &types.VirtualDisk{
		VirtualDevice: types.VirtualDevice{Key: 2009, ControllerKey: 1000},
	}})
	powerOn(t, c, two) // from a delta of what was kept
	waitStatus(t, c, two, tetherv1.State_RUNNING)
	for _, ref := range []types.ManagedObjectReference{child, two, one} {
		vm := object.NewVirtualMachine(c.Client, ref)
		done(t)(vm.PowerOff(t.Context()))
		done(t)(vm.Destroy(t.Context()))
	}
	check()
	for _, v := range volumes {
		mustGovc(t, e, "datastore.rm", v)
	}
	for _, dir := range []string{"cvm-forks", "cvm-volumes"} {
		if left, err := os.ReadDir(filepath.Join(config.StateDir, "hostd", "datastore", dir)); err != nil || len(left) != 0 {
			t.Errorf("left in %s: %v, %v", dir, left, err)
		}
	}
}
