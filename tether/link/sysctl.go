package link

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// maxSysctl bounds a parameter's name and its value, in bytes; the kernel's own names are below 100, and it takes a page of a value.
const maxSysctl = 4 << 10

// SysctlPath is the path below /proc/sys of a kernel parameter as Spec names it. As in sysctl(8) the first separator decides: "net.a.b" is
// net/a/b, "net/a.1/b" is what it says. An error says why no container can have the parameter set.
func SysctlPath(name, value string) (string, error) {
	if len(name) > maxSysctl || len(value) > maxSysctl {
		return "", fmt.Errorf("it is longer than %d bytes", maxSysctl)
	}
	separator := "."
	if i := strings.IndexAny(name, "./"); i >= 0 {
		separator = name[i : i+1]
	}
	parts := strings.Split(name, separator)
	if len(parts) < 2 || slices.ContainsFunc(parts, oddPart) {
		return "", errors.New("it is no name of a kernel parameter, such as net.ipv4.ip_forward")
	}
	path := strings.Join(parts, "/")
	return path, refusedSysctl(path, value)
}

// oddPart reports whether a part of a name leads elsewhere than to a directory or file of that name.
func oddPart(part string) bool {
	return part == "" || part == "." || part == ".." || strings.ContainsAny(part, "/\x00")
}

// refusedSysctl refuses what the machine itself stands on. Everything else is the container's: the kernel is its own.
func refusedSysctl(path, value string) error {
	switch path {
	case "kernel/hostname", "kernel/domainname":
		return errors.New("the container's names are set by --hostname and --domainname")
	case "kernel/threads-max", "kernel/pid_max":
		return errors.New("the machine's own processes need it: limit those of the container by --pids-limit")
	case "kernel/ctrl-alt-del", "kernel/poweroff_cmd", "kernel/modprobe", "kernel/hotplug", "vm/panic_on_oom":
		return errors.New("the machine's start and end are its tether's")
	case "kernel/core_pattern":
		if strings.HasPrefix(strings.TrimSpace(value), "|") {
			return errors.New("a program for core files would run beside the container, where its files are not: name a file")
		}
	}
	for _, own := range []string{"kernel/panic", "kernel/usermodehelper/"} {
		if strings.HasPrefix(path, own) {
			return errors.New("the machine's start and end are its tether's")
		}
	}
	return nil
}
