package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containervm/containervm/initramfs"
)

// greeting is what the process of a boot writes first.
const greeting = "hello"

// bareMachine boots the containers' kernel to a shell that says the greeting, with no daemon, disk or network: the floor
// of a boot.
type bareMachine struct {
	program string
	args    []string
}

// newBareMachine takes the command line of a container's QEMU, so that both sides have the same machine, accelerator and
// kernel command line whatever those come to be, and leaves out the devices. It writes an initramfs into dir.
func newBareMachine(dir, container string) (*bareMachine, error) {
	line, err := qemuOf(container)
	if err != nil {
		return nil, err
	}
	m := &bareMachine{program: line[0]}
	for i := 1; i+1 < len(line); i++ {
		switch flag, value := line[i], line[i+1]; flag {
		case "-accel", "-cpu", "-smp", "-m", "-kernel", "-append":
			m.args = append(m.args, flag, value)
		case "-machine":
			m.args = append(m.args, flag, strings.TrimSuffix(value, ",memory-backend=ram"))
		}
	}
	initrd := filepath.Join(dir, "bare.cpio")
	m.args = append(m.args, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-initrd", initrd, "-serial", "stdio")
	return m, writeBareInitramfs(initrd)
}

// qemuOf finds the command line of the QEMU process of a container, which is named by its ID.
func qemuOf(container string) ([]string, error) {
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			continue // ended meanwhile
		}
		line := strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00")
		if slices.ContainsFunc(line, func(a string) bool { return strings.HasPrefix(a, "guest="+container) }) {
			return line, nil
		}
	}
	return nil, fmt.Errorf("cannot find the QEMU of container %s", container)
}

func writeBareInitramfs(path string) error {
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return fmt.Errorf("cannot read busybox (try: apt-get install busybox-static): %w", err)
	}
	var b bytes.Buffer
	entries := append(initramfs.Content([]byte("#!/busybox sh\n/busybox echo "+greeting+"\n/busybox sleep 1000\n")),
		initramfs.Entry{Name: "busybox", Mode: initramfs.ModeRegular | 0o755, Data: busybox})
	if err := initramfs.Write(&b, entries); err != nil {
		return err
	}
	return os.WriteFile(path, b.Bytes(), 0o600)
}

// boot returns the milliseconds from the start of QEMU to the greeting.
func (m *bareMachine) boot(ctx context.Context) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, m.program, m.args...)
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
	var console []byte
	for buf := make([]byte, 4096); ; {
		n, err := out.Read(buf)
		console = append(console, buf[:n]...)
		if bytes.Contains(console, []byte(greeting)) {
			return millis(time.Since(begin)), nil
		}
		if err != nil {
			return 0, errors.Join(fmt.Errorf("the machine ended without a word; its console:\n%s", console), err)
		}
	}
}
