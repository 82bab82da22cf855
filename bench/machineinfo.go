package main

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
)

// Machine is what the figures depend on.
type Machine struct {
	CPU        string `json:"cpu"`
	Processors int    `json:"processors"`
	MemoryMiB  int    `json:"memoryMiB"`
	Kernel     string `json:"kernel"` // of the host
	Accel      string `json:"accel"`
	QEMU       string `json:"qemu"`
	Go         string `json:"go"`
	GuestSHA   string `json:"guestKernelSha256"`
	Load       string `json:"load"` // /proc/loadavg at the start
}

func describeMachine(o options) (Machine, error) {
	kernel, err := os.ReadFile(filepath.Join(o.guest, "vmlinux"))
	if err != nil {
		return Machine{}, fmt.Errorf("cannot read kernel: %w", err)
	}
	qemu, err := exec.Command("qemu-system-x86_64", "--version").Output()
	if err != nil {
		return Machine{}, fmt.Errorf("cannot learn QEMU's version: %w", err)
	}
	version, _, _ := strings.Cut(string(qemu), "\n")
	return Machine{
		CPU: field("/proc/cpuinfo", "model name"), Processors: runtime.NumCPU(), MemoryMiB: kiB(field("/proc/meminfo", "MemTotal")) >> 10,
		Kernel: firstLine("/proc/sys/kernel/osrelease"), Accel: o.accel, QEMU: version, Go: runtime.Version(),
		GuestSHA: fmt.Sprintf("%x", sha256.Sum256(kernel)), Load: strings.Join(strings.Fields(firstLine("/proc/loadavg"))[:3], " "),
	}, nil
}

// availableMiB is the memory that programs can still have.
func availableMiB() int { return kiB(field("/proc/meminfo", "MemAvailable")) >> 10 }

// kiB reads "123 kB"; what is no such number is zero.
func kiB(text string) int {
	n, err := strconv.Atoi(strings.TrimSuffix(text, " kB"))
	if err != nil {
		return 0
	}
	return n
}

// field is the first value of a key in a file of /proc, or empty.
func field(path, key string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == key {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func firstLine(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return "? ? ?"
	}
	line, _, _ := strings.Cut(string(text), "\n")
	return line
}
