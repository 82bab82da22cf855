package vmhost_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
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
	"github.com/containervm/containervm/hostd-bridge/internal/vm/vmhost"
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
	destroyAll(t, dir)
}

// destroyAll ends what the killed processes left, after which nothing is there.
func destroyAll(t *testing.T, dir string) {
	t.Helper()
	i, closeAll := openCrashed(t, dir)
	for _, v := range i.List() {
		if v.Power == vm.PoweredOn {
			if err := i.PowerOff(t.Context(), v.Ref); err != nil {
				t.Error(err)
			}
		}
		if err := i.Destroy(t.Context(), v.Ref); err != nil {
			t.Error(err)
		}
	}
	closeAll()
	checkCrashed(t, dir, i, nil)
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
	for w := range 4 {
		workers.Go(func() {
			for n := 0; ; n++ {
				name := fmt.Sprintf("vm-%d-%d-%d", os.Getpid(), w, n)
				if w%2 == 0 {
					life(t, i, name, tell)
				} else {
					family(t, i, name, tell)
				}
			}
		})
	}
	workers.Wait()
}

// step is an operation on the VM name, as it is told.
type step struct {
	name, op string
	do       func() error
}

func take(t *testing.T, steps []step, tell func(kind, name, op string)) {
	for _, s := range steps {
		tell("ask", s.name, s.op)
		if err := s.do(); err != nil {
			tell("failed", s.name, s.op+": "+err.Error())
			t.FailNow()
		}
		tell("got", s.name, s.op)
	}
}

// life makes a VM, does all that can be done to it, and destroys it.
func life(t *testing.T, i *vmhost.Host, name string, tell func(kind, name, op string)) {
	ctx, ref := context.Background(), ""
	own := &vm.DiskChange{Create: true, Path: "disks/" + name + ".vmdk"}
	take(t, []step{
		{name, "create", func() (err error) {
			ref, err = i.Create(ctx, config(name), nil)
			return err
		}},
		{name, "on", func() error { return i.PowerOn(ctx, ref) }},
		{name, "attach", func() error { return i.Reconfigure(ctx, ref, vm.Change{Disk: own}) }},
		{name, "detach", func() error {
			return i.Reconfigure(ctx, ref, vm.Change{Disk: &vm.DiskChange{Remove: true, Drop: true}})
		}},
		{name, "off", func() error { return i.PowerOff(ctx, ref) }},
		{name, "own", func() error { return i.Reconfigure(ctx, ref, vm.Change{Disk: own}) }},
		{name, "destroy", func() error { return i.Destroy(ctx, ref) }},
	}, tell)
}

// family makes a template with a disk, a clone of it, a clone of the clone that runs, and one of that when the first two are
// gone.
func family(t *testing.T, i *vmhost.Host, base string, tell func(kind, name, op string)) {
	ctx, refs := context.Background(), map[string]string{}
	clone := func(source, name string) step {
		return step{base + name, "clone", func() (err error) {
			refs[name], err = i.InstantClone(ctx, refs[source], vm.CloneSpec{Name: base + name})
			return err
		}}
	}
	off := func(name string) step {
		return step{base + name, "own", func() error { return i.PowerOff(ctx, refs[name]) }}
	}
	gone := func(name string) step {
		return step{base + name, "destroy", func() error { return i.Destroy(ctx, refs[name]) }}
	}
	c := config(base + "t")
	c.Extra[freezes] = "1"
	take(t, []step{
		{c.Name, "own", func() (err error) {
			refs["t"], err = i.Create(ctx, c, &vm.DiskChange{Create: true, Path: "disks/" + c.Name + ".vmdk"})
			return err
		}},
		{c.Name, "clone", func() error {
			if err := i.PowerOn(ctx, refs["t"]); err != nil {
				return err
			}
			return awaitFrozen(i, refs["t"])
		}},
		clone("t", "a"), clone("a", "b"), off("t"), gone("t"), off("a"), gone("a"), clone("b", "c"),
		off("b"), off("c"), gone("c"), gone("b"),
	}, tell)
}

func awaitFrozen(i *vmhost.Host, ref string) error {
	for {
		changed := i.Signal().Changed()
		if v, ok := i.Get(ref); !ok || v.Frozen {
			return nil
		}
		<-changed
	}
}

