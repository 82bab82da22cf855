package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// trialTimeout is how long a guest of a few instructions may take under KVM. A broken KVM hangs.
const trialTimeout = 5 * time.Second

// setUpAccel decides what accelerates the machines.
func (h *Hypervisor) setUpAccel(ctx context.Context) error {
	if err := h.chooseAccel(ctx); err != nil {
		return err
	}
	if h.host.accel == accelTCG {
		h.host.tscKHz = tscKHz()
	}
	return nil
}

// chooseAccel decides what accelerates the machines, and says why.
func (h *Hypervisor) chooseAccel(ctx context.Context) error {
	switch h.config.Accel {
	case accelKVM, accelTCG:
		h.host.accel, h.description = h.config.Accel, strings.ToUpper(h.config.Accel)+": as configured"
		return nil
	case "":
	default:
		return fmt.Errorf("cannot use accelerator %q: it is %s or %s", h.config.Accel, accelKVM, accelTCG)
	}
	err := tryKVM(ctx, h.config.QEMU)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		h.host.accel, h.description = accelTCG, "TCG: "+err.Error()
	} else {
		h.host.accel, h.description = accelKVM, "KVM: a trial guest ran"
	}
	return nil
}

// tryKVM says why KVM does not work. That /dev/kvm opens proves nothing: a nested host may offer it and run no guest.
func tryKVM(ctx context.Context, qemu string) error {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return err
	}
	if !hasVirtFlag(string(info)) {
		return errors.New("the CPU shows no vmx or svm flag")
	}
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	f.Close()
	return trial(ctx, qemu, accelKVM)
}

// hasVirtFlag looks for vmx (Intel) or svm (AMD) among the flags of /proc/cpuinfo.
func hasVirtFlag(cpuinfo string) bool {
	for line := range strings.Lines(cpuinfo) {
		name, flags, _ := strings.Cut(line, ":")
		if strings.TrimSpace(name) != "flags" {
			continue
		}
		for flag := range strings.FieldsSeq(flags) {
			if flag == "vmx" || flag == "svm" {
				return true
			}
		}
	}
	return false
}

// Of the trial guest: it writes trialByte to QEMU's isa-debug-exit, which then exits with status byte<<1|1.
const (
	trialByte   = 0x2a
	trialStatus = trialByte<<1 | 1
)

// trialROM is a firmware of 64 KiB whose code is at the reset vector, 16 bytes before its end.
func trialROM() []byte {
	rom := make([]byte, 64<<10)
	copy(rom[len(rom)-16:], []byte{
		0xb0, trialByte, // mov al, trialByte
		0xe6, 0xf4, // out 0xf4, al
		0xf4,       // hlt
		0xeb, 0xfd, // jmp to the hlt
	})
	return rom
}

// trial runs the trial guest under an accelerator. It returns nil when the guest executed its instructions.
func trial(ctx context.Context, qemu, accel string) error {
	dir, err := os.MkdirTemp("", "cvm-trial-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	rom := filepath.Join(dir, "rom")
	if err := os.WriteFile(rom, trialROM(), 0o600); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, trialTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, qemu, "-machine", "isapc", "-accel", accel, "-cpu", "qemu64", "-m", "1M", "-nodefaults",
		"-no-user-config", "-display", "none", "-bios", rom, "-device", "isa-debug-exit,iobase=0xf4,iosize=1").CombinedOutput()
	var status *exec.ExitError
	switch {
	case errors.As(err, &status) && status.ExitCode() == trialStatus:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("a trial guest hung for %v", trialTimeout)
	}
	return fmt.Errorf("a trial guest did not run: %v: %s", err, strings.TrimSpace(string(out)))
}
