package e2e

import (
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/containervm/containervm/internal/smalldisk"
	"github.com/containervm/containervm/internal/vmtest"
)

// A container fills the host's disk. Its sibling goes on, what fails says why, the culprit can be removed, and then everything works again without a
// restart of the daemons. What the sibling had synced is there.
func TestFullDiskOfTheHost(t *testing.T) {
	h := loaded(t, vmtest.Options{State: filepath.Join(smalldisk.Mount(t, "ext4", 512<<20), "state")})
	h.MustDocker(t, "run", "-d", "--name", "sibling", image, "sh", "-c",
		"echo kept >/kept; sync; echo ready; i=0; while true; do i=$((i+1)); echo $i >/dev/shm/n; sleep 0.1; done")
	waitLog(t, h, "sibling", "ready")
	h.MustDocker(t, "create", "--name", "other", "-v", "/data", image, "true")
	h.MustDocker(t, "run", "-d", "--name", "culprit", image, "sh", "-c",
		"i=0; while dd if=/dev/zero of=/big$i bs=1M count=16 conv=fsync 2>/dev/null; do i=$((i+1)); done; echo full; sleep 1000")
	waitLog(t, h, "culprit", "full")
	if free := freeOf(t, h.State); free > 4<<20 {
		t.Errorf("the culprit was stopped with %d bytes left", free)
	}
	count := func() string { return h.MustDocker(t, "exec", "sibling", "cat", "/dev/shm/n") }
	before := count()
	h.MustDocker(t, "exec", "sibling", "sh", "-c", "n=$(cat /dev/shm/n); while [ $(cat /dev/shm/n) = $n ]; do sleep 0.1; done")
	if after := count(); after == before {
		t.Errorf("the sibling counts %s, then %s", before, after)
	}
	if r := h.Docker(t, "volume", "create", "-o", "size=1g"); r.Code == 0 {
		t.Logf("a volume found room: %s", r.Stdout)
	} else if !strings.Contains(r.Stderr, "no space left") {
		t.Errorf("a volume on a full disk: %s", r.Stderr)
	}
	h.MustDocker(t, "rm", "-v", "other")
	h.MustDocker(t, "rm", "-f", "culprit")
	want(t, h.Docker(t, "run", "--rm", image, "sh", "-c", "dd if=/dev/zero of=/f bs=1M count=8 conv=fsync && echo written"), 0, "written", "")
	h.MustDocker(t, "restart", "-t", "1", "sibling")
	want(t, h.Docker(t, "exec", "sibling", "sh", "-c", "cat /kept && echo more >/more && sync"), 0, "kept", "")
	h.MustDocker(t, "rm", "-f", "sibling")
}

// freeOf is how many bytes of a file system can be used.
func freeOf(t *testing.T, dir string) int64 {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	return int64(st.Bavail) * st.Bsize
}
