package vmhost_test

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/containervm/containervm/hostd-bridge/internal/vm"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/vmtest"
)

const mib = int64(1) << 20

// volume makes a whole disk of 64 MiB with some content in the volumes' directory and returns its path.
func (h *host) volume(name string) string {
	h.t.Helper()
	rel := "cvm-volumes/" + name + ".vmdk"
	h.must(os.MkdirAll(h.store.HostPath("cvm-volumes"), 0o700))
	h.must(os.WriteFile(h.store.HostPath(rel), fmt.Appendf(nil, "%s\n%d\ndata of %s", vmtest.Whole, 64*mib, name), 0o600))
	return rel
}

func data(unit int, rel string) vm.DiskChange { return vm.DiskChange{Unit: unit, Path: rel} }

func readOnly(unit int, rel string) vm.DiskChange {
	return vm.DiskChange{Unit: unit, Path: rel, ReadOnly: true}
}

// with makes a VM with a disk of its own and data disks; it is off.
func (h *host) with(name string, disks ...vm.DiskChange) string {
	h.t.Helper()
	ref, err := h.Create(h.t.Context(), config(name), &vm.DiskChange{Create: true, Path: name + "/root.vmdk"}, disks...)
	h.must(err)
	return ref
}

// plugged returns the data disks in a VM's machine: the unit, the path and a star if it is written to.
func (h *host) plugged(ref string) string {
	var out []string
	disks := h.hv.Machine(ref).DataDisks()
	for _, unit := range slices.Sorted(maps.Keys(disks)) {
		star := "*"
		if disks[unit].ReadOnly {
			star = ""
		}
		out = append(out, fmt.Sprintf("%d:%s%s", unit, h.store.Rel(disks[unit].Path), star))
	}
	return strings.Join(out, " ")
}

// configured returns the data disks in a VM's configuration, as plugged does.
func (h *host) configured(ref string) string {
	var out []string
	for _, d := range h.vm(ref).DataDisks {
		star := "*"
		if d.ReadOnly {
			star = ""
		}
		out = append(out, fmt.Sprintf("%d:%s%s", d.Unit, d.Path, star))
	}
	return strings.Join(out, " ")
}

func (h *host) wantDisks(ref, want string) {
	h.t.Helper()
	if got := h.configured(ref); got != want {
		h.t.Errorf("the configuration of %s has %q, want %q", ref, got, want)
	}
	if m := h.hv.Machine(ref); m != nil && m.Exit() == nil {
		if got := h.plugged(ref); got != want {
			h.t.Errorf("the machine of %s has %q, want %q", ref, got, want)
		}
	}
	if v := h.vm(ref); v.InFlight != nil {
		h.t.Errorf("%s is half done", v.InFlight.Kind)
	}
}

// whole says of what files a volume consists, and fails unless its data is at the end of them.
func (h *host) whole(rel string) (files []string) {
	h.t.Helper()
	for range 20 {
		files = append(files, rel)
		content, err := os.ReadFile(h.store.HostPath(rel))
		h.must(err)
		if strings.HasPrefix(string(content), vmtest.Whole) {
			if !strings.Contains(string(content), "data of ") {
				h.t.Errorf("%v has lost its data: %q", files, content)
			}
			return files
		}
		parent, err := h.hv.DiskParent(h.t.Context(), h.store.HostPath(rel))
		h.must(err)
		rel = h.store.Rel(parent)
	}
	h.t.Fatalf("%v has no end", files)
	return nil
}

