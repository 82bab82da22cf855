package version_test

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestVersionOfPrograms builds a program as the Makefile does and asks it. scripts/version says "devel" where there is no git.
func TestVersionOfPrograms(t *testing.T) {
	if testing.Short() {
		t.Skip("links a program: leave out -short")
	}
	const pkg = "github.com/containervm/containervm/"
	program := filepath.Join(t.TempDir(), "supervisor")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w -X "+pkg+"internal/version.linked=v1.2.3-4-g5", "-o", program, pkg+"hostd-bridge/supervisor")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	out, err := exec.Command(program, "--version").Output()
	if err != nil || string(out) != "cvm-supervisor v1.2.3-4-g5\n" {
		t.Errorf("it says %q, %v", out, err)
	}
}

func TestVersionOfTree(t *testing.T) {
	out, err := exec.Command("../../scripts/version").Output()
	if err != nil {
		t.Fatal(err)
	}
	if v := strings.TrimSpace(string(out)); !regexp.MustCompile(`^(devel|v\d+\.\d+\.\d+(-\d+-g[0-9a-f]+)?(-dirty)?)$`).MatchString(v) {
		t.Errorf("it says %q", v)
	}
}
