package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/containervm/containervm/hostd-bridge/internal/cgroup"
	"github.com/containervm/containervm/hostd-bridge/internal/jail"
	"github.com/containervm/containervm/hostd-bridge/internal/qemu"
	"github.com/containervm/containervm/hostd-bridge/internal/vsock"
)

// State says what a Finding means for who wants to run VMs.
type State string

// States.
const (
	Good    State = "ok"
	Less    State = "less" // VMs run, slower or less protected
	Missing State = "missing"
)

// Finding is something that a host has for VMs, or lacks.
type Finding struct {
	Subject string `json:"subject"`
	State   State  `json:"state"`
	Found   string `json:"found"`
	Advice  string `json:"advice,omitempty"` // what would be better; empty: nothing is
}

// Least amounts, in bytes: one machine of 512 MiB beside its template; images, templates and a few small containers.
const (
	leastMemory = 2 << 30
	leastDisk   = 5 << 30
)

// Check looks at this host as Run would, starts no VM but the trial of KVM, and says what is used and what to do.
func Check(ctx context.Context, c Config) ([]Finding, error) {
	c.Log = slog.New(slog.DiscardHandler) // what is found is the answer
	all := []Finding{checkKernel(), checkFilters()}
	h, err := qemu.New(ctx, qemu.Config{
		QEMU: c.QEMU, Supervisor: c.Supervisor, Accel: c.Accel, TrialKernel: existing(filepath.Join(c.GuestDir, "vmlinux")), Log: c.Log,
	})
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		all = append(all, Finding{"QEMU", Missing, err.Error(), "install QEMU (Debian: apt-get install qemu-system-x86) and build the supervisor (make build)"})
	} else {
		all = append(all, checkQEMU(ctx, h), checkAccel(h), checkJail(h.Jail()), checkGroups(h.Groups()))
	}
	all = append(all, checkVsock(), checkUserNamespaces(), checkGuest(c.GuestDir), checkMemory(), checkDisk(c.StateDir), checkPort(c.Listen), checkPing())
	return all, nil
}

// existing is path if there is such a file.
func existing(path string) string {
	if _, err := os.Stat(path); err != nil {
		return ""
	}
	return path
}

func checkKernel() Finding {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return Finding{"kernel", Less, err.Error(), ""}
	}
	release := unix.ByteSliceToString(u.Release[:])
	f := Finding{Subject: "kernel", State: Good, Found: "Linux " + release}
	if major, minor := numbers(release); major < 5 || major == 5 && minor < 14 {
		f.State, f.Advice = Less, "Linux 5.14 or newer: jails need mount_setattr(2) and limits for each user namespace"
	}
	return f
}

// numbers reads the first two numbers of a release such as "6.1.0-28-amd64".
func numbers(release string) (major, minor int) {
	first, rest, _ := strings.Cut(release, ".")
	second := rest
	if end := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' }); end >= 0 {
		second = rest[:end]
	}
	major, _ = strconv.Atoi(first) // 0: unknown, and old
	minor, _ = strconv.Atoi(second)
	return major, minor
}

func checkFilters() Finding {
	if err := jail.Supported(); err != nil {
		return Finding{"seccomp", Less, err.Error(), "a host with x86-64 processors"}
	}
	if err := unix.Prctl(unix.PR_GET_SECCOMP, 0, 0, 0, 0); err != nil {
		return Finding{"seccomp", Missing, "this kernel has no system call filters: " + err.Error(), "a kernel with CONFIG_SECCOMP_FILTER"}
	}
	return Finding{"seccomp", Good, "QEMU and supervisors have lists of system calls", ""}
}

func checkQEMU(ctx context.Context, h *qemu.Hypervisor) Finding {
	var found []string
	for _, program := range h.Programs() {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		out, err := exec.CommandContext(ctx, program, "--version").Output()
		cancel()
		line, _, _ := strings.Cut(string(out), "\n")
		if err != nil {
			return Finding{"QEMU", Missing, fmt.Sprintf("%s: %v", program, err), "install it anew"}
		}
		found = append(found, program+": "+line)
	}
	return Finding{"QEMU", Good, strings.Join(found, "; "), ""}
}

func checkAccel(h *qemu.Hypervisor) Finding {
	f := Finding{Subject: "KVM", State: Good, Found: h.Describe()}
	if !strings.HasPrefix(f.Found, "KVM") {
		f.State, f.Advice = Less, "a processor with VT-x or AMD-V (nested virtualisation inside a VM), the module kvm, and the right to open /dev/kvm (group kvm)"
	}
	return f
}

func checkVsock() Finding {
	if err := vsock.KernelUsable(); err != nil {
		return Finding{"vhost-vsock", Good, "supervisors play the device: " + err.Error(), ""}
	}
	return Finding{"vhost-vsock", Good, vsock.KernelDevice, ""}
}