// Data disks are in the machine from the beginning, come and go while it runs, and stay when their VM goes, but for those that it made.
func TestDataDisks(t *testing.T) {
	h := newHost(t, vmtest.Idle)
	ctx := t.Context()
	one, two := h.volume("one"), h.volume("two")
	ref := h.with("a", data(1, one), readOnly(15, two))
	h.wantDisks(ref, "1:cvm-volumes/one.vmdk* 15:cvm-volumes/two.vmdk")
	if d := h.vm(ref).DataDisks[0]; d.Bytes != 64*mib || d.Owned || d.Parent != "" {
		t.Errorf("data disk %+v", d)
	}
	h.must(h.PowerOn(ctx, ref))
	h.wantDisks(ref, "1:cvm-volumes/one.vmdk* 15:cvm-volumes/two.vmdk")
	three := h.volume("three")
	h.must(h.Reconfigure(ctx, ref, vm.Change{DataDisks: []vm.DiskChange{
		{Unit: 1, Remove: true}, data(vm.AnyUnit, three), {Unit: 4, Create: true},
	}}))
	h.wantDisks(ref, "2:cvm-volumes/three.vmdk* 4:a/volume-4.vmdk* 15:cvm-volumes/two.vmdk")
	h.restart()
	h.wantDisks(ref, "2:cvm-volumes/three.vmdk* 4:a/volume-4.vmdk* 15:cvm-volumes/two.vmdk")
	h.must(h.PowerOff(ctx, ref))
	h.must(h.Reconfigure(ctx, ref, vm.Change{DataDisks: []vm.DiskChange{{Unit: 15, Remove: true}, data(6, one), {Unit: 8, Create: true}}}))
	h.wantDisks(ref, "2:cvm-volumes/three.vmdk* 4:a/volume-4.vmdk* 6:cvm-volumes/one.vmdk* 8:a/volume-8.vmdk*")
	h.must(h.Reconfigure(ctx, ref, vm.Change{DataDisks: []vm.DiskChange{{Unit: 4, Remove: true}, {Unit: 8, Remove: true, Drop: true}}}))
	if !h.exists("a/volume-4.vmdk") || h.exists("a/volume-8.vmdk") {
		t.Error("not the file of the removed disk that was to be destroyed is gone")
	}
	h.must(h.PowerOn(ctx, ref))
	h.wantDisks(ref, "2:cvm-volumes/three.vmdk* 6:cvm-volumes/one.vmdk*")
	h.end(ref)
	for _, rel := range []string{one, two, three} {
		h.whole(rel)
	}
	if h.exists("a") {
		t.Error("something of the VM is left")
	}
}

