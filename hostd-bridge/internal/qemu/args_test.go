package qemu

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestArguments(t *testing.T) {
	base := shape{
		name: "web,1", uuid: "564d0000-0000-4000-8000-000000000001", cpus: 2, memoryMiB: 512, cid: 77,
		boot: &boot{cmdline: "loglevel=7"},
		nics: []vm.NIC{{MAC: "52:54:00:12:34:56", Connected: true}, {MAC: "52:54:00:12:34:57"}},
	}
	with := func(change func(*shape)) shape {
		s := base
		change(&s)
		return s
	}
	for name, c := range map[string]struct {
		shape shape
		host  host
	}{
		"microvm":       {base, host{accel: accelTCG}},
		"microvm-1cpu":  {with(func(s *shape) { s.cpus = 1 }), host{accel: accelTCG, tscKHz: 2445434}},
		"microvm-child": {with(func(s *shape) { s.boot, s.cpus = nil, 1 }), host{accel: accelTCG, tscKHz: 2445434}},
		"capture":       {with(func(s *shape) { s.boot = nil }), host{accel: accelTCG, capture: true}},
		"debug-guest":   {base, host{accel: accelTCG, debugGuest: true}},
		"q35":           {with(func(s *shape) { s.machine = hostapi.MachineQ35 }), host{accel: accelTCG}},
		"kvm-vhost":     {with(func(s *shape) { s.nics, s.cpus = nil, 0 }), host{accel: accelKVM, kernelVsock: true}},
	} {
		t.Run(name, func(t *testing.T) {
			args, err := arguments(c.shape, c.host)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, name, oneOptionPerLine(args))
		})
	}
	if _, err := arguments(shape{machine: "pc"}, host{}); err == nil {
		t.Error("machine type pc was built")
	}
}

func oneOptionPerLine(args []string) string {
	text := strings.Join(args, " ") + "\n"
	for _, a := range args {
		if strings.HasPrefix(a, "-") {
			text = strings.ReplaceAll(text, " "+a+" ", "\n"+a+" ")
		}
	}
	return text
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", "args", name+".txt")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("arguments differ from %s (go test -update rewrites it):\n%s", path, got)
	}
}

func TestVirtFlag(t *testing.T) {
	for text, want := range map[string]bool{
		"flags\t\t: fpu vmx sse\n": true,
		"flags : svm\n":            true,
		"flags : svm_lock fpu\n":   false,
		"bugs : vmx\n":             false,
		"":                         false,
	} {
		if got := hasVirtFlag(text); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}

// The trial itself is proved with the accelerator that works everywhere.
func TestTrialGuestRuns(t *testing.T) {
	qemu, err := program("", "qemu-system-x86_64", "")
	if err != nil {
		t.Skip(err)
	}
	if err := trial(t.Context(), qemu, accelTCG); err != nil {
		t.Error(err)
	}
	if err := trial(t.Context(), qemu, "none"); err == nil {
		t.Error("an unknown accelerator ran a guest")
	}
}

// TestTrialKernelBoots: the trial of KVM boots the real kernel; it is proved with the accelerator that works everywhere.
func TestTrialKernelBoots(t *testing.T) {
	qemu, err := program("", "qemu-system-x86_64", "")
	if err != nil {
		t.Skip(err)
	}
	kernel, err := filepath.Abs("../../../bin/guest/vmlinux")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(kernel); err != nil {
		t.Skipf("%v: make guest", err)
	}
	if err := bootTrial(t.Context(), qemu, accelTCG, kernel); err != nil {
		t.Error(err)
	}
	if err := bootTrial(t.Context(), qemu, accelTCG, qemu); err == nil {
		t.Error("what is no kernel booted")
	}
}

func FuzzParseDisk(f *testing.F) {
	image, _, err := emptyImage(hostapi.DiskBytes, "../base")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(image[0]))
	f.Add("QFI\xfb")
	f.Fuzz(func(t *testing.T, image string) {
		d, err := parseDisk(strings.NewReader(image))
		if err == nil && (d.VirtualBytes < 0 || len(d.Parent) > maxBackingName) {
			t.Errorf("%+v", d)
		}
	})
}
