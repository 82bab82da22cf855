package vm_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containervm/containervm/hostd-bridge/internal/datastore"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/journal"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/vmtest"
)

// crashDir is the environment variable by which the test's own binary knows that it is the process to be killed.
const crashDir = "CVM_TEST_CRASH_DIR"

// crashRounds is how often the process is killed: enough to hit every kind of operation, in about two seconds.
const crashRounds = 15

// TestKilledProcess kills a process that works on an inventory, at random times, and holds what it has answered against
// what the next one finds: on the disk, in the inventory, and of the machines, which outlive the process.
func TestKilledProcess(t *testing.T) {
	if dir := os.Getenv(crashDir); dir != "" {
		work(t, dir)
		return
	}
	dir := t.TempDir()
	for _, rel := range []string{"store/boot/kernel", "store/boot/initrd", "store/blank.vmdk"} {
		path := filepath.Join(dir, rel)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	answers := map[string]answer{}
	for range crashRounds {
		killed(t, dir, answers)
		i, closeAll := openCrashed(t, dir)
		checkCrashed(t, dir, i, answers)
		closeAll()
		if t.Failed() {
			return
		}
	}
}

// answer is what a client knows of a VM: what was answered last, and what was asked for and not answered.
type answer struct{ last, asked string }

// killed runs the process until it has answered a few calls and for a random time more, and notes what it answered.
func killed(t *testing.T, dir string, answers map[string]answer) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestKilledProcess$")
	cmd.Env = append(os.Environ(), crashDir+"="+dir)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for n := 0; lines.Scan(); n++ {
		if n == 0 {
			time.AfterFunc(time.Duration(rand.IntN(60))*time.Millisecond, func() { _ = cmd.Process.Kill() })
		}
		kind, rest, _ := strings.Cut(lines.Text(), " ")
		name, op, _ := strings.Cut(rest, " ")
		a := answers[name]
		switch kind {
		case "ask":
			a.asked = op
		case "got":
			a.last, a.asked = op, ""
		default:
			t.Errorf("the process says %q", lines.Text())
			continue
		}
		answers[name] = a
	}
	_ = cmd.Wait() // it was killed
}

// work goes through the lives of VMs, several at a time, until the process is killed.
func work(t *testing.T, dir string) {
	i, _ := openCrashed(t, dir)
	var say sync.Mutex
	tell := func(kind, name, op string) {
		say.Lock()
		defer say.Unlock()
		fmt.Println(kind, name, op)
	}
	var workers sync.WaitGroup
	for w := range 3 {
		workers.Go(func() {
			for n := 0; ; n++ {
				life(t, i, fmt.Sprintf("vm-%d-%d-%d", os.Getpid(), w, n), tell)
			}
		})
	}
	workers.Wait()
}

// life makes a VM, does all that can be done to it, and destroys it.
func life(t *testing.T, i *vm.Inventory, name string, tell func(kind, name, op string)) {
	ctx, ref := context.Background(), ""
	for _, step := range []struct {
		op string
		do func() error
	}{
		{"create", func() (err error) {
			ref, err = i.Create(ctx, config(name), nil)
			return err
		}},
		{"on", func() error { return i.PowerOn(ctx, ref) }},
		{"attach", func() error {
			return i.Reconfigure(ctx, ref, vm.Change{Disk: &vm.DiskChange{Create: true, Path: "disks/" + name + ".vmdk"}})
		}},
		{"detach", func() error {
			return i.Reconfigure(ctx, ref, vm.Change{Disk: &vm.DiskChange{Remove: true, Drop: true}})
		}},
		{"off", func() error { return i.PowerOff(ctx, ref) }},
		{"own", func() error {
			return i.Reconfigure(ctx, ref, vm.Change{Disk: &vm.DiskChange{Create: true, Path: "disks/" + name + ".vmdk"}})
		}},
		{"destroy", func() error { return i.Destroy(ctx, ref) }},
	} {
		tell("ask", name, step.op)
		if err := step.do(); err != nil {
			tell("failed", name, step.op+": "+err.Error())
			t.FailNow()
		}
		tell("got", name, step.op)
	}
}

