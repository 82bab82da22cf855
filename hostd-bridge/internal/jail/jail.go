package jail

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Level says how much of a jail this host can make.
type Level int

// Levels.
const (
	None          Level = iota // filters of system calls and a clean environment alone
	UserNamespace              // all but a user of the machine's own
	Full
)

// String names the level for people.
func (l Level) String() string {
	switch l {
	case Full:
		return "full"
	case UserNamespace:
		return "user namespace"
	}
	return "none"
}

// Config says what is put into jails. QEMU and Supervisor are absolute paths.
type Config struct {
	QEMU       []string // the first is tried
	Supervisor string
	Devices    []string // of /dev, by path, that QEMU opens: the kernel's virtualisation and vsock device, if they are used
	IDs        Range    // zero: DefaultRange
	IDDir      string   // where the range is kept track of, for all daemons of the host; empty: usersDir
}

// usersDir has the locks of users that machines have.
const usersDir = "/run/cvm-users"

// Host makes jails. It is one host's, and made once.
type Host struct {
	config Config
	level  Level
	why    string   // the level is not Full
	files  []string // of the root
	groups []int    // that devices are open to
	ids    *ids     // level Full
}

// trialTime bounds the trial of a level.
const trialTime = 20 * time.Second

// New looks for the files of QEMU and tries which level this host can make: a program is started in a jail, the same way as a machine.
// It fails where QEMU or the supervisor cannot be used at all.
func New(ctx context.Context, c Config) (*Host, error) {
	if c.IDs == (Range{}) {
		c.IDs = DefaultRange
	}
	if c.IDDir == "" {
		c.IDDir = usersDir
	}
	h := &Host{config: c}
	var err error
	for _, qemu := range c.QEMU {
		files, err := rootFiles(ctx, qemu)
		if err != nil {
			h.why = err.Error()
			return h, nil
		}
		h.files = append(h.files, files...)
	}
	supervisors, err := libraries(ctx, c.Supervisor) // none, but for one that is built for tests
	if err != nil {
		return nil, err
	}
	h.files = append(h.files, supervisors...)
	slices.Sort(h.files)
	h.files = slices.Compact(h.files)
	for _, device := range c.Devices {
		var st unix.Stat_t
		if err := unix.Stat(device, &st); err == nil {
			h.groups = append(h.groups, int(st.Gid))
		}
	}
	var whys []string
	for level := Full; level > None; level-- {
		if err = h.try(ctx, level); err == nil {
			h.level = level
			break
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		whys = append(whys, fmt.Sprintf("%s: %v", level, err))
	}
	h.why = strings.Join(whys, "; ")
	return h, nil
}

// Level is what jails on this host are, and why they are no more.
func (h *Host) Level() (Level, string) { return h.level, h.why }

// Describe says it in one line.
func (h *Host) Describe() string {
	if h.level == Full {
		return h.level.String()
	}
	return h.level.String() + ": " + h.why
}

// errNotRoot says why a level is not to be had. It is the state of most hosts, and no fault.
var errNotRoot = errors.New("only root can give machines users of their own")

// try starts QEMU in a jail of a level, to say its version.
func (h *Host) try(ctx context.Context, level Level) error {
	if level == Full {
		if os.Geteuid() != 0 {
			return errNotRoot
		}
		var err error
		if h.ids, err = newIDs(h.config.IDDir, h.config.IDs); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, trialTime)
	defer cancel()
	cell, err := h.cell(level, 0)
	if err != nil {
		return err
	}
	defer cell.Close()
	cmd := cell.command(LauncherArgs(QEMUCalls{}, -1, h.config.QEMU[0], "--version")...)
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("cannot make namespaces: %w", err)
	}
	defer context.AfterFunc(ctx, func() { cmd.Process.Kill() })()
	if err := cmd.Wait(); err != nil || !strings.Contains(said.String(), "QEMU") {
		return fmt.Errorf("a trial in a jail failed: %v: %s", err, strings.TrimSpace(said.String()))
	}
	return nil
}

// Cell is a jail for one machine. Close gives back what no process has.
type Cell struct {
	host  *Host
	level Level
	user  uint32   // Full
	lock  *os.File // of the user; nil: none
	plan  plan
}

