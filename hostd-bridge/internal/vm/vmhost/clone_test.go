package vmhost_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/vmtest"
)

// freezer is a guest that freezes when it is booted, and in a fork says so and goes on.
func freezer(ctx context.Context, m *vmtest.Machine) {
	if m.Parent() == nil {
		m.Set("guestinfo.said", "booted")
		m.Freeze(ctx)
		return
	}
	m.Set("guestinfo.said", "forked")
	<-ctx.Done()
}

func frozen(v *vm.VM) bool { return v.Frozen }

// template makes a VM that has frozen.
func (h *host) template(name string, disk *vm.DiskChange) string {
	h.t.Helper()
	ref := h.create(config(name), disk)
	h.must(h.PowerOn(h.t.Context(), ref))
	h.wait(ref, frozen)
	return ref
}

func (h *host) clone(source, name string) string {
	h.t.Helper()
	ref, err := h.InstantClone(h.t.Context(), source, vm.CloneSpec{Name: name})
	h.must(err)
	return ref
}

func TestCloneOfATemplate(t *testing.T) {
	h := newHost(t, freezer)
	c := config("template")
	c.GuestID, c.Extra["cvm.role"], c.Extra["other"] = "linux", "template", "kept"
	source := h.create(c, nil)
	h.must(h.PowerOn(t.Context(), source))
	src := h.wait(source, frozen)
	ref, err := h.InstantClone(t.Context(), source, vm.CloneSpec{
		Name: "child", Extra: map[string]string{"guestinfo.b": "2", "cvm.role": "container"},
		Disk: &vm.DiskChange{Create: true, Path: "child/root.vmdk"},
	})
	h.must(err)
	v := h.wait(ref, func(v *vm.VM) bool { return v.Guest["guestinfo.said"] == "forked" })
	if v.Power != vm.PoweredOn || v.Frozen || v.InFlight != nil || v.Runs != 1 || v.Home != "child" || !h.exists("child/root.vmdk") {
		t.Errorf("child %+v", v)
	}
	if v.CID == src.CID || v.UUID == src.UUID || v.InstanceUUID == src.InstanceUUID || v.NICs[0].MAC == src.NICs[0].MAC {
		t.Errorf("the child has the identity of its source: %+v", v)
	}
	if v.CPUs != src.CPUs || v.MemoryMiB != src.MemoryMiB || v.GuestID != "linux" {
		t.Errorf("hardware %+v", v)
	}
	want := map[string]string{"guestinfo.b": "2", "cvm.role": "container", "other": "kept",
		hostapi.KeyKernel: src.Extra[hostapi.KeyKernel], hostapi.KeyInitrd: src.Extra[hostapi.KeyInitrd]}
	for k, val := range v.Extra {
		if want[k] != val {
			t.Errorf("extraConfig %s = %q, want %q", k, val, want[k])
		}
		delete(want, k)
	}
	if len(want) > 0 {
		t.Errorf("extraConfig lacks %v", want)
	}
	m := h.hv.Machine(ref)
	if m.Spec.CID != v.CID || m.Get("guestinfo.b") != "2" || m.Spec.RootDisk != h.store.HostPath("child/root.vmdk") {
		t.Errorf("machine's spec %+v", m.Spec)
	}
	if !strings.Contains(v.ExtraConfig()[hostapi.KeyTimeline], hostapi.MarkBegun) {
		t.Errorf("timeline %q", v.ExtraConfig()[hostapi.KeyTimeline])
	}
	h.must(h.PowerOff(t.Context(), source))
	h.must(h.Destroy(t.Context(), source))
	h.must(h.PowerOff(t.Context(), ref))
	h.must(h.PowerOn(t.Context(), ref)) // it boots from its own disk
	h.wait(ref, frozen)
	h.must(h.PowerOff(t.Context(), ref))
	h.must(h.Destroy(t.Context(), ref))
	h.nothingLeft()
}

// nothingLeft checks that nothing is left of VMs that are gone, but what the host itself has.
func (h *host) nothingLeft() {
	h.t.Helper()
	h.must(h.Close())
	files := list(h.t, h.store.HostPath("."))
	delete(files, "cvm-forks")
	if len(list(h.t, h.store.HostPath("cvm-volumes"))) == 0 {
		delete(files, "cvm-volumes")
	}
	same(h.t, "files", files, map[string]bool{"boot": true, "blank.vmdk": true})
	if left := list(h.t, h.dir+"/run"); len(left) > 0 {
		h.t.Errorf("run directories: %v", left)
	}
	if kept := list(h.t, h.store.HostPath("cvm-forks")); len(kept) > 0 {
		h.t.Errorf("kept disks: %v", kept)
	}
	if open := h.hv.Open(); open != 0 {
		h.t.Errorf("%d fork points and prestarted machines are open", open)
	}
}

func TestCloneRefusals(t *testing.T) {
	h := newHost(t, freezer)
	source := h.template("template", nil)
	off := h.create(config("off"), nil)
	before := h.hv.Prestarted()
	for what, tc := range map[string]struct {
		source string
		spec   vm.CloneSpec
		want   any
	}{
		"off":          {off, vm.CloneSpec{Name: "x"}, new(*vm.StateError)},
		"gone":         {"vm-99", vm.CloneSpec{Name: "x"}, new(*vm.NotFoundError)},
		"name taken":   {source, vm.CloneSpec{Name: "off"}, new(*vm.DuplicateNameError)},
		"no name":      {source, vm.CloneSpec{}, new(*vm.InvalidNameError)},
		"no pool":      {source, vm.CloneSpec{Name: "x", Pool: "y"}, new(*vm.NotFoundError)},
		"bad UUID":     {source, vm.CloneSpec{Name: "x", UUID: "y"}, new(*vm.ArgumentError)},
		"host's key":   {source, vm.CloneSpec{Name: "x", Extra: map[string]string{hostapi.KeyTimeline: ""}}, new(*vm.ArgumentError)},
		"no such card": {source, vm.CloneSpec{Name: "x", Cards: vm.CardChanges{Edit: map[int32]vm.CardEdit{7: {}}}}, new(*vm.DeviceError)},
		"MAC taken":    {source, vm.CloneSpec{Name: "x", Cards: vm.CardChanges{Edit: map[int32]vm.CardEdit{4000: {MAC: h.vm(source).NICs[0].MAC}}}}, new(*vm.DeviceError)},
		"no parent":    {source, vm.CloneSpec{Name: "x", Disk: &vm.DiskChange{Create: true, Parent: "none.vmdk"}}, new(*vm.FileError)},
	} {
		if _, err := h.InstantClone(t.Context(), tc.source, tc.spec); !errors.As(err, tc.want) {
			t.Errorf("%s: error %v", what, err)
		}
	}
	if len(h.List()) != 2 || h.exists("x") || h.hv.Prestarted() != before {
		t.Errorf("something is left of refused clones: %d VMs", len(h.List()))
	}
	if _, err := os.Stat(h.dir + "/run/vm-3"); err == nil {
		t.Error("a run directory is left")
	}
}