func openCrashed(t *testing.T, dir string) (i *vmhost.Host, closeAll func()) {
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
	i, err = vmhost.Open(context.Background(), vmhost.Options{
		Journal: j, Store: store, Hypervisor: fileHypervisor{}, Disks: vmtest.New(nil), RunDir: filepath.Join(dir, "run"),
		Prestart: 1, PrestartMemoryMiB: 100, HostMemoryMiB: 1 << 20, HostCPUs: 2, Blank: "blank.vmdk", Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return i, func() {
		if err := errors.Join(i.Close(), j.Close(), store.Close()); err != nil {
			t.Error(err)
		}
		for name := range list(t, filepath.Join(dir, "run")) {
			if strings.HasPrefix(name, "pre-") {
				t.Errorf("%s is left when the inventory is closed", name)
			}
		}
	}
}

// checkCrashed holds the inventory against the answers, and the files against the inventory.
func checkCrashed(t *testing.T, dir string, i *vmhost.Host, answers map[string]answer) {
	t.Helper()
	byName := map[string]*vm.VM{}
	homes := map[string]bool{"boot": true, "blank.vmdk": true, "disks": true, "cvm-forks": true}
	disks, running, kept := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, v := range i.List() {
		byName[v.Name] = v
		homes[v.Home] = true
		if v.Disk != nil {
			disks[v.Disk.Path] = true
			checkChain(t, filepath.Join(dir, "store"), v, kept)
		}
		if v.Power == vm.PoweredOn {
			running[v.Ref] = true
		}
		if v.InFlight != nil {
			t.Errorf("%s: %s is half done", v.Name, v.InFlight.Kind)
		}
	}
	for name, a := range answers {
		checkAnswer(t, name, a, byName[name])
	}
	same(t, "homes", list(t, filepath.Join(dir, "store")), homes)
	for path := range disks {
		if _, err := os.Stat(filepath.Join(dir, "store", path)); err != nil {
			t.Error(err)
		}
	}
	for name := range list(t, filepath.Join(dir, "store/disks")) {
		if !disks["disks/"+name] {
			t.Errorf("disks/%s belongs to no VM", name)
		}
	}
	same(t, "kept disks", list(t, filepath.Join(dir, "store/cvm-forks")), kept)
	machines := list(t, filepath.Join(dir, "run"))
	for name := range machines {
		if strings.HasPrefix(name, "pre-") { // prestarted since: checked when the inventory is closed
			delete(machines, name)
		}
	}
	same(t, "machines", machines, running)
}

// checkAnswer allows for each property what was answered last, and when a change of it was asked for, that too.
func checkAnswer(t *testing.T, name string, a answer, v *vm.VM) {
	t.Helper()
	exists := map[string]bool{"create": true, "on": true, "attach": true, "detach": true, "off": true, "own": true, "clone": true}
	on := map[string]bool{"on": true, "attach": true, "detach": true, "clone": true}
	disk := map[string]bool{"attach": true, "own": true, "clone": true}
	possible := []string{a.last}
	if a.asked != "" {
		possible = append(possible, a.asked)
	}
	for _, p := range possible {
		if (v != nil) == exists[p] && (v == nil || (v.Power == vm.PoweredOn) == on[p] && (v.Disk != nil) == disk[p]) {
			return
		}
	}
	t.Errorf("%s: answered %q, asked %q; found %+v", name, a.last, a.asked, v)
}

// checkChain holds what the inventory says of a disk against the disk, which must be whole, and adds its kept files.
func checkChain(t *testing.T, store string, v *vm.VM, kept map[string]bool) {
	t.Helper()
	rel := v.Disk.Path
	for n := 0; rel != "blank.vmdk"; n++ {
		name, err := os.ReadFile(filepath.Join(store, rel))
		if err != nil || n > 10 {
			t.Errorf("the disk of %s is not whole: %v", v.Name, err)
			return
		}
		parent := filepath.Join(filepath.Dir(rel), string(name))
		if n == 0 && parent != v.Disk.Parent {
			t.Errorf("the disk of %s is a delta of %s, not of %s", v.Name, parent, v.Disk.Parent)
		}
		if rel = parent; filepath.Dir(rel) == "cvm-forks" {
			kept[filepath.Base(rel)] = true
		}
	}
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
		if !found[name] && name != "disks" && name != "cvm-forks" { // made with the first disk
			t.Errorf("%s: %s is missing", what, name)
		}
	}
}
