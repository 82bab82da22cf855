package vmhost_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/containervm/containervm/hostd-bridge/internal/qemu"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/vmhost"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/vmtest"
)

// tool runs one of QEMU's programs.
func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil || strings.Contains(string(out), "verification failed") {
		t.Fatalf("%s %v: %v: %s (Debian: apt-get install qemu-utils)", name, args, err, out)
	}
	return string(out)
}

// The disks of forks, as QEMU's own tools read them: what was written before the fork is in both, what was written after it in
// one, and the kept disk does not change. A writer that had the disk open at the fork is seen by nobody but its own delta.
func TestForksOfRealDisks(t *testing.T) {
	h := newHost(t, vmtest.Idle, func(o *vmhost.Options) { o.Disks, o.Blank = &qemu.Hypervisor{}, "cvm/blank.vmdk" })
	h.must(os.MkdirAll(h.store.HostPath("cvm/layers"), 0o700))
	tool(t, "qemu-img", "create", "-q", "-f", "qcow2", h.store.HostPath("cvm/blank.vmdk"), "64G")
	h.must((&qemu.Hypervisor{}).CreateDisk(t.Context(), h.store.HostPath("cvm/layers/top.vmdk"), h.store.HostPath("cvm/blank.vmdk")))
	io := func(rel, command string) {
		t.Helper()
		tool(t, "qemu-io", "-f", "qcow2", "-c", command, h.store.HostPath(rel))
	}
	io("cvm/layers/top.vmdk", "write -P 1 0 1M")
	source := h.create(config("source"), &vm.DiskChange{Create: true, Path: "source/root.vmdk", Parent: "cvm/layers/top.vmdk"})
	h.must(h.PowerOn(t.Context(), source))
	io("source/root.vmdk", "write -P 2 1M 1M")
	child := h.clone(source, "child")
	kept := h.vm(child).Disk.Parent
	before, err := os.ReadFile(h.store.HostPath(kept))
	h.must(err)
	io("source/root.vmdk", "write -P 3 2M 1M")
	io("child/root.vmdk", "write -P 4 2M 1M")
	grandchild := h.clone(child, "grandchild")
	for _, rel := range []string{"source/root.vmdk", "child/root.vmdk", "grandchild/root.vmdk"} {
		io(rel, "read -P 1 0 1M")
		io(rel, "read -P 2 1M 1M")
		tool(t, "qemu-img", "check", "-q", h.store.HostPath(rel))
	}
	io("source/root.vmdk", "read -P 3 2M 1M")
	io("child/root.vmdk", "read -P 4 2M 1M")
	io("grandchild/root.vmdk", "read -P 4 2M 1M")
	if after, err := os.ReadFile(h.store.HostPath(kept)); err != nil || string(after) != string(before) {
		t.Errorf("the kept disk has changed: %v", err)
	}
	h.end(source, child)
	io("grandchild/root.vmdk", "read -P 2 1M 1M")
	h.end(grandchild)
	if left := list(t, h.store.HostPath("cvm-forks")); len(left) > 0 {
		t.Errorf("kept disks: %v", left)
	}
}
