package vmhost_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/datastore"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/admission"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/journal"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/vmhost"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/vmtest"
)

// host is an inventory with all it needs, which can be killed and started again.
type host struct {
	*vmhost.Host
	t       *testing.T
	dir     string
	hv      *vmtest.Hypervisor
	store   *datastore.Store
	journal *journal.Journal
	options vmhost.Options // those that are not the usual
}

// newHost returns a host whose inventory has not all of the usual options when edits change them.
func newHost(t *testing.T, guest vmtest.Guest, edits ...func(*vmhost.Options)) *host {
	t.Helper()
	h := &host{t: t, dir: t.TempDir(), hv: vmtest.New(guest)}
	h.options = vmhost.Options{HostMemoryMiB: 1000, HostCPUs: 2, Blank: "blank.vmdk", Log: slog.New(slog.DiscardHandler)}
	for _, edit := range edits {
		edit(&h.options)
	}
	h.open()
	for _, rel := range []string{"boot/kernel", "boot/initrd", "blank.vmdk"} {
		h.write(rel)
	}
	return h
}

func (h *host) open() {
	h.t.Helper()
	var err error
	if h.store, err = datastore.Open(filepath.Join(h.dir, "store")); err != nil {
		h.t.Fatal(err)
	}
	if h.journal, err = journal.Open(filepath.Join(h.dir, "journal")); err != nil {
		h.t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(h.dir, "run"), 0o700); err != nil {
		h.t.Fatal(err)
	}
	o := h.options
	o.Journal, o.Store, o.Hypervisor, o.RunDir = h.journal, h.store, h.hv, filepath.Join(h.dir, "run")
	o.Switches, o.NetDir = h.hv, filepath.Join(h.dir, "net")
	if o.Disks == nil {
		o.Disks = h.hv
	}
	h.Host, err = vmhost.Open(h.t.Context(), o)
	if err != nil {
		h.t.Fatal(err)
	}
}

// restart closes the inventory and opens it again; the machines go on.
func (h *host) restart() {
	h.t.Helper()
	if err := errors.Join(h.Close(), h.journal.Close(), h.store.Close()); err != nil {
		h.t.Fatal(err)
	}
	h.open()
}

func (h *host) write(rel string) {
	h.t.Helper()
	path := h.store.HostPath(rel)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(rel), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) exists(rel string) bool {
	h.t.Helper()
	_, err := h.store.Stat(rel)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		h.t.Fatal(err)
	}
	return err == nil
}

func config(name string) vm.Config {
	return vm.Config{
		Name: name, Pool: vm.RootPool, CPUs: 1, MemoryMiB: 100, NICs: []vm.Card{{}},
		Extra: map[string]string{hostapi.KeyKernel: "[local] boot/kernel", hostapi.KeyInitrd: "[local] boot/initrd", "guestinfo.a": "1"},
	}
}

func (h *host) create(c vm.Config, disk *vm.DiskChange) string {
	h.t.Helper()
	ref, err := h.Create(h.t.Context(), c, disk)
	if err != nil {
		h.t.Fatal(err)
	}
	return ref
}

func (h *host) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) vm(ref string) *vm.VM {
	h.t.Helper()
	v, ok := h.Get(ref)
	if !ok {
		h.t.Fatalf("VM %s is gone", ref)
	}
	return v
}

// wait waits until a VM satisfies holds.
func (h *host) wait(ref string, holds func(*vm.VM) bool) *vm.VM {
	h.t.Helper()
	for {
		changed := h.Signal().Changed()
		if v := h.vm(ref); holds(v) {
			return v
		}
		select {
		case <-changed:
		case <-h.t.Context().Done():
			h.t.Fatal("the test ended first")
		}
	}
}

func off(v *vm.VM) bool { return v.Power == vm.PoweredOff }

func TestLifeOfAVM(t *testing.T) {
	h := newHost(t, vmtest.Idle)
	ref := h.create(config("one"), &vm.DiskChange{Create: true})
	v := h.vm(ref)
	if v.CID < 3 || v.NICs[0].MAC == "" || v.UUID == "" || v.Home != "one" || !h.exists("one/one.vmdk") {
		t.Errorf("incomplete VM: %+v", v)
	}
	h.must(h.PowerOn(t.Context(), ref))
	m := h.hv.Machine(ref)
	if m.Spec.CID != v.CID || m.Spec.RootDisk != h.store.HostPath("one/one.vmdk") || m.Get("guestinfo.a") != "1" {
		t.Errorf("machine's spec: %+v", m.Spec)
	}
	h.must(h.Reset(t.Context(), ref))
	if m.Resets() != 1 {
		t.Errorf("%d resets", m.Resets())
	}
	h.must(h.PowerOff(t.Context(), ref))
	if v := h.vm(ref); !off(v) || v.Exit == nil || v.Exit.Orderly {
		t.Errorf("after power-off: %+v", v)
	}
	h.must(h.Destroy(t.Context(), ref))
	if _, ok := h.Get(ref); ok || h.exists("one") {
		t.Error("something is left of the VM")
	}
}

