package cgroup

import (
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/cgroups/v3/cgroup1"
	"github.com/containerd/cgroups/v3/cgroup2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const (
	// period is in which a group may use its share of the CPUs, in microseconds: the kernel's default (sched-bwc.rst).
	period = 100_000
	// minQuota is the least share of a period that the kernel takes, in microseconds (sched-bwc.rst).
	minQuota = 1_000
	// sharesOfCPU and weightOfCPU are the weights of a machine with one CPU in version 1 and 2: the kernel's defaults.
	sharesOfCPU = 1024
	weightOfCPU = 100
	// maxWeighed bounds the CPUs that count for a weight: 10,000 is the largest one of version 2.
	maxWeighed = 100
	// ioWeight is the weight of each machine at the disks: the kernel's default, so all have equal shares.
	ioWeight = 100
)

// MinCPUs is the least limit of CPU time, in CPUs.
const MinCPUs = float64(minQuota) / period

// ownCPUs is what a machine may use beside the CPUs that its guest has: for its devices.
const ownCPUs = 1

// Limits are what a group begins with. All fields are needed.
type Limits struct {
	CPUs        int   // of the guest: the group may use one more, and weighs as many
	MemoryBytes int64 // all memory of the group's processes, also the kernel's for them and the files that they read and write
	PIDs        int64 // threads
}

// Group is the control group of a machine.
type Group struct {
	unified bool
	dirs    map[Controller]string
}

// Make makes a group. Without a controller it is one that limits nothing.
func (h *Host) Make(l Limits) (*Group, error) { return h.group(h.parents, l) }

func (h *Host) group(parents map[Controller]string, l Limits) (*Group, error) {
	name := fmt.Sprintf("%d-%s", os.Getpid(), rand.Text()[:12])
	g := &Group{unified: h.unified, dirs: map[Controller]string{}}
	for c, dir := range parents {
		g.dirs[c] = filepath.Join(dir, name)
	}
	if len(parents) == 0 {
		return g, nil
	}
	make := g.make1
	if g.unified {
		make = g.make2
	}
	err := make(l)
	for n := 0; n < 3 && errors.Is(err, unix.ENOENT); n++ { // the last group was removed at that moment, and its parent with it
		err = make(l)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot make the machine's control group: %w", err), g.Remove())
	}
	return g, nil
}

func (g *Group) make1(l Limits) error {
	limits := &specs.LinuxResources{}
	var systems []cgroup1.Subsystem
	for c := range g.dirs {
		switch c {
		case CPU:
			quota, every, shares := defaultQuota(l.CPUs), uint64(period), uint64(sharesOfCPU*min(l.CPUs, maxWeighed))
			limits.CPU = &specs.LinuxCPU{Quota: &quota, Period: &every, Shares: &shares}
			systems = append(systems, cgroup1.NewCpu(root))
		case Memory:
			limits.Memory = &specs.LinuxMemory{Limit: &l.MemoryBytes}
			systems = append(systems, cgroup1.NewMemory(root))
		case PIDs:
			limits.Pids = &specs.LinuxPids{Limit: &l.PIDs}
			systems = append(systems, cgroup1.NewPids(root))
		}
	}
	place := func(n cgroup1.Name) (string, error) {
		return filepath.Rel(filepath.Join(root, string(n)), g.dirs[Controller(n)])
	}
	only := func() ([]cgroup1.Subsystem, error) { return systems, nil }
	if _, err := cgroup1.New(place, limits, cgroup1.WithHierarchy(only)); err != nil {
		return err
	}
	if dir, ok := g.dirs[Memory]; ok { // not on every host: swap accounting
		_ = writeNumber(filepath.Join(dir, "memory.memsw.limit_in_bytes"), l.MemoryBytes)
	}
	if dir, ok := g.dirs[IO]; ok {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		return writeFirst(dir, ioWeight, "blkio.weight", "blkio.bfq.weight")
	}
	return nil
}

