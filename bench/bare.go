package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/containervm/containervm/initramfs"
)

// greeting is what the process of a boot writes first.
const greeting = "hello"

// bareMachine boots the containers' kernel to a shell that says the greeting, with no daemon, disk or network: the floor
// of a boot.
type bareMachine struct {
	kernel, initrd, accel string
}

// newBareMachine writes the machine's initramfs into dir.
func newBareMachine(dir, kernel, accel string) (*bareMachine, error) {
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return nil, fmt.Errorf("cannot read busybox (try: apt-get install busybox-static): %w", err)
	}
	var b bytes.Buffer
	entries := append(initramfs.Content([]byte("#!/busybox sh\n/busybox echo "+greeting+"\n/busybox sleep 1000\n")),
		initramfs.Entry{Name: "busybox", Mode: initramfs.ModeRegular | 0o755, Data: busybox})
	if err := initramfs.Write(&b, entries); err != nil {
		return nil, err
	}
	m := &bareMachine{kernel: kernel, initrd: filepath.Join(dir, "bare.cpio"), accel: accel}
	if err := os.WriteFile(m.initrd, b.Bytes(), 0o600); err != nil {
		return nil, fmt.Errorf("cannot write initramfs: %w", err)
	}
	return m, nil
}

// args are those of a containerVM (hostd-bridge/internal/qemu) without its devices.
func (m *bareMachine) args() []string {
	cpu := "max,-erms,-fsrm"
	if m.accel == "kvm" {
		cpu = "host"
	}
	return []string{"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-machine", "microvm,acpi=off,rtc=on",
		"-accel", m.accel, "-cpu", cpu, "-smp", "1", "-m", "512M", "-kernel", m.kernel, "-initrd", m.initrd,
		"-append", "console=ttyS0 quiet panic=-1 reboot=t", "-serial", "stdio"}
}

// boot returns the milliseconds from the start of QEMU to the greeting.
func (m *bareMachine) boot(ctx context.Context) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", m.args()...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, fmt.Errorf("cannot open console: %w", err)
	}
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("cannot start QEMU: %w", err)
	}
	defer cmd.Wait() // its end is ours: it was killed
	defer cmd.Process.Kill()
	var console strings.Builder
	for lines := bufio.NewScanner(out); lines.Scan(); fmt.Fprintln(&console, lines.Text()) {
		if strings.TrimSpace(lines.Text()) == greeting {
			return millis(time.Since(begin)), nil
		}
	}
	return 0, fmt.Errorf("the machine ended without a word; its console:\n%s", console.String())
}