func TestRefusals(t *testing.T) {
	h := newHost(t, vmtest.Idle)
	ref := h.create(config("taken"), nil)
	edit := func(f func(*vm.Config)) vm.Config {
		c := config("new")
		f(&c)
		return c
	}
	for what, tc := range map[string]struct {
		config vm.Config
		want   any
	}{
		"name taken":    {config("taken"), new(*vm.DuplicateNameError)},
		"no name":       {config(""), new(*vm.InvalidNameError)},
		"path in name":  {config("a/b"), new(*vm.InvalidNameError)},
		"no memory":     {edit(func(c *vm.Config) { c.MemoryMiB = 0 }), new(*vm.ArgumentError)},
		"host's memory": {edit(func(c *vm.Config) { c.MemoryMiB = 1001 }), new(*vm.MemoryError)},
		"no pool":       {edit(func(c *vm.Config) { c.Pool = "x" }), new(*vm.NotFoundError)},
		"bad UUID":      {edit(func(c *vm.Config) { c.UUID = "x" }), new(*vm.ArgumentError)},
		"MAC taken":     {edit(func(c *vm.Config) { c.NICs[0].MAC = h.vm(ref).NICs[0].MAC }), new(*vm.DeviceError)},
		"machine type":  {edit(func(c *vm.Config) { c.Extra[hostapi.KeyMachine] = "pc" }), new(*vm.ArgumentError)},
		"host's key":    {edit(func(c *vm.Config) { c.Extra[hostapi.KeyExit] = "{}" }), new(*vm.ArgumentError)},
	} {
		if _, err := h.Create(t.Context(), tc.config, nil); !errors.As(err, tc.want) {
			t.Errorf("%s: error %v", what, err)
		}
	}
	if len(h.List()) != 1 {
		t.Errorf("%d VMs, want 1", len(h.List()))
	}
	var state *vm.StateError
	if err := h.PowerOff(t.Context(), ref); !errors.As(err, &state) {
		t.Errorf("power-off of a VM that is off: %v", err)
	}
	h.must(h.PowerOn(t.Context(), ref))
	for what, err := range map[string]error{
		"power-on":  h.PowerOn(t.Context(), ref),
		"destroy":   h.Destroy(t.Context(), ref),
		"more CPUs": h.Reconfigure(t.Context(), ref, vm.Change{CPUs: 2}),
	} {
		if !errors.As(err, &state) {
			t.Errorf("%s of a VM that is on: %v", what, err)
		}
	}
}

// A failed creation leaves nothing: no VM, no directory, and its name is free.
func TestFailedCreationIsUndone(t *testing.T) {
	h := newHost(t, vmtest.Idle)
	_, err := h.Create(t.Context(), config("one"), &vm.DiskChange{Create: true, Parent: "none.vmdk"})
	if !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("error %v", err)
	}
	if h.exists("one") || len(h.List()) != 0 {
		t.Error("something is left of the VM")
	}
	h.create(config("one"), nil)
}

func TestFailedStartIsUndone(t *testing.T) {
	h := newHost(t, vmtest.Idle)
	ref := h.create(config("one"), nil)
	h.hv.FailStart(errors.New("no QEMU"))
	before := h.vm(ref)
	if err := h.PowerOn(t.Context(), ref); err == nil {
		t.Fatal("power-on succeeded")
	}
	if v := h.vm(ref); v.Power != vm.PoweredOff || v.InFlight != nil || v.Run != before.Run || v.ExtraConfig()[hostapi.KeyRun] != "" {
		t.Errorf("after a failed start: %+v", v)
	}
	if _, err := os.Stat(filepath.Join(h.dir, "run", ref)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("run directory: %v", err)
	}
	h.hv.FailStart(nil)
	h.must(h.PowerOn(t.Context(), ref))
	if v := h.vm(ref); v.Run != 2 || v.ExtraConfig()[hostapi.KeyRun] != "2" { // what failed may have left its number in the log
		t.Errorf("the run after a failed start has the number %d", v.Run)
	}
}

