package vmtest

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
)

// Process is a process that belongs to a host.
type Process struct {
	PID, Parent int
	Program     string // base name of its executable
	Args        []string
}

func (p Process) String() string { return fmt.Sprintf("process %d: %s", p.PID, p.Program) }

// Names of a machine's processes.
const (
	QEMU       = "qemu-system-x86_64"
	Supervisor = "cvm-supervisor"
	Switch     = "cvm-switch" // of a network
)

// Processes finds every process that names the host's directory in its arguments or its environment, or has a file in it open.
func (h *Host) Processes() []Process {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	var found []Process
	for _, dir := range dirs {
		args, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil || len(args) == 0 { // gone, a kernel thread or a zombie
			continue
		}
		env, _ := os.ReadFile(filepath.Join(dir, "environ"))
		pid, _ := strconv.Atoi(filepath.Base(dir))
		exe, _ := os.Readlink(filepath.Join(dir, "exe"))
		// A machine's processes have neither in them: what they work with they got as descriptors.
		machine := (filepath.Base(exe) == Supervisor || filepath.Base(exe) == QEMU) && holds(pid, h.Dir)
		if pid == os.Getpid() || !machine && !bytes.Contains(args, []byte(h.Dir)) && !bytes.Contains(env, []byte(h.Dir)) {
			continue
		}
		found = append(found, Process{pid, parentOf(dir), filepath.Base(exe), strings.Split(strings.TrimRight(string(args), "\x00"), "\x00")})
	}
	return found
}

// parentOf reads field 4 of /proc/PID/stat; the name in field 2 may hold anything, so fields are counted from its end.
func parentOf(dir string) int {
	stat, _ := os.ReadFile(filepath.Join(dir, "stat"))
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 2 {
		return 0
	}
	ppid, _ := strconv.Atoi(fields[1])
	return ppid
}

// MachineOf finds the QEMU process of a container by its full ID, and the supervisor that is its parent: the supervisor has files in
// the container's home open.
func (h *Host) MachineOf(tb testing.TB, id string) (qemu, supervisor int) {
	tb.Helper()
	all := h.Processes()
	for _, p := range all {
		if p.Program == Supervisor && holds(p.PID, filepath.Join(h.datastore(), id)) {
			supervisor = p.PID
		}
	}
	for _, p := range all {
		if p.Program == QEMU && p.Parent == supervisor {
			return p.PID, supervisor
		}
	}
	tb.Fatalf("no QEMU process belongs to container %s: %v", id, all)
	return 0, 0
}

// holds reports whether a process has a file in the directory open.
func holds(pid int, dir string) bool {
	fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	return slices.ContainsFunc(fds, func(fd string) bool {
		target, err := os.Readlink(fd)
		return err == nil && strings.HasPrefix(target, dir+"/")
	})
}

// RemoveAll removes every container, whatever its state.
func (h *Host) RemoveAll(tb testing.TB) {
	tb.Helper()
	if ids := strings.Fields(h.MustDocker(tb, "ps", "-aq")); len(ids) > 0 {
		h.MustDocker(tb, append([]string{"rm", "-f"}, ids...)...)
	}
}

// CheckIdle removes every container and fails the test unless nothing of any machine is left: no process, socket,
// directory, published port, half-made layer or TAP.
func (h *Host) CheckIdle(tb testing.TB) {
	tb.Helper()
	h.RemoveAll(tb)
	var left []string
	idle := func() bool { left = h.machineTraces(); return len(left) == 0 }
	defer func() {
		if len(left) > 0 {
			tb.Log("left behind:\n  " + strings.Join(left, "\n  "))
		}
	}()
	Eventually(tb, 20*time.Second, "machines are removed without a trace", idle)
}

// switchTraces lists what a switch holds of VMs, and what is left of switches that are gone. A switch itself lingers for some seconds,
// in which the next test may want it.
func (h *Host) switchTraces() (left []string) {
	lives := map[string]bool{} // by directory
	for _, p := range h.Processes() {
		if p.Program != Switch {
			continue
		}
		for _, port := range listening(p.PID) {
			left = append(left, fmt.Sprintf("port %d, of %v", port, p))
		}
		if at := slices.Index(p.Args, "--dir"); at >= 0 && at+1 < len(p.Args) {
			if dir := p.Args[at+1]; lives[dir] {
				left = append(left, fmt.Sprintf("a second switch in %s: %v", dir, p))
			} else {
				lives[dir] = true
			}
		}
	}
	sockets, _ := filepath.Glob(filepath.Join(h.Run, "net", "*", "*.sock"))
	for _, socket := range sockets {
		if !lives[filepath.Dir(socket)] {
			left = append(left, socket)
		}
	}
	return left
}