// What cannot be is refused by name, and nothing is changed.
func TestDataDisksThatCannotBe(t *testing.T) {
	h := newHost(t, vmtest.Idle)
	ctx := t.Context()
	one := h.volume("one")
	other := h.with("other", vm.DiskChange{Unit: 1, Create: true})
	h.must(h.PowerOn(ctx, other)) // while it is off it lends its disks
	user := h.with("user", vm.DiskChange{Unit: 1, Create: true, Parent: h.volume("parent")})
	h.write("cvm-forks/kept.vmdk")
	h.must(os.WriteFile(h.store.HostPath("cvm-volumes/bad.vmdk"), []byte("damaged"), 0o600))
	h.must(os.WriteFile(h.store.HostPath("cvm-volumes/out.vmdk"), []byte("../../outside.vmdk"), 0o600))
	h.must(os.WriteFile(h.store.HostPath("cvm-volumes/loop.vmdk"), []byte("loop.vmdk"), 0o600))
	ref := h.with("a", data(1, one))
	device, inUse, file := new(*vm.DeviceError), new(*vm.InUseError), new(*vm.FileError)
	for _, state := range []string{"off", "on"} {
		if state == "on" {
			h.must(h.PowerOn(ctx, ref))
		}
		for what, tc := range map[string]struct {
			change vm.DiskChange
			want   any
			words  string
		}{
			"unit taken":           {data(1, h.volume("free")), device, "unit 1 holds [local] cvm-volumes/one.vmdk"},
			"controller's unit":    {data(7, h.volume("free")), device, "7, which is the controller's"},
			"unit 16":              {data(16, h.volume("free")), device, "0 to 15"},
			"negative":             {data(-2, h.volume("free")), device, "0 to 15"},
			"twice":                {data(2, one), device, "already"},
			"no file":              {data(2, ""), device, "no file is named"},
			"missing":              {data(2, "cvm-volumes/none.vmdk"), file, "none.vmdk"},
			"directory":            {data(2, "cvm-volumes"), file, "not a file"},
			"damaged":              {data(2, "cvm-volumes/bad.vmdk"), file, "damaged"},
			"outside":              {data(2, "cvm-volumes/out.vmdk"), file, "not in the datastore"},
			"endless":              {data(2, "cvm-volumes/loop.vmdk"), file, "more than"},
			"another's root":       {data(2, "other/root.vmdk"), inUse, "VM other's own"},
			"another's data":       {readOnly(2, "other/volume-1.vmdk"), inUse, "VM other's own"},
			"a parent":             {data(2, "cvm-volumes/parent.vmdk"), inUse, "a disk of VM user is a delta"},
			"every disk's parent":  {data(2, "blank.vmdk"), inUse, "every new disk"},
			"a fork's":             {data(2, "cvm-forks/kept.vmdk"), device, "of forks"},
			"a parent for a file":  {vm.DiskChange{Unit: 2, Path: "cvm-volumes/free.vmdk", Parent: "blank.vmdk"}, device, "name none"},
			"over a file":          {vm.DiskChange{Unit: 2, Create: true, Path: one}, device, "already"},
			"over another file":    {vm.DiskChange{Unit: 2, Create: true, Path: "cvm-volumes/free.vmdk"}, file, "exists"},
			"no such disk":         {vm.DiskChange{Unit: 3, Remove: true}, device, "2003"},
			"destroy what it has":  {vm.DiskChange{Unit: 1, Remove: true, Drop: true}, device, "was given to VM a"},
			"a root that is there": {vm.DiskChange{Path: one}, device, "root slot holds"},
		} {
			h.volume("free")
			err := h.Reconfigure(ctx, ref, vm.Change{DataDisks: []vm.DiskChange{tc.change}})
			if err == nil || !errors.As(err, tc.want) || !strings.Contains(err.Error(), tc.words) {
				t.Errorf("%s: %s: %v, want %T with %q", state, what, err, tc.want, tc.words)
			}
			h.wantDisks(ref, "1:cvm-volumes/one.vmdk*")
		}
	}
	// a fifteenth disk
	var all []vm.DiskChange
	for n := range 14 {
		all = append(all, data(vm.AnyUnit, h.volume(fmt.Sprint("v", n))))
	}
	if err := h.Reconfigure(ctx, ref, vm.Change{DataDisks: all}); err == nil || !strings.Contains(err.Error(), "14 data disks") {
		t.Errorf("15 data disks: %v", err)
	}
	h.must(h.Reconfigure(ctx, ref, vm.Change{DataDisks: all[:13]}))
	if v := h.vm(ref); len(v.DataDisks) != 14 || v.DataDisk(7) != nil {
		t.Errorf("data disks %+v", v.DataDisks)
	}
	h.end(ref)
	h.end(other)
	h.must(h.Destroy(ctx, user))
}

// A VM that is off lends its disks to another one, also that in its root slot: those who have a disk exclude each other, none is destroyed with
// the one that borrowed it, nor before that.
func TestDisksOnLoan(t *testing.T) {
	h := newHost(t, vmtest.Idle)
	ctx := t.Context()
	owner := h.with("owner", vm.DiskChange{Unit: 1, Create: true})
	helper, err := h.Create(ctx, config("helper"), &vm.DiskChange{Path: "owner/root.vmdk"}, data(1, "owner/volume-1.vmdk"))
	h.must(err)
	locked := new(*vm.LockedError)
	for _, pair := range [][2]string{{helper, owner}, {owner, helper}} {
		h.must(h.PowerOn(ctx, pair[0]))
		if err := h.PowerOn(ctx, pair[1]); !errors.As(err, locked) || !strings.Contains(err.Error(), "owner/root.vmdk") {
			t.Errorf("both have their disks: %v", err)
		}
		h.must(h.PowerOff(ctx, pair[0]))
	}
	if err := h.Destroy(ctx, owner); err == nil || !strings.Contains(err.Error(), "VM helper needs its files") {
		t.Errorf("a disk on loan is destroyed: %v", err)
	}
	h.must(h.Destroy(ctx, helper))
	if !h.exists("owner/root.vmdk") || !h.exists("owner/volume-1.vmdk") {
		t.Error("a borrowed disk was destroyed")
	}
	h.must(h.PowerOn(ctx, owner))
	h.end(owner)
}