func TestMemoryAdmission(t *testing.T) {
	h := newHost(t, vmtest.Idle)
	c := config("")
	c.MemoryMiB = 1000
	var refs []string
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		c.Name = name
		refs = append(refs, h.create(c, nil))
	}
	for _, ref := range refs[:admission.MemoryOvercommit] {
		h.must(h.PowerOn(t.Context(), ref))
	}
	var memory *vm.MemoryError
	last := refs[admission.MemoryOvercommit]
	if err := h.PowerOn(t.Context(), last); !errors.As(err, &memory) || memory.Available != 0 {
		t.Fatalf("power-on beyond the host's memory: %v", err)
	}
	h.must(h.PowerOff(t.Context(), refs[0]))
	h.must(h.PowerOn(t.Context(), last))
}

func TestPoolLimit(t *testing.T) {
	h := newHost(t, vmtest.Idle)
	outer, err := h.CreatePool(vm.Pool{Name: "outer", Parent: vm.RootPool, Memory: vm.Limits{Limit: 150}, CPU: vm.Limits{Limit: vm.Unlimited}})
	h.must(err)
	inner, err := h.CreatePool(vm.Pool{Name: "inner", Parent: outer, Memory: vm.Limits{Limit: vm.Unlimited}, CPU: vm.Limits{Limit: vm.Unlimited}})
	h.must(err)
	a, b := config("a"), config("b")
	a.Pool, b.Pool = inner, outer
	refA, refB := h.create(a, nil), h.create(b, nil)
	h.must(h.PowerOn(t.Context(), refA))
	var memory *vm.MemoryError
	if err := h.PowerOn(t.Context(), refB); !errors.As(err, &memory) || memory.Available != 50 {
		t.Fatalf("power-on beyond the pool's memory: %v", err)
	}
	h.must(h.UpdatePool(outer, func(p *vm.Pool) { p.Memory.Limit = 200 }))
	h.must(h.PowerOn(t.Context(), refB))
	h.restart()
	h.must(h.DestroyPool(outer))
	if p, ok := h.Pool(inner); !ok || p.Parent != vm.RootPool || h.vm(refB).Pool != vm.RootPool {
		t.Errorf("what was in the pool is lost: %+v", p)
	}
}

func TestGuestinfo(t *testing.T) {
	told := make(chan struct{})
	h := newHost(t, func(ctx context.Context, m *vmtest.Machine) {
		m.Set("guestinfo.said", "hello")
		<-told
		m.Set("guestinfo.heard", m.Get("guestinfo.b")+m.Get("guestinfo.a"))
	})
	ref := h.create(config("one"), nil)
	h.must(h.PowerOn(t.Context(), ref))
	h.wait(ref, func(v *vm.VM) bool { return v.ExtraConfig()["guestinfo.said"] == "hello" })
	h.must(h.Reconfigure(t.Context(), ref, vm.Change{Extra: map[string]string{"guestinfo.b": "2", "guestinfo.a": "", "cvm.x": "y"}}))
	close(told)
	v := h.wait(ref, off)
	extra := v.ExtraConfig()
	if extra["guestinfo.heard"] != "2" || extra["guestinfo.said"] != "hello" || extra["cvm.x"] != "y" || extra[hostapi.KeyExit] == "" {
		t.Errorf("extraConfig after the end: %v", extra)
	}
	if _, ok := extra["guestinfo.a"]; ok {
		t.Error("an empty value did not delete the key")
	}
	h.restart()
	if got := h.vm(ref).ExtraConfig(); got["guestinfo.heard"] != "2" || got[hostapi.KeyExit] != extra[hostapi.KeyExit] {
		t.Errorf("extraConfig after a restart: %v", got)
	}
	h.hv.FailStart(errors.New("no"))
	if err := h.PowerOn(t.Context(), ref); err == nil || h.vm(ref).ExtraConfig()["guestinfo.heard"] != "2" {
		t.Error("a failed power-on cleared what the last run left")
	}
}

