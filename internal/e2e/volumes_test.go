package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/internal/vmtest"
)

// TestVolumes runs everything about volumes on one host, which restarts at the end.
func TestVolumes(t *testing.T) {
	h := loaded(t, vmtest.Options{Fork: true})
	runAll(t, h, []hostTest{
		{"Kept", testVolumeKept},
		{"CopyUp", testVolumeCopyUp},
		{"OneWriter", testVolumeOneWriter},
		{"Anonymous", testVolumeAnonymous},
		{"Full", testVolumeFull},
		{"Tmpfs", testTmpfs},
		{"Secrets", testSecrets},
		{"Killed", testVolumeKilled},
		{"Forked", testVolumeForked},
		{"DownAndUp", testVolumeDownAndUp},
	})
}

// removeVolumes removes volumes at the end of a test, once no container has them any more.
func removeVolumes(t *testing.T, h *vmtest.Host, names ...string) {
	t.Helper()
	t.Cleanup(func() {
		h.RemoveAll(t)
		h.MustDocker(t, append([]string{"volume", "rm"}, names...)...)
	})
}

// testVolumeKept: what is written to a volume is there in the next container, at two places of one too, whether that boots or is forked.
func testVolumeKept(t *testing.T, h *vmtest.Host) {
	removeVolumes(t, h, "data")
	equal(t, "docker volume create", h.MustDocker(t, "volume", "create", "--label", "a=b", "data"), "data")
	h.MustDocker(t, "run", "--rm", "-v", "data:/data", image, "sh", "-c", "ls -A /data | grep . && exit 3; echo first > /data/file")
	equal(t, "content", h.MustDocker(t, "run", "--rm", "-v", "data:/data", "-v", "data:/again:ro", image, "cat", "/data/file", "/again/file"), "first\nfirst")
	for _, runtime := range []string{"boot", "fork"} {
		equal(t, "content, --runtime "+runtime, h.MustDocker(t, "run", "--rm", "--runtime", runtime, "-v", "data:/data", image, "sh", "-c", "cat /data/file; echo "+runtime+" >> /data/log"), "first")
	}
	h.MustDocker(t, "run", "--name", "source", "--mount", "type=volume,source=data,target=/data", image, "true")
	equal(t, "--volumes-from", h.MustDocker(t, "run", "--rm", "--volumes-from", "source", image, "cat", "/data/log"), "boot\nfork")
	if size := h.MustDocker(t, "run", "--rm", "-v", "data:/data", image, "sh", "-c", "df -m /data | tail -1 | awk '{print $2}'"); len(size) != 5 {
		t.Errorf("a volume has %s MiB, want some 64 GiB", size)
	}
	equal(t, "label", h.MustDocker(t, "volume", "inspect", "-f", "{{.Labels.a}} {{.Driver}} {{.Scope}}", "data"), "b local local")
	want(t, h.Docker(t, "volume", "rm", "data"), 1, "", "volume is in use - ["+inspect(t, h, "source", ".Id")+"]")
}