// Of those who have a file open none may write, but for one that is alone with it. Who is off has nothing open.
func TestOneWriterAtATime(t *testing.T) {
	h := newHost(t, vmtest.Idle)
	ctx := t.Context()
	v := h.volume("v")
	writer, second := h.with("writer", data(1, v)), h.with("second", data(3, v))
	reader, other := h.with("reader", readOnly(2, v)), h.with("other", readOnly(1, v))
	plain := h.with("plain")
	locked := func(err error, names string, writes bool) {
		t.Helper()
		var l *vm.LockedError
		if !errors.As(err, &l) || !slices.Contains(strings.Fields(names), l.Name) || l.Path != "[local] "+v || l.Writes != writes {
			t.Errorf("error %v, want the lock of %s", err, names)
		}
	}
	h.must(h.PowerOn(ctx, plain))
	h.must(h.PowerOn(ctx, writer))
	locked(h.PowerOn(ctx, second), "writer", true)
	locked(h.PowerOn(ctx, reader), "writer", true)
	locked(h.Reconfigure(ctx, plain, vm.Change{DataDisks: []vm.DiskChange{readOnly(1, v)}}), "writer", true)
	if off := h.vm(second); off.Power != vm.PoweredOff || off.Run != 0 || off.InFlight != nil || len(list(t, h.dir+"/run")) != 2 {
		t.Errorf("something is left of the start: %+v", off)
	}
	h.must(h.PowerOff(ctx, writer))
	h.must(h.PowerOn(ctx, reader))
	h.must(h.PowerOn(ctx, other))
	locked(h.PowerOn(ctx, writer), "reader other", false)
	h.must(h.Reconfigure(ctx, plain, vm.Change{DataDisks: []vm.DiskChange{readOnly(1, v)}}))
	h.must(h.Reconfigure(ctx, plain, vm.Change{DataDisks: []vm.DiskChange{{Unit: 1, Remove: true}}}))
	locked(h.Reconfigure(ctx, plain, vm.Change{DataDisks: []vm.DiskChange{data(1, v)}}), "reader other", false)
	h.restart()
	locked(h.Reconfigure(ctx, plain, vm.Change{DataDisks: []vm.DiskChange{data(1, v)}}), "reader other", false)
	h.must(h.PowerOff(ctx, reader))
	h.must(h.PowerOff(ctx, other))
	// many at once: one gets it
	var started, attached atomic.Int32
	var all sync.WaitGroup
	for _, ref := range []string{writer, second} {
		all.Go(func() {
			if h.PowerOn(ctx, ref) == nil {
				started.Add(1)
			}
		})
	}
	all.Go(func() {
		if h.Reconfigure(ctx, plain, vm.Change{DataDisks: []vm.DiskChange{data(1, v)}}) == nil {
			attached.Add(1)
		}
	})
	all.Wait()
	if started.Load()+attached.Load() != 1 {
		t.Errorf("%d VMs were started, %d had it attached", started.Load(), attached.Load())
	}
}

// A disk that has vanished, or is damaged, fails the start with its name.
func TestDataDiskVanished(t *testing.T) {
	h := newHost(t, vmtest.Idle)
	one, two := h.volume("one"), h.volume("two")
	ref := h.with("a", data(1, one), data(2, two))
	h.must(os.WriteFile(h.store.HostPath(two), []byte("damaged"), 0o600))
	var file *vm.FileError
	if err := h.PowerOn(t.Context(), ref); !errors.As(err, &file) || file.Path != "[local] "+two || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("a damaged disk: %v", err)
	}
	h.must(os.Remove(h.store.HostPath(one)))
	if err := h.PowerOn(t.Context(), ref); !errors.Is(err, fs.ErrNotExist) || !errors.As(err, &file) || file.Path != "[local] "+one {
		t.Errorf("a disk that is gone: %v", err)
	}
	if v := h.vm(ref); !off(v) || v.InFlight != nil {
		t.Errorf("VM %+v", v)
	}
}