func openCrashed(t *testing.T, dir string) (i *vm.Inventory, closeAll func()) {
	t.Helper()
	store, err := datastore.Open(filepath.Join(dir, "store"))
	if err != nil {
		t.Fatal(err)
	}
	j, err := journal.Open(filepath.Join(dir, "journal"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "run"), 0o700); err != nil {
		t.Fatal(err)
	}
	i, err = vm.Open(context.Background(), vm.Options{
		Journal: j, Store: store, Hypervisor: fileHypervisor{}, Disks: vmtest.New(nil), RunDir: filepath.Join(dir, "run"),
		HostMemoryMiB: 1 << 20, HostCPUs: 2, Blank: "blank.vmdk", Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return i, func() {
		if err := errors.Join(i.Close(), j.Close(), store.Close()); err != nil {
			t.Error(err)
		}
	}
}

// checkCrashed holds the inventory against the answers, and the files against the inventory.
func checkCrashed(t *testing.T, dir string, i *vm.Inventory, answers map[string]answer) {
	t.Helper()
	byName := map[string]*vm.VM{}
	homes, disks, running := map[string]bool{"boot": true, "blank.vmdk": true, "disks": true}, map[string]bool{}, map[string]bool{}
	for _, v := range i.List() {
		byName[v.Name] = v
		homes[v.Home] = true
		if v.Disk != nil {
			disks[filepath.Base(v.Disk.Path)] = true
		}
		if v.Power == vm.PoweredOn {
			running[v.Ref] = true
		}
		if v.Pending != nil {
			t.Errorf("%s: %s is half done", v.Name, v.Pending.Kind)
		}
	}
	for name, a := range answers {
		checkAnswer(t, name, a, byName[name])
	}
	same(t, "homes", list(t, filepath.Join(dir, "store")), homes)
	same(t, "disks", list(t, filepath.Join(dir, "store/disks")), disks)
	same(t, "machines", list(t, filepath.Join(dir, "run")), running)
}

// checkAnswer allows for each property what was answered last, and when a change of it was asked for, that too.
func checkAnswer(t *testing.T, name string, a answer, v *vm.VM) {
	t.Helper()
	order := []string{"", "create", "on", "attach", "detach", "off", "own", "destroy"}
	exists := map[string]bool{"create": true, "on": true, "attach": true, "detach": true, "off": true, "own": true}
	on := map[string]bool{"on": true, "attach": true, "detach": true}
	disk := map[string]bool{"attach": true, "own": true}
	possible := []string{a.last}
	for n, op := range order {
		if op == a.asked && a.asked != "" {
			possible = append(possible, order[n])
		}
	}
	for _, p := range possible {
		if (v != nil) == exists[p] && (v == nil || (v.Power == vm.PoweredOn) == on[p] && (v.Disk != nil) == disk[p]) {
			return
		}
	}
	t.Errorf("%s: answered %q, asked %q; found %+v", name, a.last, a.asked, v)
}

func list(t *testing.T, dir string) map[string]bool {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, e := range entries {
		names[e.Name()] = true
	}
	return names
}

func same(t *testing.T, what string, found, want map[string]bool) {
	t.Helper()
	for name := range found {
		if !want[name] {
			t.Errorf("%s: %s belongs to no VM", what, name)
		}
	}
	for name := range want {
		if !found[name] && name != "disks" { // made with the first disk
			t.Errorf("%s: %s is missing", what, name)
		}
	}
}

// fileHypervisor is a vm.Hypervisor whose machines are files, so that they outlive the process: the file "machine" in
// the run directory stands for a supervisor, and holds what is in the root slot.
type fileHypervisor struct{}

func (fileHypervisor) Describe() string { return "files, for tests" }

func (fileHypervisor) Start(_ context.Context, spec vm.MachineSpec) (vm.Machine, error) {
	m := newFileMachine(spec.RunDir)
	return m, os.WriteFile(m.path, []byte(spec.RootDisk), 0o600)
}

func (fileHypervisor) Adopt(_ context.Context, runDir string) (vm.Machine, *vm.Exit, error) {
	m := newFileMachine(runDir)
	if _, err := os.Stat(m.path); err != nil {
		return nil, &vm.Exit{At: time.Now(), Reason: "no trace of a machine"}, nil
	}
	return m, nil, nil
}

func (fileHypervisor) Prepare(context.Context, vm.Template, vm.ChildSpec) (vm.Child, error) {
	return nil, errors.ErrUnsupported
}

type fileMachine struct {
	path   string
	events chan vm.Event
	once   sync.Once
}

func newFileMachine(runDir string) *fileMachine {
	return &fileMachine{path: filepath.Join(runDir, "machine"), events: make(chan vm.Event, 1)}
}

func (m *fileMachine) Events() <-chan vm.Event { return m.events }

func (m *fileMachine) AttachDisk(_ context.Context, path string) error {
	if held, err := os.ReadFile(m.path); err != nil || len(held) > 0 {
		return fmt.Errorf("the slot holds %q, %w", held, err)
	}
	return os.WriteFile(m.path, []byte(path), 0o600)
}

func (m *fileMachine) DetachDisk(context.Context) error { return os.WriteFile(m.path, nil, 0o600) }

func (m *fileMachine) Kill(context.Context) error {
	if err := os.Remove(m.path); err != nil {
		return err
	}
	m.events <- vm.Event{Exit: &vm.Exit{At: time.Now(), Reason: "killed"}}
	return m.Close()
}

func (m *fileMachine) Close() error {
	m.once.Do(func() { close(m.events) })
	return nil
}

func (m *fileMachine) SetGuestinfo(context.Context, map[string]string) error { return nil }
func (m *fileMachine) Pause(context.Context) error                           { return nil }
func (m *fileMachine) Resume(context.Context) error                          { return nil }
func (m *fileMachine) Reset(context.Context) error                           { return nil }
func (m *fileMachine) Template(context.Context) (vm.Template, error) {
	return nil, errors.ErrUnsupported
}
func (m *fileMachine) Snapshot(context.Context, string) (vm.Template, error) {
	return nil, errors.ErrUnsupported
}
func (m *fileMachine) Dial(context.Context, uint32) (net.Conn, error) {
	return nil, errors.New("nobody listens")
}
func (m *fileMachine) Log(context.Context, int64, bool) (io.ReadCloser, error) {
	return nil, errors.New("there is no log")
}