func (g *Group) make2(l Limits) error {
	limits := &cgroup2.Resources{}
	for c := range g.dirs {
		switch c {
		case CPU:
			quota, every, weight := defaultQuota(l.CPUs), uint64(period), uint64(weightOfCPU*min(l.CPUs, maxWeighed))
			limits.CPU = &cgroup2.CPU{Max: cgroup2.NewCPUMax(upTo(quota), &every), Weight: &weight}
		case Memory:
			limits.Memory = &cgroup2.Memory{Max: &l.MemoryBytes, Swap: &l.MemoryBytes}
		case PIDs:
			limits.Pids = &cgroup2.Pids{Max: l.PIDs}
		case IO:
			limits.IO = &cgroup2.IO{} // the library has no io.weight
		}
	}
	dir := g.dir()
	if _, err := cgroup2.NewManager(root, strings.TrimPrefix(dir, root), limits); err != nil {
		return err
	}
	if _, ok := g.dirs[IO]; ok {
		return writeFirst(dir, ioWeight, "io.weight", "io.bfq.weight")
	}
	return nil
}

// dir is a directory of the group's: of version 2 the only one.
func (g *Group) dir() string {
	for _, dir := range g.dirs {
		return dir
	}
	return ""
}

// defaultQuota is what a machine without a limit may use of a period; -1: all CPUs of the host.
func defaultQuota(cpus int) int64 {
	if cpus+ownCPUs >= runtime.NumCPU() {
		return -1
	}
	return int64(cpus+ownCPUs) * period
}

func upTo(quota int64) *int64 {
	if quota < 0 {
		return nil // "max"
	}
	return &quota
}

// Start starts a command in the group: all that it starts is in it too.
func (g *Group) Start(cmd *exec.Cmd) error {
	if len(g.dirs) == 0 {
		return cmd.Start()
	}
	if g.unified {
		return g.start2(cmd)
	}
	started := make(chan error)
	go onThread(started, func() error {
		for c, dir := range g.dirs {
			// 0 is the thread that writes (cgroup-v1/cgroups.rst). A whole process could be moved too, but that waits for all CPUs.
			if err := os.WriteFile(filepath.Join(dir, "tasks"), []byte("0"), 0); err != nil {
				return fmt.Errorf("cannot enter the machine's control group of %s: %w", c, err)
			}
		}
		return cmd.Start()
	})
	return <-started
}

// onThread calls f on a thread that ends with it. That is not the process's first one, which never ends, and whose groups are taken for those of
// the process.
func onThread(done chan<- error, f func() error) {
	runtime.LockOSThread()
	if unix.Gettid() != unix.Getpid() {
		done <- f() // never unlocked
		return
	}
	other := make(chan error)
	go onThread(other, f) // on another one, as this one is taken
	done <- <-other
	runtime.UnlockOSThread()
}

func (g *Group) start2(cmd *exec.Cmd) error {
	dir, err := os.Open(g.dir())
	if err != nil {
		return fmt.Errorf("cannot enter the machine's control group: %w", err)
	}
	defer dir.Close()
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(dir.Fd())
	return cmd.Start()
}

// SetCPUs lets the group use at most so much time of the host's CPUs; 0: as a machine without a limit. A limit below MinCPUs counts as that.
func (g *Group) SetCPUs(cpus float64) error {
	dir, ok := g.dirs[CPU]
	if !ok {
		return nil // the caller knows by Host.Missing
	}
	quota := max(int64(cpus*period), minQuota)
	if cpus == 0 {
		n, err := g.cpus(dir)
		if err != nil {
			return fmt.Errorf("cannot lift the limit of CPU time: %w", err)
		}
		quota = defaultQuota(n)
	}
	file, text := "cpu.cfs_quota_us", strconv.FormatInt(quota, 10)
	if g.unified {
		file = "cpu.max"
		if quota < 0 {
			text = "max"
		}
		text += " " + strconv.Itoa(period)
	}
	if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0); err != nil {
		return fmt.Errorf("cannot limit CPU time to %.2f CPUs: %w", cpus, err)
	}
	return nil
}