// In one reconfiguration all disks are there before the guest is told, and go after it; when something fails all is as it was.
func TestManyDisksInOneChange(t *testing.T) {
	h := newHost(t, vmtest.Idle)
	ctx := t.Context()
	one, two, three := h.volume("one"), h.volume("two"), h.volume("three")
	ref, err := h.Create(ctx, config("a"), nil, data(1, one))
	h.must(err)
	h.must(h.PowerOn(ctx, ref))
	m := h.hv.Machine(ref)
	change := vm.Change{
		Disk:  &vm.DiskChange{Create: true, Path: "a/root.vmdk"},
		Extra: map[string]string{"guestinfo.a": "2", "guestinfo.spec": "x"},
		DataDisks: []vm.DiskChange{
			data(2, two), {Unit: 1, Remove: true}, {Unit: 3, Create: true}, data(4, three),
		},
	}
	before := "1:cvm-volumes/one.vmdk*"
	during := before + " 2:cvm-volumes/two.vmdk* 3:a/volume-3.vmdk* 4:cvm-volumes/three.vmdk*"
	broken := errors.New("broken")
	var failAt vmtest.Stage
	plugs, unplugs := 0, 0
	h.hv.On(vmtest.Tell, func() error {
		if m.Get("guestinfo.spec") == "" && failAt != "taking back" && (h.plugged(ref) != during || m.Disk() == "") {
			t.Errorf("the guest is told when the machine has %s", h.plugged(ref))
		}
		if failAt == vmtest.Tell {
			failAt = "taking back"
			return broken
		}
		return nil
	})
	h.hv.On(vmtest.Plug, func() error {
		if plugs++; failAt == vmtest.Plug && plugs == 3 {
			return broken
		}
		return nil
	})
	h.hv.On(vmtest.Unplug, func() error {
		if unplugs++; failAt == vmtest.Unplug && unplugs == 1 {
			return broken
		}
		return nil
	})
	for _, failAt = range []vmtest.Stage{vmtest.Plug, vmtest.Tell, vmtest.Unplug} {
		plugs, unplugs = 0, 0
		if err := h.Reconfigure(ctx, ref, change); !errors.Is(err, broken) {
			t.Fatalf("%s: %v", failAt, err)
		}
		h.wantDisks(ref, before)
		if v := h.vm(ref); v.Disk != nil || v.Extra["guestinfo.spec"] != "" || m.Disk() != "" || h.exists("a/root.vmdk") || h.exists("a/volume-3.vmdk") {
			t.Errorf("%s: something is left of the change: %+v", failAt, v)
		}
		if m.Get("guestinfo.spec") != "" || m.Get("guestinfo.a") != "1" {
			t.Errorf("%s: the guest reads what was taken back", failAt)
		}
	}
	failAt = ""
	h.must(h.Reconfigure(ctx, ref, change))
	h.wantDisks(ref, "2:cvm-volumes/two.vmdk* 3:a/volume-3.vmdk* 4:cvm-volumes/three.vmdk*")
	if m.Get("guestinfo.spec") != "x" || m.Disk() == "" || h.vm(ref).Disk == nil {
		t.Error("the change is not done")
	}
	// a disk that the guest does not let go of stays
	h.hv.On(vmtest.Unplug, func() error { return broken })
	if err := h.Reconfigure(ctx, ref, vm.Change{DataDisks: []vm.DiskChange{{Unit: 3, Remove: true, Drop: true}}}); !errors.Is(err, broken) {
		t.Errorf("a busy disk: %v", err)
	}
	h.wantDisks(ref, "2:cvm-volumes/two.vmdk* 3:a/volume-3.vmdk* 4:cvm-volumes/three.vmdk*")
	if !h.exists("a/volume-3.vmdk") {
		t.Error("the file of a busy disk is gone")
	}
}

