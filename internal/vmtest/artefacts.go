package vmtest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// artefacts are the files that a host is started from.
type artefacts struct {
	bin   string // directory of the programs
	guest string // directory of kernel, initramfs and blank disk
}

// need finds the artefacts, or ends the test with a word on how to get them.
func need(tb testing.TB) artefacts {
	tb.Helper()
	if testing.Short() {
		tb.Skip("starts real VMs (leave -short out)")
	}
	root, err := moduleRoot()
	if err != nil {
		tb.Fatal(err)
	}
	a := artefacts{bin: filepath.Join(root, "bin"), guest: os.Getenv("CVM_GUEST_DIR")}
	if a.guest == "" {
		a.guest = filepath.Join(a.bin, "guest")
	}
	for _, name := range []string{"cvm", "cvm-supervisor", "cvm-switch", "hostd-bridge", "controller", "govc"} {
		needFile(tb, filepath.Join(a.bin, name), "try: make build")
	}
	for _, name := range []string{"vmlinux", "initramfs.cpio", "blank.vmdk"} {
		needFile(tb, filepath.Join(a.guest, name), "try: make guest, or set CVM_GUEST_DIR")
	}
	NeedProgram(tb, "qemu-system-x86_64", "qemu-system-x86")
	NeedProgram(tb, "qemu-img", "qemu-utils")
	return a
}

// NeedProgram skips the test, or fails it with CVM_REQUIRE_VM=1, unless the program is in PATH.
func NeedProgram(tb testing.TB, name, debianPackage string) {
	tb.Helper()
	if _, err := exec.LookPath(name); err != nil {
		Missing(tb, fmt.Sprintf("%s is not in PATH; try: apt-get install %s", name, debianPackage))
	}
}

func needFile(tb testing.TB, path, cure string) {
	tb.Helper()
	if _, err := os.Stat(path); err != nil {
		Missing(tb, fmt.Sprintf("%v; %s", err, cure))
	}
}

// Missing skips a test that lacks what it needs, or fails it with CVM_REQUIRE_VM=1, which `make test` sets: there a check
// that was not made must not count as passed.
func Missing(tb testing.TB, why string) {
	tb.Helper()
	if os.Getenv("CVM_REQUIRE_VM") == "1" {
		tb.Fatal("cannot run a real VM: ", why)
	}
	tb.Skip("needs a real VM: ", why)
}

// moduleRoot is the directory of go.mod, above the test's own.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for d := dir; d != filepath.Dir(d); d = filepath.Dir(d) {
		if _, err := os.Stat(filepath.Join(d, "go.mod")); err == nil {
			return d, nil
		}
	}
	return "", fmt.Errorf("cannot find go.mod above %s", dir)
}

// GuestDir is the directory of the guest's artefacts.
func GuestDir(tb testing.TB) string {
	tb.Helper()
	return need(tb).guest
}
