// Package cgroup bounds what a machine's processes take of their host, by control groups of version 1 or 2: memory, CPU time, processes, and
// their share of the disks.
//
// A group has the supervisor of a machine and all that it starts, from the supervisor's first instruction on. A controller that the host does not
// have, or does not give to this user, is missing in all groups: Host.Missing says why.
package cgroup

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/cgroups/v3"
	"github.com/containerd/cgroups/v3/cgroup1"
	"golang.org/x/sys/unix"
)

// root is where the kernel's control groups are by convention (Documentation/admin-guide/cgroup-v2.rst, systemd's file-hierarchy(7)).
const root = "/sys/fs/cgroup"

// parent is the name of the group that has those of all machines.
const parent = "containervm"

// Controller is a kind of limit.
type Controller string

// Controllers, by their names in version 2.
const (
	CPU    Controller = "cpu"
	Memory Controller = "memory"
	PIDs   Controller = "pids"
	IO     Controller = "io" // weights alone: equal shares
)

// Controllers are all that groups can have.
var Controllers = [...]Controller{Memory, CPU, PIDs, IO}

// Host makes groups.
type Host struct {
	unified bool
	parents map[Controller]string // the directory that has the groups; of version 2 it is the same for all
	missing map[Controller]error
}

// New finds out which limits this process can set, by setting them, and removes the groups of earlier daemons in which no process is.
func New() *Host {
	h := &Host{unified: cgroups.Mode() == cgroups.Unified, parents: map[Controller]string{}, missing: map[Controller]error{}}
	own, err := groupsOf("self")
	for _, c := range Controllers {
		dir := ""
		if err == nil {
			dir, err = h.parent(c, own)
		}
		if err == nil {
			h.parents[c] = dir
			err = h.probe(c)
		}
		if err != nil {
			delete(h.parents, c)
			h.missing[c] = err
			err = nil
		}
	}
	h.sweep()
	return h
}

// Missing says why a limit cannot be set; nil: it can.
func (h *Host) Missing(c Controller) error { return h.missing[c] }

// String says what is used, for people.
func (h *Host) String() string {
	var has, lacks []string
	for _, c := range Controllers {
		if err := h.missing[c]; err != nil {
			lacks = append(lacks, fmt.Sprintf("%s (%v)", c, err))
			continue
		}
		has = append(has, string(c))
	}
	text := "cgroup v1: "
	if h.unified {
		text = "cgroup v2: "
	}
	if len(has) > 0 {
		text += strings.Join(has, ", ")
	} else {
		text += "nothing"
	}
	if len(lacks) > 0 {
		text += "; not limited: " + strings.Join(lacks, "; ")
	}
	return text
}

// name1 is the controller's name in version 1.
func (c Controller) name1() string {
	if c == IO {
		return string(cgroup1.Blkio)
	}
	return string(c)
}

// groupsOf are the groups of a process, by the controllers' names; "" is that of version 2 (proc_pid_cgroup(5), cgroups(7)).
func groupsOf(pid string) (map[string]string, error) {
	text, err := os.ReadFile("/proc/" + pid + "/cgroup")
	if err != nil {
		return nil, fmt.Errorf("cannot find the control groups of process %s: %w", pid, err)
	}
	groups := map[string]string{}
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		_, rest, _ := strings.Cut(lines.Text(), ":")
		controllers, group, _ := strings.Cut(rest, ":")
		for c := range strings.SplitSeq(controllers, ",") {
			groups[c] = path.Clean("/" + group)
		}
	}
	return groups, nil
}

// parent chooses the directory that is to have the groups. In version 1 it is below this process's own group, whose limits hold for machines too.
// In version 2 it is below the highest group that this process may divide, since one that has processes itself cannot be divided: the root's, or what
// was delegated to its user.
func (h *Host) parent(c Controller, own map[string]string) (string, error) {
	if !h.unified {
		mount := filepath.Join(root, c.name1())
		if _, err := os.Stat(filepath.Join(mount, "cgroup.procs")); err != nil {
			return "", fmt.Errorf("the host has no such controller: %w", err)
		}
		base := filepath.Join(mount, own[c.name1()])
		if _, err := os.Stat(base); err != nil {
			base = mount // the path is that of another namespace
		}
		return filepath.Join(base, parent), nil
	}
	base := root
	for _, part := range append([]string{""}, strings.Split(strings.Trim(own[""], "/"), "/")...) {
		base = filepath.Join(base, part)
		if !mayDivide(base) {
			continue
		}
		has, err := os.ReadFile(filepath.Join(base, "cgroup.controllers"))
		if err != nil {
			return "", err
		}
		if !slices.Contains(strings.Fields(string(has)), string(c)) {
			return "", fmt.Errorf("%s does not have the controller", base)
		}
		return filepath.Join(base, parent), nil
	}
	return "", errors.New("no control group is delegated to this user: start it by systemd-run --user --scope -p Delegate=yes, or as root")
}

// mayDivide reports whether this process may make groups in a group of version 2, and move processes into them.
func mayDivide(group string) bool {
	for _, name := range []string{"", "cgroup.procs", "cgroup.subtree_control"} {
		if unix.Access(filepath.Join(group, name), unix.W_OK) != nil {
			return false
		}
	}
	return true
}

// probe tries a controller.
func (h *Host) probe(c Controller) error {
	g, err := h.group(map[Controller]string{c: h.parents[c]}, Limits{CPUs: 1, MemoryBytes: 1 << 30, PIDs: 16})
	if err != nil {
		return err
	}
	return g.Remove()
}

// sweep removes empty groups of processes that are gone: a name begins with the process ID of who has made the group.
func (h *Host) sweep() {
	for dir := range maps.Values(h.parents) {
		entries, _ := os.ReadDir(dir) // none was made yet
		for _, e := range entries {
			maker, _, ours := strings.Cut(e.Name(), "-")
			pid, err := strconv.Atoi(maker)
			if !ours || err != nil || pid != os.Getpid() && !errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
				continue
			}
			_ = unix.Rmdir(filepath.Join(dir, e.Name())) // one with processes stays: they are a machine that goes on
		}
	}
}

// Find returns the group that a process is in. The error is fs.ErrNotExist when that is none of ours.
func (h *Host) Find(pid int) (*Group, error) {
	groups, err := groupsOf(strconv.Itoa(pid))
	if err != nil {
		return nil, err
	}
	g := &Group{unified: h.unified, dirs: map[Controller]string{}}
	for _, c := range Controllers {
		dir := filepath.Join(root, groups[""])
		if !h.unified {
			dir = filepath.Join(root, c.name1(), groups[c.name1()])
		}
		if filepath.Base(filepath.Dir(dir)) != parent || h.missing[c] != nil {
			continue
		}
		if _, err := os.Stat(dir); err == nil {
			g.dirs[c] = dir
		}
	}
	if len(g.dirs) == 0 {
		return nil, fmt.Errorf("process %d has no control group of ours: %w", pid, fs.ErrNotExist)
	}
	return g, nil
}