// listening are the ports on which a process listens for TCP, or has a UDP socket that is not connected.
func listening(pid int) (ports []int) {
	inodes := map[string]bool{}
	fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	for _, fd := range fds {
		if target, err := os.Readlink(fd); err == nil && strings.HasPrefix(target, "socket:[") {
			inodes[strings.TrimSuffix(strings.TrimPrefix(target, "socket:["), "]")] = true
		}
	}
	for file, state := range map[string]string{"tcp": "0A", "tcp6": "0A", "udp": "07", "udp6": "07"} { // proc_pid_net(5): st
		table, _ := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, file))
		for _, line := range strings.Split(string(table), "\n") {
			fields := strings.Fields(line)
			if len(fields) < 10 || fields[3] != state || !inodes[fields[9]] {
				continue
			}
			_, hex, _ := strings.Cut(fields[1], ":")
			if port, err := strconv.ParseUint(hex, 16, 16); err == nil {
				ports = append(ports, int(port))
			}
		}
	}
	return ports
}

// templates are the homes of templates, which stay: each has a supervisor and a run directory.
func (h *Host) templates() []string {
	homes, _ := filepath.Glob(filepath.Join(h.datastore(), "cvm-template-*"))
	return homes
}

// machineTraces lists what only exists while a machine does.
func (h *Host) machineTraces() []string {
	var left []string
	kept := h.templates()
	for _, p := range h.Processes() {
		keeper := p.Program == Supervisor && slices.ContainsFunc(kept, func(home string) bool { return holds(p.PID, home) })
		if (p.Program == QEMU || p.Program == Supervisor) && !keeper {
			left = append(left, p.String())
		}
	}
	left = append(left, h.machineFiles(kept)...)
	left = append(left, h.switchTraces()...)
	if n := countTAPs() - h.taps; n > 0 {
		left = append(left, fmt.Sprintf("%d TAP devices", n))
	}
	return left
}

// machineFiles lists run directories of machines, their homes on the datastore, and layers that were never finished.
func (h *Host) machineFiles(templates []string) []string {
	runs, _ := filepath.Glob(filepath.Join(h.Run, "vm", "*"))
	if len(runs) <= len(templates) {
		runs = nil // each template has one
	}
	partial, _ := filepath.Glob(filepath.Join(h.datastore(), "cvm", "layers", "*partial*"))
	blobs, _ := filepath.Glob(filepath.Join(h.datastore(), "cvm", "blobs", "sha256", "*partial*"))
	homes, _ := filepath.Glob(filepath.Join(h.datastore(), "*"))
	shared := func(path string) bool { // layers, images, boot files; what the datastore has set aside
		return filepath.Base(path) == "cvm" || filepath.Base(path) == ".reserve" || slices.Contains(templates, path) || isEmptyDir(path, "cvm-forks") || isEmptyDir(path, hostapi.VolumesDir)
	}
	return slices.Concat(runs, slices.DeleteFunc(homes, shared), partial, blobs)
}

// isEmptyDir reports whether path is a directory of that name with nothing in it.
func isEmptyDir(path, name string) bool {
	entries, err := os.ReadDir(path)
	return err == nil && len(entries) == 0 && filepath.Base(path) == name
}

func (h *Host) datastore() string { return filepath.Join(h.State, "hostd", "datastore") }

// checkGone fails the test when a process, socket or TAP outlives the host. Homes of stopped containers are its state.
func (h *Host) checkGone() {
	h.tb.Helper()
	for _, p := range h.Processes() {
		h.tb.Errorf("the host has ended and left behind %s", p)
	}
	_ = filepath.WalkDir(h.Run, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type()&fs.ModeSocket != 0 {
			h.tb.Errorf("the host has ended and left behind the socket %s", path)
		}
		return nil
	})
	if n := countTAPs() - h.taps; n > 0 {
		h.tb.Errorf("the host has ended and left behind %d TAP devices", n)
	}
}

// killRest ends what a failed test has left, process by process, so that it disturbs no other test.
func (h *Host) killRest() {
	for _, p := range h.Processes() {
		_ = syscall.Kill(p.PID, syscall.SIGKILL)
	}
}

// countTAPs counts the TAP devices of the machine: they alone have tun_flags in sysfs.
func countTAPs() int {
	taps, _ := filepath.Glob("/sys/class/net/*/tun_flags")
	return len(taps)
}
