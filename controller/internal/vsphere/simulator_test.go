package vsphere_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/soap"

	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/hostd-bridge/hostapi"
)

// simulatorOf has the test binary be the simulator of an inventory, "host" or "vCenter", until its standard input ends.
const simulatorOf = "CVM_TEST_SIMULATOR"

func TestMain(m *testing.M) {
	if inventory := os.Getenv(simulatorOf); inventory != "" {
		server, remove, err := serve(inventories[inventory]())
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(server)
		_, _ = io.Copy(io.Discard, os.Stdin)
		remove()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// inventories are what is simulated: an ESXi host, and a vCenter with one host in a cluster.
var inventories = map[string]func() *simulator.Model{
	"host": simulator.ESX,
	"vCenter": func() *simulator.Model {
		model := simulator.VPX()
		model.Host, model.ClusterHost = 0, 1
		return model
	},
}

// serve returns the address of a simulator, with its user and password.
func serve(model *simulator.Model, edits ...func(*simulator.Service)) (*url.URL, func(), error) {
	model.Machine = 0
	if err := model.Create(); err != nil {
		return nil, nil, err
	}
	for _, edit := range edits {
		edit(model.Service)
	}
	server := model.Service.NewServer()
	return server.URL, func() {
		server.Close()
		model.Remove()
	}, nil
}

// simulate runs govmomi's simulator of an inventory, a server of the vSphere API that no one here wrote, with the boot index in
// its datastore. It is a process of its own: it has data races, which are not ours.
func simulate(t *testing.T, inventory string) vsphere.Config {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), simulatorOf+"="+inventory, "GORACE=exitcode=0 log_path="+filepath.Join(t.TempDir(), "races"))
	cmd.Stderr = t.Output()
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the simulator: %v", err)
		}
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	server, err := url.Parse(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	return upload(t, server)
}

// simulateEdited is a simulator of a host that is changed before it serves.
func simulateEdited(t *testing.T, edit func(*simulator.Service)) vsphere.Config {
	t.Helper()
	server, remove, err := serve(simulator.ESX(), edit)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(remove)
	return upload(t, server)
}