func checkJail(h *jail.Host) Finding {
	level, why := h.Level()
	f := Finding{Subject: "jail", State: Good, Found: h.Describe()}
	switch level {
	case jail.UserNamespace:
		f.State, f.Advice = Less, "as root each machine has a user of its own"
	case jail.None:
		f.State, f.Advice = Less, "run as root, or let users make user namespaces (see there): "+why
	}
	return f
}

// userNamespaceLimits are files by which kernels and distributions forbid user namespaces, and the value that does.
var userNamespaceLimits = [...]struct{ file, forbids string }{
	{"/proc/sys/user/max_user_namespaces", "0"},
	{"/proc/sys/kernel/unprivileged_userns_clone", "0"},
	{"/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1"},
}

func checkUserNamespaces() Finding {
	f := Finding{Subject: "user namespaces", State: Good, Found: "allowed"}
	if os.Geteuid() == 0 {
		f.Found = "not needed by root"
		return f
	}
	for _, l := range userNamespaceLimits {
		value, err := os.ReadFile(l.file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil || strings.TrimSpace(string(value)) == l.forbids {
			return Finding{f.Subject, Less, fmt.Sprintf("%s is %s", l.file, strings.TrimSpace(string(value))),
				"as root: sysctl -w " + strings.ReplaceAll(strings.TrimPrefix(l.file, "/proc/sys/"), "/", ".") + "=… , or an AppArmor profile for cvm"}
		}
	}
	return f
}

func checkGroups(h *cgroup.Host) Finding {
	f := Finding{Subject: "control groups", State: Good, Found: h.String()}
	for _, c := range cgroup.Controllers {
		if h.Missing(c) != nil {
			f.State, f.Advice = Less, "root, or a user's service with Delegate=yes (systemd.resource-control(5)): machines then keep to limits of memory, CPU time and processes"
		}
	}
	return f
}

func checkGuest(dir string) Finding {
	for _, name := range []string{"vmlinux", "bzImage", "initramfs.cpio", "blank.vmdk", "volume.vmdk"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return Finding{"guest", Missing, err.Error(), "make guest, or another directory by --guest"}
		}
	}
	return Finding{"guest", Good, dir, ""}
}

func checkMemory() Finding {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return Finding{"memory", Less, err.Error(), ""}
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != "MemAvailable:" {
			continue
		}
		kib, _ := strconv.ParseInt(f[1], 10, 64) // 0: too little
		return enough("memory", "available", kib<<10, leastMemory)
	}
	return Finding{"memory", Less, "/proc/meminfo does not say", ""}
}

func enough(subject, what string, bytes, least int64) Finding {
	f := Finding{Subject: subject, State: Good, Found: fmt.Sprintf("%d MiB %s", bytes>>20, what)}
	if bytes < least {
		f.State, f.Advice = Less, fmt.Sprintf("%d MiB or more", least>>20)
	}
	return f
}

// checkDisk looks at the nearest directory that is there already.
func checkDisk(dir string) Finding {
	for {
		var st unix.Statfs_t
		err := unix.Statfs(dir, &st)
		if err == nil {
			return enough("disk", "free for "+dir, int64(st.Bavail)*st.Bsize, leastDisk)
		}
		if parent := filepath.Dir(dir); errors.Is(err, fs.ErrNotExist) && parent != dir {
			dir = parent
			continue
		}
		return Finding{"disk", Missing, fmt.Sprintf("%s: %v", dir, err), "another directory by --state"}
	}
}

func checkPort(address string) Finding {
	if address == "" {
		address = DefaultListen
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return Finding{"port", Less, err.Error(), "if it is not this host that runs: end what listens there, or choose another address by --listen"}
	}
	l.Close()
	return Finding{"port", Good, address + " is free for the vSphere API", ""}
}

// checkPing looks whether containers can ping what is outside, which a switch does with the kernel's ping sockets (icmp(7)).
func checkPing() Finding {
	const file = "/proc/sys/net/ipv4/ping_group_range"
	text, err := os.ReadFile(file)
	if err != nil {
		return Finding{"ping", Less, err.Error(), ""}
	}
	f := strings.Fields(string(text))
	first, last := 1, 0
	if len(f) == 2 {
		first, _ = strconv.Atoi(f[0])
		last, _ = strconv.Atoi(f[1])
	}
	if gid := os.Getegid(); gid < first || gid > last {
		return Finding{"ping", Less, "containers cannot ping what is outside", `as root: sysctl -w net.ipv4.ping_group_range="0 2147483647"`}
	}
	return Finding{"ping", Good, "containers can ping what is outside", ""}
}
