package boot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// sysctl is a parameter of the kernel: a file below / and what it is to hold.
type sysctl struct{ path, value string }

// sysctls are what Docker sets in a container's network namespace since its version 20.10 (Linux' Documentation/networking/ip-sysctl.rst),
// and what makes a machine without memory end a program rather than read the code of all programs from its disk again and again: the
// kernel kills when what was used within this time, in ms, does not fit (Documentation/admin-guide/mm/multigen_lru.rst). Its 1000 kills
// who writes a file in a machine that is younger than a second, and 200 ends a hog as soon (measured in 128 MiB: 50 to 1000 alike).
// Programs that the kernel starts by itself (core_pattern's, request-key) run as root outside the container: they are to have no
// capabilities, which nobody can give back to them.
// The container has the machine's first namespace, and a fork has its source's memory, so both have them without more work.
func sysctls() []sysctl {
	return []sysctl{
		{"proc/sys/net/ipv4/ip_unprivileged_port_start", "0"},  // who is not root may bind port 80
		{"proc/sys/net/ipv4/ping_group_range", "0 2147483647"}, // every group may open a ping socket
		{workingSet, "200"},
		{"proc/sys/kernel/usermodehelper/bset", "0 0"},
		{"proc/sys/kernel/usermodehelper/inheritable", "0 0"},
	}
}

// SetSysctls sets the kernel's values that differ from its own defaults. It needs /proc and /sys. All are tried.
func SetSysctls() error { return setSysctls("/", sysctls()) }

// workingSet is the time, in ms, whose use of memory must fit: see sysctls.
const workingSet = "sys/kernel/mm/lru_gen/min_ttl_ms"

// AllowSwap lets programs use more than there is memory, on a machine that has swap for that: it is slow, and was asked for.
func AllowSwap() error { return setSysctls("/", []sysctl{{workingSet, "0"}}) }

func setSysctls(root string, all []sysctl) error {
	var errs []error
	for _, s := range all {
		if err := os.WriteFile(filepath.Join(root, s.path), []byte(s.value), 0); err != nil {
			errs = append(errs, fmt.Errorf("cannot set sysctl: %w", err))
		}
	}
	return errors.Join(errs...)
}

// SetSysctl sets a parameter of the kernel, by its path below /proc/sys. It makes no file.
func SetSysctl(path, value string) error {
	file, err := os.OpenFile(filepath.Join("/proc/sys", path), os.O_WRONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	_, err = file.WriteString(value)
	return errors.Join(err, file.Close())
}
