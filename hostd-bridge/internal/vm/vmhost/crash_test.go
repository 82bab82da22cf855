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
	content := []byte(vmtest.Whole + "\n67108864\ndata")
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "store/cvm"), 0o700), os.WriteFile(filepath.Join(dir, "store/cvm/volume.vmdk"), content, 0o600)); err != nil {
		t.Fatal(err)
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
	for name := range list(t, filepath.Join(dir, "store/cvm-volumes")) {
		if err := i.DeleteDisk(t.Context(), "cvm-volumes/"+name); err != nil {
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
	volume := "cvm-volumes/" + name + ".vmdk"
	take(t, []step{
		{name, "create", func() (err error) {
			if err := makeVolume(i, volume); err != nil {
				return err
			}
			ref, err = i.Create(ctx, config(name), nil, data(3, volume))
			return err
		}},
		{name, "on", func() error { return i.PowerOn(ctx, ref) }},
		{name, "attach", func() error {
			return i.Reconfigure(ctx, ref, vm.Change{Disk: own, DataDisks: []vm.DiskChange{{Unit: 3, Remove: true}, {Unit: 2, Create: true}}})
		}},
		{name, "attach", func() error { return i.Reconfigure(ctx, ref, vm.Change{DataDisks: []vm.DiskChange{data(1, volume)}}) }},
		{name, "detach", func() error {
			return i.Reconfigure(ctx, ref, vm.Change{
				Disk: &vm.DiskChange{Remove: true, Drop: true}, DataDisks: []vm.DiskChange{{Unit: 1, Remove: true}, {Unit: 2, Remove: true, Drop: true}},
			})
		}},
		{name, "off", func() error { return i.PowerOff(ctx, ref) }},
		{name, "own", func() error { return i.Reconfigure(ctx, ref, vm.Change{Disk: own}) }},
		{name, "destroy", func() error { return i.Destroy(ctx, ref) }},
		{name, "destroy", func() error { return i.DeleteDisk(ctx, volume) }},
	}, tell)
}

// makeVolume makes a volume as a client does.
func makeVolume(i *vmhost.Host, rel string) error {
	if err := i.CopyDisk(context.Background(), "cvm/volume.vmdk", rel, false); err != nil {
		return err
	}
	return i.ExtendDisk(context.Background(), rel, 1<<30)
}

// family makes a template with a disk and a volume, a clone of it, a clone of the clone that runs, and one of that when the first two are
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
	volume := "cvm-volumes/" + c.Name + ".vmdk"
	take(t, []step{
		{c.Name, "own", func() (err error) {
			if err := makeVolume(i, volume); err != nil {
				return err
			}
			refs["t"], err = i.Create(ctx, c, &vm.DiskChange{Create: true, Path: "disks/" + c.Name + ".vmdk"}, data(1, volume))
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
		{base + "b", "destroy", func() error { return i.DeleteDisk(ctx, volume) }},
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
		Switches: vmtest.New(nil), NetDir: filepath.Join(dir, "net"),
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
	homes := map[string]bool{"boot": true, "blank.vmdk": true, "disks": true, "cvm-forks": true, "cvm-volumes": true, "cvm": true}
	disks, running, kept := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, v := range i.List() {
		byName[v.Name] = v
		homes[v.Home] = true
		if v.Disk != nil {
			disks[v.Disk.Path] = true
			checkChain(t, filepath.Join(dir, "store"), v.Name, v.Disk, kept)
		}
		for _, disk := range v.DataDisks {
			disks[disk.Path] = true
			checkChain(t, filepath.Join(dir, "store"), v.Name, &disk.Disk, kept)
		}
		checkMachine(t, dir, v)
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
	for name := range list(t, filepath.Join(dir, "store/cvm-volumes")) { // also those that no VM has
		if strings.HasSuffix(name, ".grown") { // of vmtest's GrowDisk
			continue
		}
		if !strings.HasSuffix(name, ".vmdk") {
			t.Errorf("cvm-volumes/%s is left of something", name)
		}
		checkChain(t, filepath.Join(dir, "store"), name, &vm.Disk{Path: "cvm-volumes/" + name}, kept)
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

// checkMachine holds the data disks of a machine against its VM's configuration.
func checkMachine(t *testing.T, dir string, v *vm.VM) {
	t.Helper()
	if v.Power != vm.PoweredOn {
		return
	}
	has, want := map[string]bool{}, map[string]bool{}
	for name := range list(t, filepath.Join(dir, "run", v.Ref)) {
		if strings.HasPrefix(name, "data-") {
			has[name] = true
		}
	}
	for _, disk := range v.DataDisks {
		name := fmt.Sprintf("data-%d", disk.Unit)
		want[name] = true
		if path, err := os.ReadFile(filepath.Join(dir, "run", v.Ref, name)); err == nil && string(path) != filepath.Join(dir, "store", disk.Path) {
			t.Errorf("the machine of %s has %s at unit %d, not %s", v.Name, path, disk.Unit, disk.Path)
		}
	}
	same(t, "data disks of "+v.Name, has, want)
}

// checkChain holds what the inventory says of a disk, which is owned if it has a parent there, against the disk, which must be whole, and
// adds its kept files.
func checkChain(t *testing.T, store, name string, disk *vm.Disk, kept map[string]bool) {
	t.Helper()
	rel := disk.Path
	for n := 0; rel != "blank.vmdk"; n++ {
		content, err := os.ReadFile(filepath.Join(store, rel))
		if err != nil || n > 10 {
			t.Errorf("the disk of %s is not whole: %v", name, err)
			return
		}
		first, rest, _ := strings.Cut(string(content), "\n")
		if first == vmtest.Whole {
			if !strings.HasSuffix(rest, "data") {
				t.Errorf("the disk of %s has lost its data: %q", name, content)
			}
			return
		}
		parent := filepath.Join(filepath.Dir(rel), first)
		if n == 0 && disk.Parent != "" && parent != disk.Parent {
			t.Errorf("the disk of %s is a delta of %s, not of %s", name, parent, disk.Parent)
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
		if !want[name] && name != datastore.ReserveDir {
			t.Errorf("%s: %s belongs to no VM", what, name)
		}
	}
	for name := range want {
		if !found[name] && name != "disks" && name != "cvm-forks" && name != "cvm-volumes" { // made with the first disk
			t.Errorf("%s: %s is missing", what, name)
		}
	}
}