// Each child of a running VM has what its source's disks were, in disks of its own, and reads what the source reads. A volume's data is
// whole whoever goes first, and what was kept for forks goes with the last disk that needs it.
func TestForksOfDataDisks(t *testing.T) {
	for _, guest := range []string{"running", "frozen"} {
		t.Run(guest, func(t *testing.T) {
			play := vmtest.Idle
			if guest == "frozen" {
				play = freezer
			}
			h := newHost(t, play)
			ctx := t.Context()
			v, shared := h.volume("v"), h.volume("shared")
			source := h.with("source", data(1, v), readOnly(3, shared), vm.DiskChange{Unit: 5, Create: true})
			h.must(h.PowerOn(ctx, source))
			if guest == "frozen" {
				h.wait(source, frozen)
			}
			a, b := h.clone(source, "a"), h.clone(source, "b")
			h.wantDisks(a, "1:a/volume-1.vmdk* 3:cvm-volumes/shared.vmdk 5:a/volume-5.vmdk*")
			h.wantDisks(b, "1:b/volume-1.vmdk* 3:cvm-volumes/shared.vmdk 5:b/volume-5.vmdk*")
			h.wantDisks(source, "1:cvm-volumes/v.vmdk* 3:cvm-volumes/shared.vmdk 5:source/volume-5.vmdk*")
			if d := h.vm(a).DataDisk(1); !d.Owned || d.Bytes != 64*mib {
				t.Errorf("the child's disk is %+v", d)
			}
			if files := h.whole(v); len(files) < 2 || path.Dir(files[1]) != "cvm-forks" {
				t.Errorf("the source goes on in %v", files)
			}
			if guest == "frozen" {
				if a, b := h.vm(a).DataDisk(1).Parent, h.vm(b).DataDisk(1).Parent; a != b {
					t.Errorf("what stands still was kept twice: %s, %s", a, b)
				}
			}
			c := h.clone(a, "c")
			for _, ref := range []string{a, b, c} {
				h.whole(h.vm(ref).DataDisk(1).Path)
			}
			h.restart()
			// an own disk of a fork is no use without its VM
			var device *vm.DeviceError
			if err := h.Reconfigure(ctx, a, vm.Change{DataDisks: []vm.DiskChange{{Unit: 1, Remove: true}}}); !errors.As(err, &device) {
				t.Errorf("a disk without its parents was kept: %v", err)
			}
			h.end(a, source)
			for _, left := range []string{h.vm(b).DataDisk(1).Path, h.vm(c).DataDisk(1).Path, h.vm(b).DataDisk(5).Path, v} {
				if left == h.vm(b).DataDisk(5).Path {
					h.chain(left)
					continue
				}
				h.whole(left)
			}
			h.must(h.Reconfigure(ctx, b, vm.Change{DataDisks: []vm.DiskChange{{Unit: 1, Remove: true, Drop: true}}}))
			h.end(b, c)
			// nobody has the volume now but its directory
			files := h.whole(v)
			h.restart()
			if again := h.whole(v); fmt.Sprint(again) != fmt.Sprint(files) {
				t.Errorf("the volume was %v and is %v", files, again)
			}
			if kept := list(t, h.store.HostPath("cvm-forks")); len(kept) != len(files)-1 {
				t.Errorf("kept are %v, the volume needs %v", kept, files)
			}
			again := h.with("again", data(1, v))
			h.must(h.PowerOn(ctx, again))
			h.end(again)
			h.whole(v)
			h.must(h.DeleteDisk(ctx, v))
			h.must(h.DeleteDisk(ctx, shared))
			h.nothingLeft()
		})
	}
}

// A frozen VM's data disks are kept once; when the VM has been off and on they are what it wrote since.
func TestForkOfAFrozenDataDisk(t *testing.T) {
	h := newHost(t, freezer)
	ctx := t.Context()
	v := h.volume("v")
	source := h.with("source", data(1, v))
	h.must(h.PowerOn(ctx, source))
	h.wait(source, frozen)
	a := h.clone(source, "a")
	first := h.vm(a).DataDisk(1).Parent
	h.restart()
	b := h.clone(source, "b")
	if h.vm(b).DataDisk(1).Parent != first {
		t.Errorf("kept were %s and %s", first, h.vm(b).DataDisk(1).Parent)
	}
	h.must(h.PowerOff(ctx, source))
	if h.vm(source).DataDisk(1).Point != "" {
		t.Error("a VM that is off has a fork point")
	}
	h.must(h.PowerOn(ctx, source))
	h.wait(source, frozen)
	c := h.clone(source, "c")
	if files := h.whole(h.vm(c).DataDisk(1).Path); len(files) != 3 || files[1] == first || files[2] != first {
		t.Errorf("the third child's disk is %v", files)
	}
	h.end(source, a, b, c)
	h.whole(v)
	h.must(h.DeleteDisk(ctx, v))
	h.nothingLeft()
}

