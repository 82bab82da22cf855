package boot

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// SyncLimit is how long the last sync and unmount may take before the machine is ended without them.
const SyncLimit = 20 * time.Second

// Method is how the machine is ended.
type Method int

// Methods.
const (
	ACPI  Method = iota // the power switch
	Reset               // a reset, which the hypervisor takes for the end
)

// PowerOffMethod chooses by the command line, else by what the machine has.
func PowerOffMethod(c Cmdline) Method {
	switch c[PowerOffKey] {
	case "reset":
		return Reset
	case "acpi":
		return ACPI
	}
	if _, err := os.Stat("/sys/firmware/acpi/tables"); err != nil {
		return Reset
	}
	return ACPI
}

// PowerOff runs last, which must leave the disks clean, for at most SyncLimit, and ends the machine. It does not return.
func PowerOff(m Method, last func()) {
	done := make(chan struct{})
	go func() {
		last()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(SyncLimit):
	}
	if m == ACPI {
		_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	}
	// Also where the power switch does not work: better than a machine that runs for nothing.
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	select {}
}

// Limits raises the limits that children inherit to what Docker gives a container: the kernel's own are those of a
// small interactive system. It also has the kernel tell PID 1 of Ctrl-Alt-Del by SIGINT rather than reset the machine.
func Limits() error {
	const files = 1 << 20 // Docker's classic "nofile"
	for resource, value := range map[int]uint64{unix.RLIMIT_NOFILE: files, unix.RLIMIT_NPROC: unix.RLIM_INFINITY} {
		if err := unix.Setrlimit(resource, &unix.Rlimit{Cur: value, Max: value}); err != nil {
			return err
		}
	}
	return unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF)
}

// MaxProcesses is how many processes and threads a container may have: what the kernel allows in this machine without
// those that it and the tether need. A tether that can start no thread ends, and the kernel with it.
func MaxProcesses() (int, error) {
	const reserve = 256
	text, err := os.ReadFile("/proc/sys/kernel/threads-max")
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("malformed kernel.threads-max: %w", err)
	}
	return max(n-reserve, n/2), nil
}