// Destroy removes what the VM has made, and nothing else.
func TestDestroyRemovesOnlyItsOwn(t *testing.T) {
	h := newHost(t, vmtest.Idle)
	h.write("layers/given.vmdk")
	h.write("layers/base.vmdk")
	given := h.create(config("given"), &vm.DiskChange{Path: "layers/given.vmdk"})
	maker := h.create(config("maker"), &vm.DiskChange{Create: true, Path: "layers/made.vmdk", Parent: "layers/base.vmdk"})
	child := h.create(config("child"), &vm.DiskChange{Create: true, Parent: "layers/made.vmdk"})
	var inUse *vm.InUseError
	if err := h.Destroy(t.Context(), maker); !errors.As(err, &inUse) {
		t.Errorf("a VM whose disk is a parent was destroyed: %v", err)
	}
	for _, ref := range []string{child, given, maker} {
		h.must(h.Destroy(t.Context(), ref))
	}
	for rel, want := range map[string]bool{
		"layers/given.vmdk": true, "layers/base.vmdk": true, "layers/made.vmdk": false, "child": false, "blank.vmdk": true,
	} {
		if h.exists(rel) != want {
			t.Errorf("%s exists: %v, want %v", rel, !want, want)
		}
	}
}

func TestHotDisk(t *testing.T) {
	h := newHost(t, vmtest.Idle)
	ref := h.create(config("one"), nil)
	h.must(h.PowerOn(t.Context(), ref))
	add := vm.Change{Disk: &vm.DiskChange{Create: true, Path: "layers/new.vmdk"}}
	h.must(h.Reconfigure(t.Context(), ref, add))
	if got := h.hv.Machine(ref).Disk(); got != h.store.HostPath("layers/new.vmdk") {
		t.Errorf("the machine's disk is %q", got)
	}
	if err := h.Reconfigure(t.Context(), ref, add); err == nil {
		t.Error("a second disk was added")
	}
	h.must(h.Reconfigure(t.Context(), ref, vm.Change{Disk: &vm.DiskChange{Remove: true}}))
	if h.hv.Machine(ref).Disk() != "" || !h.exists("layers/new.vmdk") || h.vm(ref).Disk != nil {
		t.Error("the disk was not detached, or its file removed")
	}
	var file *vm.FileError
	if err := h.Reconfigure(t.Context(), ref, add); !errors.As(err, &file) || !errors.Is(err, vm.ErrDiskExists) {
		t.Errorf("a disk over an existing file: %v", err)
	}
	h.must(h.Reconfigure(t.Context(), ref, vm.Change{Disk: &vm.DiskChange{Path: "layers/new.vmdk"}}))
	h.must(h.Reconfigure(t.Context(), ref, vm.Change{Disk: &vm.DiskChange{Remove: true, Drop: true}}))
	if h.exists("layers/new.vmdk") {
		t.Error("the file was not removed")
	}
}

// Of many VMs that are to have one name or one MAC one gets it, also while its change goes on.
func TestUniqueInReconfigures(t *testing.T) {
	h := newHost(t, vmtest.Idle)
	network, err := h.CreateNetwork("other")
	h.must(err)
	for what, change := range map[string]vm.Change{
		"name": {Name: "wanted"},
		"MAC":  {Cards: vm.CardChanges{Add: []vm.Card{{Network: network, NIC: vm.NIC{MAC: "00:50:56:80:00:01"}}}}},
	} {
		var all sync.WaitGroup
		var changed atomic.Int32
		for n := range 20 {
			ref := h.create(config(fmt.Sprint(what, n)), nil)
			all.Go(func() {
				if h.Reconfigure(t.Context(), ref, change) == nil {
					changed.Add(1)
				}
			})
		}
		all.Wait()
		if changed.Load() != 1 {
			t.Errorf("%d VMs have the same %s", changed.Load(), what)
		}
	}
	// a slow change does not keep others from theirs, but from its name
	slow, other := h.create(config("slow"), nil), h.create(config("other"), nil)
	h.must(h.PowerOn(t.Context(), slow))
	var duplicate *vm.DuplicateNameError
	h.hv.On(vmtest.Tell, func() error {
		if err := h.Reconfigure(t.Context(), other, vm.Change{Name: "new"}); !errors.As(err, &duplicate) || duplicate.Ref != slow {
			t.Errorf("the name of a change in flight: %v", err)
		}
		if _, err := h.Create(t.Context(), config("new"), nil); !errors.As(err, &duplicate) {
			t.Errorf("the name of a change in flight: %v", err)
		}
		return h.Reconfigure(t.Context(), other, vm.Change{Name: "third"})
	})
	h.must(h.Reconfigure(t.Context(), slow, vm.Change{Name: "new", Extra: map[string]string{"guestinfo.b": "2"}}))
	h.must(h.Reconfigure(t.Context(), other, vm.Change{Name: "slow"})) // free again
	if h.vm(slow).Name != "new" || h.vm(other).Name != "slow" {
		t.Errorf("names %q and %q", h.vm(slow).Name, h.vm(other).Name)
	}
}