// Nobody knows of a disk that a client has put somewhere after its VM is gone: it cannot be forked, and nothing is changed.
func TestDataDisksThatCannotBeForked(t *testing.T) {
	h := newHost(t, vmtest.Idle)
	h.must(os.MkdirAll(h.store.HostPath("elsewhere"), 0o700))
	h.must(os.WriteFile(h.store.HostPath("elsewhere/d.vmdk"), []byte(vmtest.Whole), 0o600))
	ref := h.with("a", data(1, "elsewhere/d.vmdk"))
	h.must(h.PowerOn(t.Context(), ref))
	var device *vm.DeviceError
	if _, err := h.InstantClone(t.Context(), ref, vm.CloneSpec{Name: "x"}); !errors.As(err, &device) || !strings.Contains(err.Error(), "cvm-volumes") {
		t.Errorf("fork: %v", err)
	}
	if len(list(t, h.store.HostPath("cvm-forks"))) != 0 || h.exists("x") {
		t.Error("something is left of the fork")
	}
	h.wantDisks(ref, "1:elsewhere/d.vmdk*")
}

// A clone of a template gets data disks in the one call, by the same rules.
func TestDataDisksAtFork(t *testing.T) {
	h := newHost(t, freezer)
	ctx := t.Context()
	v, ro := h.volume("v"), h.volume("ro")
	source := h.template("template", nil)
	spec := vm.CloneSpec{Name: "a", Disk: &vm.DiskChange{Create: true, Path: "a/root.vmdk"}, DataDisks: []vm.DiskChange{data(1, v), readOnly(2, ro)}}
	a, err := h.InstantClone(ctx, source, spec)
	h.must(err)
	h.wantDisks(a, "1:cvm-volumes/v.vmdk* 2:cvm-volumes/ro.vmdk")
	spec.Name, spec.Disk.Path = "b", "b/root.vmdk"
	var locked *vm.LockedError
	if _, err := h.InstantClone(ctx, source, spec); !errors.As(err, &locked) || locked.Name != "a" {
		t.Errorf("a second writer: %v", err)
	}
	if h.exists("b") || len(h.List()) != 2 {
		t.Error("something is left of the clone")
	}
	spec.DataDisks = spec.DataDisks[1:]
	b, err := h.InstantClone(ctx, source, spec)
	h.must(err)
	h.wantDisks(b, "2:cvm-volumes/ro.vmdk")
	h.end(a, b, source)
	h.whole(v)
	h.whole(ro)
}

