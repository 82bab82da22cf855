package e2e

import (
	"strings"
	"testing"

	"github.com/containervm/containervm/internal/vmtest"
)

// testFullMemory: a container that fills its memory, by its processes or by files that lie in it, is killed inside its machine, as Docker's
// would be: at once, with 137 and its reason, and with all on the disk that it had synced.
func testFullMemory(t *testing.T, h *vmtest.Host) {
	for name, script := range map[string]string{
		"files":   "mkdir /m; mount -t tmpfs -o size=1g none /m; echo kept >/kept; sync; exec dd if=/dev/zero of=/m/x bs=64k",
		"process": "echo kept >/kept; sync; exec tail /dev/zero", // which looks for a line's end
	} {
		r := h.Docker(t, "run", "--name", name, "-m", "128m", image, "sh", "-c", script)
		if r.Code != 137 {
			t.Errorf("%s: exit %d, %s", name, r.Code, r.Stderr)
		}
		equal(t, name+" was killed for want of memory", inspect(t, h, name, ".State.OOMKilled}} {{.State.ExitCode}} {{.State.Error"), "true 137 ")
	}
	h.MustDocker(t, "run", "-d", "--name", "exec", "-m", "128m", image, "sleep", "1000")
	if r := h.Docker(t, "exec", "exec", "sh", "-c", "mkdir /m; mount -t tmpfs -o size=1g none /m; dd if=/dev/zero of=/m/x bs=64k"); r.Code == 0 || strings.Contains(r.Stderr, "connection") {
		t.Errorf("exec: exit %d, %s", r.Code, r.Stderr)
	}
	if console := h.Docker(t, "top", "exec"); console.Code != 0 && inspect(t, h, "exec", ".State.OOMKilled") != "true" {
		t.Errorf("the container of an exec that filled the memory neither goes on nor was killed: %s", console.Stderr)
	}
}