// testVolumeCopyUp: an empty volume gets what the image has at its target, with owners and modes, once.
func testVolumeCopyUp(t *testing.T, h *vmtest.Host) {
	removeVolumes(t, h, "etc", "tmp")
	equal(t, "content", h.MustDocker(t, "run", "--rm", "-v", "etc:/mine/../etc", "-v", "tmp:/tmp", image, "sh", "-c", "head -1 /etc/passwd; stat -c %a /tmp; echo more >> /etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n1777")
	equal(t, "content in the next container", h.MustDocker(t, "run", "--rm", "-v", "etc:/somewhere", image, "tail", "-1", "/somewhere/passwd"), "more")
}

func testVolumeOneWriter(t *testing.T, h *vmtest.Host) {
	removeVolumes(t, h, "data")
	first := h.MustDocker(t, "run", "-d", "--name", "writer", "-v", "data:/data", image, "sh", "-c", "echo hello > /data/file; sync; echo ready; sleep 1000")
	waitLog(t, h, "writer", "ready")
	want(t, h.Docker(t, "run", "--name", "second", "-v", "data:/data", image, "true"), 125, "", "volume data is in use by container "+first[:12]+" (writer), which writes it: use an NFS volume to share it, or mount it read-only")
	equal(t, "state of the second", inspect(t, h, "second", ".State.Status"), "created")
	h.MustDocker(t, "rm", "-f", "writer")
	for _, name := range []string{"reader1", "reader2"} {
		h.MustDocker(t, "run", "-d", "--name", name, "-v", "data:/data:ro", image, "sh", "-c", "cat /data/file; echo x > /data/file || echo refused; sleep 1000")
		waitLog(t, h, name, "refused")
		if log := h.MustDocker(t, "logs", name); !strings.HasPrefix(log, "hello\n") {
			t.Errorf("log of %s: %q", name, log)
		}
	}
	h.MustDocker(t, "rm", "-f", "reader1", "reader2")
	h.MustDocker(t, "start", "second")
	equal(t, "exit status of the second", h.MustDocker(t, "wait", "second"), "0")
}

func testVolumeAnonymous(t *testing.T, h *vmtest.Host) {
	h.MustDocker(t, "run", "--rm", "-v", "/data", image, "sh", "-c", "echo x > /data/x")
	equal(t, "volumes after --rm", h.MustDocker(t, "volume", "ls", "-q"), "")
	h.MustDocker(t, "run", "--name", "one", "-v", "/data", image, "true")
	name := inspect(t, h, "one", "(index .Mounts 0).Name")
	equal(t, "volumes", h.MustDocker(t, "volume", "ls", "-q"), name)
	h.MustDocker(t, "rm", "one")
	equal(t, "volumes after rm", h.MustDocker(t, "volume", "ls", "-q", "--filter", "dangling=true"), name)
	if pruned := h.MustDocker(t, "volume", "prune", "-f"); !strings.Contains(pruned, name) || !strings.Contains(pruned, "Total reclaimed space: ") {
		t.Errorf("docker volume prune: %s", pruned)
	}
	h.MustDocker(t, "run", "--name", "two", "-v", "/data", image, "true")
	h.MustDocker(t, "rm", "-v", "two")
	equal(t, "volumes after rm -v", h.MustDocker(t, "volume", "ls", "-q"), "")
}

// testVolumeFull: who fills a volume is told so, and the container's own disk has room.
func testVolumeFull(t *testing.T, h *vmtest.Host) {
	removeVolumes(t, h, "small")
	h.MustDocker(t, "volume", "create", "-o", "size=64m", "small")
	r := h.Docker(t, "run", "--rm", "-v", "small:/data", image, "sh", "-c", "dd if=/dev/zero of=/data/x bs=1M count=100; echo $?; echo fits > /x && cat /x")
	want(t, r, 0, "1\nfits", "No space left on device")
	h.MustDocker(t, "run", "--rm", "-v", "small:/data", image, "sh", "-c", "rm /data/x && echo again > /data/y")
}

func testTmpfs(t *testing.T, h *vmtest.Host) {
	script := `for dir in /a /b; do grep " $dir " /proc/mounts | cut -d" " -f3,4; done`
	got := h.MustDocker(t, "run", "--rm", "--tmpfs", "/a:size=1m", "--mount", "type=tmpfs,target=/b,tmpfs-mode=1700", image, "sh", "-c", script)
	a, b, _ := strings.Cut(got, "\n")
	for line, wants := range map[string][]string{a: {"tmpfs ", "nosuid", "nodev", "noexec", "size=1024k"}, b: {"tmpfs ", "nosuid", "nodev", "noexec", "mode=1700"}} {
		for _, w := range wants {
			if !strings.Contains(line, w) {
				t.Errorf("%q lacks %q", line, w)
			}
		}
	}
}

func testSecrets(t *testing.T, h *vmtest.Host) {
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte("s3cret\n"), 0o440); err != nil {
		t.Fatal(err)
	}
	equal(t, "content and mode", h.MustDocker(t, "run", "--rm", "-v", file+":/run/secrets/db:ro", image, "sh", "-c", "cat /run/secrets/db; stat -c %a /run/secrets/db; echo x > /run/secrets/db || echo refused"), "s3cret\n440\nrefused")
	want(t, h.Docker(t, "run", "--rm", "-v", filepath.Dir(file)+":/data", image, "true"), 125, "", "a containerVM shares no file system with its host")
}

