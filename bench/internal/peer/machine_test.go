package peer

import (
	"slices"
	"strings"
	"testing"
)

func TestOfTakesTheMachineOfAContainer(t *testing.T) {
	line := strings.Split("qemu -name guest=x -machine microvm,acpi=off,rtc=on,memory-backend=ram -accel tcg -cpu max,-erms -smp 1 -m 512M -kernel /k -initrd /i -device d", " ")
	line = append(line, "-append", "quiet pci=off acpi=off tsc_early_khz=7")
	m, err := Of(line)
	if err != nil {
		t.Fatal(err)
	}
	want := Machine{Program: "qemu", Type: "microvm,acpi=off,rtc=on", Accel: "tcg", CPU: "max,-erms", SMP: "1", MemoryMiB: 512, Kernel: "/k", Append: "quiet pci=off acpi=off tsc_early_khz=7"}
	if m != want {
		t.Errorf("Of = %+v, want %+v", m, want)
	}
	if q := m.Q35(); q.Append != "quiet tsc_early_khz=7" || !strings.HasPrefix(q.Type, "q35,") {
		t.Errorf("Q35 = %+v", q)
	}
	if _, err := Of([]string{"qemu", "-m", "512M", "-incoming", "defer"}); err == nil {
		t.Error("a machine that was not booted was taken")
	}
}

func TestArguments(t *testing.T) {
	m := Machine{Type: "microvm", Accel: "tcg", CPU: "max", SMP: "1", MemoryMiB: 64, Kernel: "/k", Initrd: "/i"}
	child := m.arguments(ram{path: "/t.ram"}, false, "-incoming", "defer")
	if slices.Contains(child, "-kernel") || !slices.Contains(child, "microvm,memory-backend=ram") ||
		!slices.Contains(child, "memory-backend-file,id=ram,size=64M,mem-path=/t.ram,share=off") {
		t.Errorf("child: %q", child)
	}
	if boot := m.arguments(ram{}, true); !slices.Contains(boot, "-kernel") || slices.Contains(boot, "-object") {
		t.Errorf("boot: %q", boot)
	}
}

func TestDigits(t *testing.T) {
	for n, want := range map[int]string{0: "0000", 32: "0032", 2048: "2048"} {
		if got := digits(n); got != want {
			t.Errorf("digits(%d) = %q, want %q", n, got, want)
		}
	}
}
