package container

import (
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/moby/moby/api/types/container"

	"github.com/containervm/containervm/controller/internal/record"
)

// maxHostname is the most bytes of a host's and of a domain's name (Linux: HOST_NAME_MAX).
const maxHostname = 64

// checkNames refuses names that the guest could not have, or that would be more than a name in its /etc/hosts.
func checkNames(c *container.Config) error {
	for _, n := range []struct{ what, name string }{{"hostname", c.Hostname}, {"domainname", c.Domainname}} {
		bad := strings.ContainsFunc(n.name, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) || r == '#' })
		if bad || len(n.name) > maxHostname {
			return invalid("invalid %s %q: must be at most %d bytes, without blanks", n.what, n.name, maxHostname)
		}
	}
	return nil
}

// Bounds of the kernel's CPU bandwidth, in microseconds (Linux: Documentation/scheduler/sched-bwc.rst).
const (
	minCPUQuota                = 1_000
	minCPUPeriod, maxCPUPeriod = 1_000, 1_000_000
)

// checkCPUs refuses limits of CPU time that contradict each other, in Docker's words. It looks at a request, not at what became of one.
func checkCPUs(r *container.Resources) error {
	switch {
	case r.NanoCPUs > 0 && r.CPUPeriod > 0:
		return invalid("Conflicting options: Nano CPUs and CPU Period cannot both be set")
	case r.NanoCPUs > 0 && r.CPUQuota > 0:
		return invalid("Conflicting options: Nano CPUs and CPU Quota cannot both be set")
	case r.CPUPeriod != 0 && (r.CPUPeriod < minCPUPeriod || r.CPUPeriod > maxCPUPeriod):
		return invalid("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
	case r.CPUQuota > 0 && r.CPUQuota < minCPUQuota:
		return invalid("CPU cfs quota can not be less than 1ms (i.e. 1000)")
	default:
		return nil
	}
}

// checkNamespaces refuses what is no mode of a namespace, and those that a machine of its own cannot share.
func checkNamespaces(h *container.HostConfig) error {
	for _, n := range []struct {
		what, mode    string
		valid, shared bool
	}{
		{"PID", string(h.PidMode), h.PidMode.Valid() || h.PidMode == "private", h.PidMode.IsHost() || h.PidMode.IsContainer()},
		{"IPC", string(h.IpcMode), h.IpcMode.Valid(), h.IpcMode.IsHost() || h.IpcMode.IsContainer()},
		{"UTS", string(h.UTSMode), h.UTSMode.Valid() || h.UTSMode == "private", h.UTSMode.IsHost()},
		{"cgroup namespace", string(h.CgroupnsMode), h.CgroupnsMode.Valid(), h.CgroupnsMode.IsHost()},
		{"user namespace", string(h.UsernsMode), h.UsernsMode.Valid(), false}, // root is root of its machine, as with "host"
	} {
		switch {
		case !n.valid:
			return invalid("invalid %s mode: %s", n.what, n.mode)
		case n.shared:
			return notImplemented("%s mode %s is not supported: a containerVM has its own kernel: it cannot share namespaces with its host or another container", n.what, n.mode)
		}
	}
	if h.IpcMode.IsNone() {
		return notImplemented("IPC mode none is not supported: /dev/shm is always there: --shm-size bounds it")
	}
	return nil
}

// checkSecurity refuses security options that nobody enforces. Options that ask for less than Docker's default confinement ask for what is so
// anyway: what confines a containerVM is its machine.
func checkSecurity(options []string) error {
	for _, option := range options {
		name, value, given := strings.Cut(option, "=")
		if !given {
			name, value, given = strings.Cut(option, ":")
		}
		var err error
		switch {
		case name == noNewPrivileges:
			if _, wrong := strconv.ParseBool(value); given && wrong != nil {
				err = invalid("invalid --security-opt 2: %q", option)
			}
		case !given:
			err = invalid("invalid --security-opt 1: %q", option)
		case (name == "seccomp" || name == "apparmor" || name == "systempaths") && value == "unconfined", name == "label" && value == "disable":
		case name == "seccomp":
			err = refuseOption(name, "there are no seccomp profiles: --cap-drop and no-new-privileges restrict processes, and the machine confines them")
		case name == "apparmor", name == "label":
			err = refuseOption(name, "a containerVM's kernel has no AppArmor and no SELinux: the machine confines its processes")
		case name == "credentialspec":
			err = refuseOption(name, "it is of Windows containers")
		default:
			err = invalid("invalid --security-opt 2: %q", option)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func refuseOption(name, why string) error {
	return notImplemented("the security option %s is not supported: %s", name, why)
}

// tooMuch says in words of the request that what is kept of a container, or is told to its guest, is more than fits.
func tooMuch(rec *record.Container, cause error) error {
	c := &rec.Config
	env, labels, command := 0, 0, 0
	for _, kv := range c.Env {
		env += len(kv)
	}
	for k, v := range c.Labels {
		labels += len(k) + len(v)
	}
	for _, arg := range slices.Concat(c.Entrypoint, c.Cmd) {
		command += len(arg)
	}
	return invalid("the container's environment (%d bytes), labels (%d bytes), command (%d bytes) and other settings are too large together: %v", env, labels, command, cause)
}