// cpus is how many CPUs the guest has: its weight says it.
func (g *Group) cpus(dir string) (int, error) {
	if g.unified {
		n, err := readNumber(filepath.Join(dir, "cpu.weight"))
		return int(n / weightOfCPU), err
	}
	n, err := readNumber(filepath.Join(dir, "cpu.shares"))
	return int(n / sharesOfCPU), err
}

// Copying makes room for a copy of all memory of the guest. done says how many bytes the copy has become; 0: there is none. It is to be called:
// the copy stays in the group's account as long as someone has it, since the supervisor has written it. overhead is what of the first limit was
// not the guest's.
func (g *Group) Copying(overhead int64) (done func(copied int64) error, err error) {
	dir, ok := g.dirs[Memory]
	if !ok {
		return func(int64) error { return nil }, nil
	}
	limit, err := readNumber(filepath.Join(dir, g.memoryFile()))
	if err == nil {
		err = g.setMemory(dir, limit, 2*limit-overhead)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot make room for a copy of the machine's memory: %w", err)
	}
	return func(copied int64) error {
		if err := g.setMemory(dir, 2*limit-overhead, limit+copied); err != nil {
			return fmt.Errorf("cannot limit the machine's memory: %w", err)
		}
		return nil
	}, nil
}

func (g *Group) memoryFile() string {
	if g.unified {
		return "memory.max"
	}
	return "memory.limit_in_bytes"
}

// setMemory changes the limit of memory from one to another. In version 1 that of memory and swap is never below that of memory.
func (g *Group) setMemory(dir string, from, to int64) error {
	set := func(name string) error { return writeNumber(filepath.Join(dir, name), to) }
	if g.unified {
		return errors.Join(set("memory.max"), set("memory.swap.max"))
	}
	const both, alone = "memory.memsw.limit_in_bytes", "memory.limit_in_bytes"
	if _, err := os.Stat(filepath.Join(dir, both)); err != nil {
		return set(alone)
	}
	if to > from {
		return errors.Join(set(both), set(alone))
	}
	return errors.Join(set(alone), set(both))
}

// Killed reports whether the kernel has killed a process of the group because its memory was at the limit.
func (g *Group) Killed() bool {
	name := "memory.oom_control" // cgroup-v1/memory.rst
	if g.unified {
		name = "memory.events"
	}
	text, err := os.ReadFile(filepath.Join(g.dirs[Memory], name))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(text)) {
		if n, ok := strings.CutPrefix(line, "oom_kill "); ok {
			return strings.TrimSpace(n) != "0"
		}
	}
	return false
}

// removal is how long a group may be busy after its processes were reaped, and pause how often it is tried: the thread that has started them may be
// on its way out, and in version 1 the kernel tells nobody when it is.
const (
	removal = time.Second
	pause   = 2 * time.Millisecond
)

// Remove removes the group, whose processes have ended. One that is not there is no error.
func (g *Group) Remove() error {
	var errs []error
	for _, dir := range slices.Compact(slices.Sorted(maps.Values(g.dirs))) {
		err := unix.Rmdir(dir)
		for until := time.Now().Add(removal); errors.Is(err, unix.EBUSY) && time.Now().Before(until); err = unix.Rmdir(dir) {
			time.Sleep(pause)
		}
		if err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("cannot remove control group %s: %w", dir, err))
		}
		_ = unix.Rmdir(filepath.Dir(dir)) // it stays while there are others
	}
	return errors.Join(errs...)
}

// writeFirst writes to the first of the files that is there. A host without a scheduler that weighs has none.
func writeFirst(dir string, n int64, names ...string) error {
	err := errors.New("the kernel weighs nothing: no scheduler of its disks does")
	for _, name := range names {
		if _, missing := os.Stat(filepath.Join(dir, name)); missing == nil {
			return writeNumber(filepath.Join(dir, name), n)
		}
	}
	return err
}

func writeNumber(path string, n int64) error {
	return os.WriteFile(path, strconv.AppendInt(nil, n, 10), 0)
}

func readNumber(path string) (int64, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
}