// Disks that belong to no VM are made, made larger, moved and removed, as far as nobody needs them as they are.
func TestDisksOfNoVM(t *testing.T) {
	h := newHost(t, vmtest.Idle)
	ctx := t.Context()
	base := h.volume("base")
	argument, inUse, locked, file := new(*vm.ArgumentError), new(*vm.InUseError), new(*vm.LockedError), new(*vm.FileError)
	refused := func(what string, err error, want any, words string) {
		t.Helper()
		if err == nil || !errors.As(err, want) || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v, want %T with %q", what, err, want, words)
		}
	}
	h.must(h.CopyDisk(ctx, base, "cvm-volumes/v.vmdk", false))
	const v = "cvm-volumes/v.vmdk"
	h.whole(v)
	refused("copy over it", h.CopyDisk(ctx, base, v, false), file, "exists")
	h.must(h.CopyDisk(ctx, base, v, true))
	h.must(h.ExtendDisk(ctx, v, 1<<40))
	h.must(h.ExtendDisk(ctx, v, 1<<40)) // of a client that was not answered
	refused("smaller", h.ExtendDisk(ctx, v, 1<<30), argument, "never less")
	refused("too large", h.ExtendDisk(ctx, v, 1<<50), argument, "at most")
	ref := h.with("a", data(1, v))
	if h.vm(ref).DataDisks[0].Bytes != 1<<40 {
		t.Error("the VM does not see the size")
	}
	h.must(h.ExtendDisk(ctx, v, 2<<40))
	if h.vm(ref).DataDisks[0].Bytes != 2<<40 {
		t.Error("the VM does not see the new size")
	}
	refused("deleted", h.DeleteDisk(ctx, v), inUse, "VM a needs it")
	refused("removed with its directory", h.RemoveFile(ctx, "cvm-volumes"), inUse, "VM a")
	refused("moved", h.MoveDisk(ctx, v, "cvm-volumes/w.vmdk", false), inUse, "VM a")
	refused("replaced", h.CopyDisk(ctx, base, v, true), inUse, "VM a")
	h.must(h.PowerOn(ctx, ref))
	refused("extended while it is on", h.ExtendDisk(ctx, v, 3<<40), locked, "VM a writes")
	refused("copied while it is written", h.CopyDisk(ctx, v, "cvm-volumes/w.vmdk", false), locked, "VM a writes")
	child := h.clone(ref, "child")
	h.end(ref)
	refused("copy of a delta", h.CopyDisk(ctx, v, "cvm-volumes/w.vmdk", false), argument, "delta of [local] cvm-forks")
	refused("move of a delta", h.MoveDisk(ctx, v, "cvm-volumes/w.vmdk", false), argument, "delta of [local] cvm-forks")
	refused("move of a delta's file", h.MoveFile(ctx, v, "elsewhere.vmdk", false), inUse, "kept for a fork")
	refused("copy of a delta's file", h.CopyFile(ctx, v, "elsewhere.vmdk", false), inUse, "kept for a fork")
	refused("move of the directory", h.MoveFile(ctx, "cvm-volumes", "elsewhere", false), inUse, "known by it")
	refused("a kept disk", h.ExtendDisk(ctx, "cvm-forks/"+ref+"-1.vmdk", 3<<40), inUse, "of forks")
	refused("a root disk", h.ExtendDisk(ctx, "child/root.vmdk", 1<<40), inUse, "root slot of VM child")
	h.must(h.ExtendDisk(ctx, v, 3<<40)) // a volume that was forked goes on
	h.must(h.DeleteDisk(ctx, v))
	h.whole(h.vm(child).DataDisk(1).Path)
	h.end(child)
	if kept := list(t, h.store.HostPath("cvm-forks")); len(kept) != 0 {
		t.Errorf("kept are %v", kept)
	}
	h.must(h.MoveDisk(ctx, base, "other/base.vmdk", false))
	h.must(h.hv.CreateDisk(ctx, h.store.HostPath("delta.vmdk"), h.store.HostPath("other/base.vmdk")))
	refused("a parent", h.DeleteDisk(ctx, "other/base.vmdk"), inUse, "[local] delta.vmdk is a delta")
	refused("a parent is extended", h.ExtendDisk(ctx, "other/base.vmdk", 1<<40), inUse, "[local] delta.vmdk is a delta")
	h.must(h.DeleteDisk(ctx, "delta.vmdk"))
	h.must(h.DeleteDisk(ctx, "other/base.vmdk"))
	refused("what is gone", h.DeleteDisk(ctx, "other/base.vmdk"), file, "no such file")
}

// A volume whose header cannot be read may need any kept disk: nothing is cleared up while it is there.
func TestDamagedVolumeKeepsForks(t *testing.T) {
	h := newHost(t, vmtest.Idle)
	v := h.volume("v")
	ref := h.with("a", data(1, v))
	h.must(h.PowerOn(t.Context(), ref))
	child := h.clone(ref, "child")
	h.end(ref)
	content, err := os.ReadFile(h.store.HostPath(v))
	h.must(err)
	h.must(os.WriteFile(h.store.HostPath(v), []byte("damaged"), 0o600))
	h.end(child)
	h.restart()
	h.must(os.WriteFile(h.store.HostPath(v), content, 0o600)) // from a backup
	h.whole(v)
	h.must(h.DeleteDisk(t.Context(), v))
	h.restart()
	h.nothingLeft()
}