// testVolumeKilled: what was synced to a volume is there when the machine that wrote is killed, and the file system is whole.
func testVolumeKilled(t *testing.T, h *vmtest.Host) {
	removeVolumes(t, h, "data")
	id := h.MustDocker(t, "run", "-d", "--name", "w", "-v", "data:/data", image, "sh", "-c", `i=0; while :; do echo $i >> /data/log; sync; echo $i; i=$((i+1)); done`)
	for round := range 3 {
		waitLogLines(t, h, "w", "0", 1+round) // a word of each run, so that the log has one
		waitLog(t, h, "w", nextNumber(t, h, "w"))
		qemu, _ := h.MachineOf(t, id)
		if err := syscall.Kill(qemu, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		h.MustDocker(t, "wait", "w")
		said, err := strconv.Atoi(h.MustDocker(t, "logs", "--tail", "1", "w"))
		if err != nil {
			t.Fatal(err)
		}
		log := strings.Split(h.MustDocker(t, "run", "--rm", "-v", "data:/data", image, "cat", "/data/log"), "\n")
		at := len(log) - 1 // of the last run
		if last, err := strconv.Atoi(log[at]); err != nil || last < said {
			t.Errorf("round %d: the volume ends with %q, %d was synced", round, log[at], said)
		}
		h.MustDocker(t, "start", "w")
	}
}

// testVolumeForked: each child has the volume as it was at the fork point, and writes to a copy of its own.
func testVolumeForked(t *testing.T, h *vmtest.Host) {
	removeVolumes(t, h, "data")
	h.MustDocker(t, "run", "-d", "--name", "web", "-v", "data:/data", image, "sh", "-c", "[ -e /data/file ] || echo common > /data/file; echo ready; sleep 1000")
	waitLog(t, h, "web", "ready")
	fork(t, h, "web", "-n", "2")
	all := []string{"web", "web-1", "web-2"}
	for _, name := range all {
		h.MustDocker(t, "exec", name, "sh", "-c", "echo "+name+" >> /data/file; sync")
	}
	for _, name := range all {
		equal(t, "content in "+name, h.MustDocker(t, "exec", name, "cat", "/data/file"), "common\n"+name)
	}
	copied := inspect(t, h, "web-1", "(index .Mounts 0).Name")
	equal(t, "label of the copy", h.MustDocker(t, "volume", "inspect", "-f", `{{index .Labels "com.containervm.forked-from"}}`, copied), "data")
	h.MustDocker(t, append([]string{"stop", "-t", "1"}, all...)...)
	for _, name := range all {
		wholeDisks(t, h, inspect(t, h, name, ".Id"))
	}
	wholeDisks(t, h, hostapi.VolumesDir)
	h.MustDocker(t, "start", "web-1")
	equal(t, "content in web-1 after a boot", h.MustDocker(t, "exec", "web-1", "cat", "/data/file"), "common\nweb-1")
	h.MustDocker(t, "rm", "-f", "web-1", "web-2", "web")
	equal(t, "volumes", h.MustDocker(t, "volume", "ls", "-q"), "data")
	equal(t, "content at the next mount", h.MustDocker(t, "run", "--rm", "-v", "data:/data", image, "cat", "/data/file"), "common\nweb")
}

// wholeDisks checks the file systems of all disks in a directory of the datastore, which no machine has open.
func wholeDisks(t *testing.T, h *vmtest.Host, dir string) {
	t.Helper()
	disks, err := filepath.Glob(filepath.Join(h.State, "hostd", "datastore", dir, "*.vmdk"))
	if err != nil || len(disks) == 0 {
		t.Fatalf("disks in %s: %v, %v", dir, disks, err)
	}
	raw := filepath.Join(t.TempDir(), "raw")
	for _, disk := range disks {
		for _, check := range [][]string{
			{"qemu-img", "check", "-q", disk},
			{"qemu-img", "convert", "-O", "raw", disk, raw},
			{"/sbin/e2fsck", "-y", "-E", "journal_only", raw}, // as a mount does first
			{"/sbin/e2fsck", "-fn", raw},
		} {
			if out, err := exec.Command(check[0], check[1:]...).CombinedOutput(); err != nil {
				t.Errorf("disk %s: %v: %v: %s", disk, check, err, out)
			}
		}
		t.Logf("checked %s", disk)
	}
}

func testVolumeDownAndUp(t *testing.T, h *vmtest.Host) {
	removeVolumes(t, h, "data")
	h.MustDocker(t, "run", "-d", "--name", "w", "-v", "data:/data", image, "sh", "-c", "echo kept > /data/file; echo ready; sleep 1000")
	waitLog(t, h, "w", "ready")
	h.Down()
	h.Up()
	equal(t, "volumes", h.MustDocker(t, "volume", "ls", "-q"), "data")
	vmtest.Eventually(t, time.Minute, "the volume is free", func() bool {
		return h.Docker(t, "run", "--rm", "-v", "data:/data", image, "cat", "/data/file").Stdout == "kept\n"
	})
}
