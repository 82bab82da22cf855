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

	"github.com/containervm/containervm/hostd-bridge/hostapi"
)

// kvmDevice is the kernel's virtualisation.
const kvmDevice = "/dev/kvm"

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
	qemu, err := h.tryKVM(ctx)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		h.host.accel, h.description = accelTCG, "TCG: "+err.Error()
	} else {
		h.host.accel, h.description = accelKVM, "KVM: a trial guest ran"
		h.microvm = qemu
	}
	return nil
}

// microvmQEMU is a QEMU that has the machine type microvm and KVM alone (Debian's qemu-system-x86 has it): it is half as large, needs a fifth of the
// libraries, and has no emulation of CPUs, BIOS or user networks that a guest could attack.
const microvmQEMU = "qemu-system-x86_64-microvm"

// tryKVM returns the program for machines of type microvm, or says why KVM does not work. First the CPU's flags decide, without which
// /dev/kvm is not opened. That it opens proves nothing: a nested host may offer it and run no guest.
func (h *Hypervisor) tryKVM(ctx context.Context) (qemu string, err error) {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "", err
	}
	if !hasVirtFlag(string(info)) {
		return "", errors.New("the CPU shows no vmx or svm flag")
	}
	f, err := os.OpenFile(kvmDevice, os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	f.Close()
	try := func(qemu string) error {
		if h.config.TrialKernel != "" {
			return bootTrial(ctx, qemu, accelKVM, h.config.TrialKernel)
		}
		return trial(ctx, qemu, accelKVM)
	}
	if small, lookErr := exec.LookPath(microvmQEMU); lookErr == nil && !h.configured && h.config.TrialKernel != "" {
		if err := try(small); err == nil {
			return small, nil
		} else if ctx.Err() != nil {
			return "", err
		}
	}
	return h.config.QEMU, try(h.config.QEMU)
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

// bootTimeout is how long the real kernel may take until it misses its root, which it does within the first second under KVM.
const bootTimeout = 15 * time.Second

// bootTrial boots a kernel without a root on a machine of type microvm, as containers have it. It returns nil when the kernel came so
// far that it missed its root, panicked, and reset the machine.
func bootTrial(ctx context.Context, qemu, accel, kernel string) error {
	ctx, cancel := context.WithTimeout(ctx, bootTimeout)
	defer cancel()
	p, err := platformOf(hostapi.MachineMicroVM)
	if err != nil {
		return err
	}
	run := exec.CommandContext(ctx, qemu, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-machine", p.machine, "-accel", accel, "-cpu", cpu(accel), "-m", "128M", "-serial", "stdio",
		"-kernel", kernel, "-append", consoleArgs+" "+p.cmdline)
	run.Env = []string{}
	out, err := run.CombinedOutput()
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("a kernel did not boot within %v: %s", bootTimeout, lastLine(out))
	case err != nil:
		return fmt.Errorf("a kernel did not boot: %w: %s", err, lastLine(out))
	case !strings.Contains(string(out), "Kernel panic"):
		return fmt.Errorf("a kernel did not boot: %s", lastLine(out))
	}
	return nil
}

// lastLine is the end of what a program said.
func lastLine(out []byte) string {
	text := strings.TrimSpace(string(out))
	return text[strings.LastIndexByte(text, '\n')+1:]
}
