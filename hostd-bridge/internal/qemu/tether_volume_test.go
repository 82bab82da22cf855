package qemu

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containervm/containervm/hostd-bridge/internal/vm"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// volumeDisk makes a disk as hosts make a volume: a copy of the release's, made larger.
func volumeDisk(t *testing.T, size string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "volume.vmdk")
	qemuImg(t, "convert", "-O", "qcow2", builtKernel(t, "volume.vmdk"), path)
	qemuImg(t, "resize", "-q", path, size)
	return path
}

func volumeAt(target, serial string, readOnly bool) *tetherv1.Mount {
	return &tetherv1.Mount{Target: target, ReadOnly: readOnly, Source: &tetherv1.Mount_Volume{Volume: &tetherv1.Volume{Serial: serial, CopyUp: true}}}
}

// TestTetherVolumes has containers, one after the other, on the same volume: it is grown and filled from the image once, keeps what is
// written, also by a machine that is killed after a sync, and can be read by one that may not write.
func TestTetherVolumes(t *testing.T) {
	disk := busyboxDisk(t, func(root string) {
		must(t, os.MkdirAll(filepath.Join(root, "data/sub"), 0o755))
		must(t, os.WriteFile(filepath.Join(root, "data/sub/of-image"), []byte("image\n"), 0o640))
		must(t, os.Chown(filepath.Join(root, "data"), 70, 71))
		must(t, os.Chmod(filepath.Join(root, "data"), 0o750))
	})
	volume := volumeDisk(t, "64G")
	start := func(script string, readOnly bool) *guest {
		t.Helper()
		spec := tetherSpec(script)
		spec.Mounts = []*tetherv1.Mount{volumeAt("/data", "vol3", readOnly)}
		return launchTether(t, spec, delta(t, disk), func(s *vm.MachineSpec) {
			s.DataDisks = []vm.DataDisk{{Unit: 3, Path: volume, ReadOnly: readOnly}}
		})
	}
	run := func(script string, readOnly bool) string {
		t.Helper()
		st, out := start(script, readOnly).ending()
		if st.Exit.GetCode() != 0 || out[link.StreamStderr] != "" {
			t.Errorf("%s: %v, %q", script, st, out)
		}
		for i, m := range st.GetMarks() {
			if m.Name == "mounted" {
				t.Logf("mounted in %d µs", (m.UnixNano-st.Marks[i-1].UnixNano)/1000)
			}
		}
		return out[link.StreamStdout]
	}
	same := func(got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	same(run("stat -c '%a %u %g' /data; ls -A /data; cat /data/sub/of-image; df -P -m /data | awk 'NR==2 {print ($2 > 60000)}'; echo mine >/data/new; rm -r /data/sub", false),
		"750 70 71\nsub\nimage\n1\n")
	same(run("ls -A /data; cat /data/new", false), "new\nmine\n")

	g := start("echo synced >/data/kept; touch /data/log; sync; echo ready; while :; do echo more >>/data/log; done", false)
	g.awaitStatus(tetherv1.State_RUNNING)
	g.awaitOutput(g.client(), "ready\n")
	must(t, g.Kill(t.Context()))
	g.awaitExit()
	same(run("cat /data/kept /data/new; sort -u /data/log | grep -v more | wc -l", false), "synced\nmine\n0\n")
	same(run("cat /data/kept; touch /data/x 2>/dev/null || echo refused", true), "synced\nrefused\n")

	spec := tetherSpec("echo never")
	spec.Mounts = []*tetherv1.Mount{volumeAt("/data", "vol3", false)}
	st, _ := launchTether(t, spec, delta(t, disk), func(s *vm.MachineSpec) {
		s.DataDisks = []vm.DataDisk{{Unit: 3, Path: volume, ReadOnly: true}}
	}).ending()
	if st.Failure.GetReason() != tetherv1.Failure_MOUNT || !strings.Contains(st.Failure.GetMessage(), "only be read") {
		t.Errorf("a disk that is read-only, to be written: %v", st)
	}
}

// TestTetherVolumeOfAFork plugs a volume's disk into a template's child, which mounts it when its gate opens.
func TestTetherVolumeOfAFork(t *testing.T) {
	disk, volume := busyboxDisk(t), volumeDisk(t, "1G")
	g := tetherTemplate(t)
	spec := tetherSpec("echo hi >/data/x; cat /data/x; grep -c ' /data ext4 ' /proc/mounts")
	spec.Mounts = []*tetherv1.Mount{volumeAt("/data", "vol1", false)}
	c := g.container(g.template(), 1, spec, disk, func(s *vm.MachineSpec) {
		s.DataDisks = []vm.DataDisk{{Unit: 1, Path: volume}}
	})
	st, out := c.ending()
	if st.Exit.GetCode() != 0 || out[link.StreamStdout] != "hi\n1\n" {
		t.Errorf("%v, %q", st, out)
	}
}
