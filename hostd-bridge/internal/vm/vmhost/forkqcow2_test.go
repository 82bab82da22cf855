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

// The same for volumes: a copy that was made larger, forked with the VM that writes to it, and read by one that comes later.
func TestForksOfRealVolumes(t *testing.T) {
	h := newHost(t, vmtest.Idle, func(o *vmhost.Options) { o.Disks, o.Blank = &qemu.Hypervisor{}, "cvm/blank.vmdk" })
	h.must(os.MkdirAll(h.store.HostPath("cvm"), 0o700))
	tool(t, "qemu-img", "create", "-q", "-f", "qcow2", h.store.HostPath("cvm/blank.vmdk"), "64G")
	tool(t, "qemu-img", "create", "-q", "-f", "qcow2", h.store.HostPath("cvm/volume.vmdk"), "64M")
	io := func(rel, command string) {
		t.Helper()
		tool(t, "qemu-io", "-f", "qcow2", "-c", command, h.store.HostPath(rel))
	}
	const v = "cvm-volumes/v.vmdk"
	h.must(h.CopyDisk(t.Context(), "cvm/volume.vmdk", v, false))
	h.must(h.ExtendDisk(t.Context(), v, 100<<30))
	io(v, "write -P 1 90G 1M")
	source := h.with("source", data(1, v))
	h.must(h.PowerOn(t.Context(), source))
	child := h.clone(source, "child")
	if bytes := h.vm(child).DataDisk(1).Bytes; bytes != 100<<30 {
		t.Errorf("the child's disk has %d bytes", bytes)
	}
	io(v, "write -P 2 91G 1M")
	io("child/volume-1.vmdk", "write -P 3 91G 1M")
	grandchild := h.clone(child, "grandchild")
	for rel, pattern := range map[string]string{v: "2", "child/volume-1.vmdk": "3", "grandchild/volume-1.vmdk": "3"} {
		io(rel, "read -P 1 90G 1M")
		io(rel, "read -P "+pattern+" 91G 1M")
		tool(t, "qemu-img", "check", "-q", h.store.HostPath(rel))
	}
	h.end(source, child)
	h.must(h.ExtendDisk(t.Context(), v, 200<<30))
	io(v, "read -P 0 150G 1M")
	h.end(grandchild)
	later := h.with("later", readOnly(1, v))
	h.must(h.PowerOn(t.Context(), later))
	io(v, "read -P 1 90G 1M")
	io(v, "read -P 2 91G 1M")
	h.end(later)
	if left := list(t, h.store.HostPath("cvm-forks")); len(left) != 1 {
		t.Errorf("kept disks: %v, the volume needs one", left)
	}
	h.must(h.DeleteDisk(t.Context(), v))
	if left := list(t, h.store.HostPath("cvm-forks")); len(left) > 0 {
		t.Errorf("kept disks: %v", left)
	}
}
