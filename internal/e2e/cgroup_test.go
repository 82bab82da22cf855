package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containervm/containervm/internal/vmtest"
)

// A containerVM has control groups of version 2, which the host of the tests may not have: there the tests of the host's package run in one.
func testControlGroups(t *testing.T, h *vmtest.Host) {
	program := filepath.Join(t.TempDir(), "cgroup.test")
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-o", program, "./hostd-bridge/internal/cgroup")
	build.Dir = filepath.Join("..", "..")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	h.MustDocker(t, "create", "--name", "groups", "-m", "256m", image, "/cgroup.test", "-test.v", "-test.run", "TestStart|TestMemory|TestPIDs|TestCPUs")
	h.MustDocker(t, "cp", program, "groups:/cgroup.test")
	r := h.Docker(t, "start", "-a", "groups")
	want(t, r, 0, "PASS", "")
	if strings.Contains(r.Stdout, "SKIP") {
		t.Errorf("limits of version 2 are not tested: %s", r.Stdout)
	}
	h.MustDocker(t, "rm", "groups")
}