// upload puts the boot index into a simulator's datastore.
func upload(t *testing.T, server *url.URL) vsphere.Config {
	t.Helper()
	password, _ := server.User.Password()
	cfg := vsphere.Config{URL: server.Scheme + "://" + server.Host + server.Path, Username: server.User.Username(), Password: password, Insecure: true}
	c, err := govmomi.NewClient(t.Context(), server, true)
	if err != nil {
		t.Fatal(err)
	}
	store, err := find.NewFinder(c.Client).DefaultDatastore(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	index := `{"kernel":"cvm/boot/kernel","initrd":"cvm/boot/initrd","blank":"cvm/blank.vmdk"}`
	if err := store.Upload(t.Context(), strings.NewReader(index), hostapi.BootIndex, &soap.Upload{Method: "PUT", ContentLength: int64(len(index))}); err != nil {
		t.Fatal(err)
	}
	return cfg
}

func connect(t *testing.T, cfg vsphere.Config) *vsphere.Client {
	t.Helper()
	c, err := vsphere.Connect(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestSimulatorMachines(t *testing.T) {
	c := connect(t, simulate(t, "host"))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	boot := c.Boot()
	ref, err := c.CreateVM(ctx, vsphere.VMSpec{
		Name: "one", UUID: "01234567-89ab-4def-8123-456789abcdef", CPUs: 1, MemoryMiB: 64,
		Kernel: boot.Kernel, Initrd: boot.Initrd, ExtraConfig: map[string]string{"guestinfo.a": "1", "cvm.name": "x"},
	})
	must(err)
	now := func() vsphere.VM {
		t.Helper()
		vm, ok := c.Get("one")
		if !ok {
			t.Fatal("the VM is not in the inventory")
		}
		return vm
	}
	if vm := now(); vm.Ref != ref || vm.PowerState != vsphere.PoweredOff || vm.MemoryMiB != 64 || vm.Extra["guestinfo.a"] != "1" ||
		!strings.HasSuffix(vm.Extra[hostapi.KeyKernel], "cvm/boot/kernel") {
		t.Errorf("made: %+v", vm)
	}
	must(c.PowerOn(ctx, ref))
	if vm := now(); vm.PowerState != vsphere.PoweredOn {
		t.Errorf("powered on: %+v", vm)
	}
	if err := c.PowerOn(ctx, ref); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("power-on of one that is on: %v", err)
	}
	must(c.Reconfigure(ctx, ref, map[string]string{"guestinfo.a": "", "guestinfo.b": "2"}))
	if vm := now(); vm.Extra["guestinfo.b"] != "2" || vm.Extra["guestinfo.a"] != "" {
		t.Errorf("reconfigured: %v", vm.Extra)
	}
	must(c.PowerOff(ctx, ref))
	must(c.PowerOff(ctx, ref))
	must(c.Change(ctx, ref, vsphere.Change{CPUs: 2, MemoryMiB: 128}))
	if vm := now(); vm.CPUs != 2 || vm.MemoryMiB != 128 {
		t.Errorf("resized: %+v", vm)
	}
	must(c.Rename(ctx, ref, "two"))
	if vm, ok := c.Get("two"); !ok || vm.Ref != ref {
		t.Errorf("renamed: %+v", c.VMs())
	}
	// Not Destroy: the simulator does not tell a filter over a view that an object has left the view.
	if err := c.PowerOn(ctx, vsphere.Ref{Type: "VirtualMachine", Value: "vm-999"}); !errdefs.IsNotFound(err) {
		t.Errorf("power-on of what is not there: %v", err)
	}
}

func TestSimulatorFiles(t *testing.T) {
	c := connect(t, simulate(t, "host"))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for range 2 {
		if err := c.MakeDirectory(ctx, "a/b"); err != nil {
			t.Fatal(err)
		}
	}
	for _, text := range []string{"old", "newer"} {
		if err := c.Upload(ctx, "a/b/file", strings.NewReader(text)); err != nil {
			t.Fatal(err)
		}
	}
	if info, err := c.Stat(ctx, "a/b/file"); err != nil || info.Size != 5 || info.Directory {
		t.Errorf("stat: %+v, %v", info, err)
	}
	if _, err := c.Stat(ctx, "a/b/none"); !errdefs.IsNotFound(err) {
		t.Errorf("stat of a file that is not there: %v", err)
	}
	if err := c.MoveFile(ctx, "a/b/file", "a/b/moved"); err != nil {
		t.Fatal(err)
	}
	files, err := c.ListFiles(ctx, "a/b")
	if names := namesOf(files); err != nil || !slices.Equal(names, []string{"moved"}) {
		t.Errorf("files %v, %v", names, err)
	}
	r, err := c.Download(ctx, "a/b/moved")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if data, err := io.ReadAll(r); err != nil || string(data) != "newer" {
		t.Errorf("download: %q, %v", data, err)
	}
	for range 2 {
		if err := c.DeleteFile(ctx, "a/b/moved"); err != nil {
			t.Error(err)
		}
	}
	if _, err := c.Download(ctx, "a/b/moved"); !errdefs.IsNotFound(err) {
		t.Errorf("download of a file that is gone: %v", err)
	}
}

func namesOf(files []vsphere.FileInfo) (names []string) {
	for _, f := range files {
		names = append(names, f.Name)
	}
	return names
}

// TestSimulatorLacksExtensions: a host without streams and logs says so clearly.
func TestSimulatorLacksExtensions(t *testing.T) {
	c := connect(t, simulate(t, "host"))
	ref := vsphere.Ref{Type: "VirtualMachine", Value: "1"}
	if _, err := c.Link(t.Context(), ref); !errdefs.IsNotImplemented(err) {
		t.Errorf("vsock: %v", err)
	}
	if _, err := c.OpenLog(t.Context(), ref, 0, false, false); !errdefs.IsNotImplemented(err) {
		t.Errorf("log: %v", err)
	}
	if memory, err := c.Memory(t.Context()); len(memory) != 0 || err != nil {
		t.Errorf("an ESXi host measures %v (%v)", memory, err)
	}
	if pools, err := c.Pools(t.Context()); len(pools) != 0 || err != nil || c.Has(hostapi.ExtensionDiskAtFork) || c.CanClone() {
		t.Errorf("an ESXi host has pools %v (%v), takes disks at a fork: %v, makes clones: %v", pools, err, c.Has(hostapi.ExtensionDiskAtFork), c.CanClone())
	}
}