// NewCell makes a jail for a machine of so much memory. Its processes have it until the last is gone.
func (h *Host) NewCell(memoryMiB int) (*Cell, error) { return h.cell(h.level, memoryMiB) }

func (h *Host) cell(level Level, memoryMiB int) (*Cell, error) {
	c := &Cell{host: h, level: level, plan: plan{
		Files: h.files, Devices: h.config.Devices, Supervisor: h.config.Supervisor, Limits: limits(memoryMiB), User: -1, Groups: h.groups,
	}}
	if level != Full {
		return c, nil
	}
	var err error
	if c.user, c.lock, err = h.ids.take(); err != nil {
		return nil, err
	}
	c.plan.User = int(c.user)
	return c, nil
}

// Close is for who has started the machine, or has not.
func (c *Cell) Close() error {
	if c.lock == nil {
		return nil
	}
	return c.lock.Close()
}

// Command is how the supervisor is started. files are its descriptors from 3 on; one more comes behind them.
func (c *Cell) Command(files ...*os.File) *exec.Cmd { return c.start(nil, files) }

// command is Command for another start of the supervisor's program.
func (c *Cell) command(args ...string) *exec.Cmd { return c.start(args, nil) }

func (c *Cell) start(args []string, files []*os.File) *exec.Cmd {
	cmd := exec.Command(c.host.config.Supervisor, args...)
	cmd.Env = []string{} // nothing of the daemon's
	cmd.Dir = "/"
	cmd.ExtraFiles = files
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if c.level == None {
		return cmd
	}
	p := c.plan
	p.Args = args
	p.Descriptors = 3 + len(files)
	if c.lock != nil {
		cmd.ExtraFiles = append(files[:len(files):len(files)], c.lock)
		p.Descriptors++
	}
	text, err := json.Marshal(p)
	if err != nil {
		panic(err) // of strings and numbers
	}
	cmd.Args = []string{filepath.Base(c.host.config.Supervisor), stageOne, string(text)}
	cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS
	if c.level == UserNamespace {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		// Number 0 keeps its capabilities through exec, until stage 1 gives them up for good.
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	return cmd
}

// Directory opens a directory for the machine to make files in, as a tree of its own: ".." does not lead out of it, and nothing in it is
// executed. It is the machine's group's, and sticky, so that what others have in it is neither removed nor renamed by the machine. Files
// of an earlier run, which own knows by their names, become its own if they can be nothing else.
//
// An ordinary user cannot make such trees: the supervisor, though not QEMU, could then leave the directory for that user's files.
func (c *Cell) Directory(path string, own func(name string) bool) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open the machine's directory %s: %w", path, err)
	}
	dir := os.NewFile(uintptr(fd), path)
	if c.level != Full {
		return dir, nil
	}
	defer dir.Close()
	if err := c.give(dir, own); err != nil {
		return nil, fmt.Errorf("cannot give the machine its directory %s: %w", path, err)
	}
	tree, err := unix.OpenTree(int(dir.Fd()), "", unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("cannot separate the machine's directory %s: %w", path, err)
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		unix.Close(tree)
		return nil, fmt.Errorf("cannot separate the machine's directory %s: %w", path, err)
	}
	return os.NewFile(uintptr(tree), path), nil
}

// maxFiles is more than the files that a machine and its host keep in a directory of it.
const maxFiles = 10_000

func (c *Cell) give(dir *os.File, own func(name string) bool) error {
	if err := dir.Chown(os.Geteuid(), int(c.user)); err != nil {
		return err
	}
	if err := dir.Chmod(os.ModeSticky | 0o770); err != nil {
		return err
	}
	names, err := dir.Readdirnames(maxFiles)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	for _, name := range names {
		if !own(name) {
			continue
		}
		if err := c.ownFile(int(dir.Fd()), name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func (c *Cell) ownFile(dir int, name string) error {
	fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Nlink != 1 {
		return errors.New("it is no regular file, or has another name too")
	}
	return unix.Fchownat(fd, "", int(c.user), int(c.user), unix.AT_EMPTY_PATH)
}
