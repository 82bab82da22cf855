package process

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// launch is a process that is ready to start. Its methods run in the Space.
type launch struct {
	program string
	args    []string
	env     []string
	account account
	limits  []limit
	tty     bool
	init    bool // the program is run by an init
	rights  *rights
	oom     int      // oom_score_adj
	umask   int      // file mode creation mask
	cgroup  *os.File // nil: the tether's
	traced  bool     // stop before the first instruction, see release
}

// defaultUmask is the kernel's, and Docker's.
const defaultUmask = 0o022

// prepare finds everything that p names in the root of the calling thread and changes into its working directory, as
// root: like Docker, the process may start in a directory that its user could not enter. make: a missing one is made.
func prepare(p *tetherv1.Process, hostname string, make bool) (l launch, err error) {
	if len(p.Args) == 0 || p.Args[0] == "" {
		return l, failure(tetherv1.Failure_NOT_FOUND, "no command specified")
	}
	known, err := readAccounts()
	if err != nil {
		return l, err
	}
	if l.account, err = known.resolve(p.User, p.Groups); err != nil {
		return l, err
	}
	if l.limits, err = limits(p.Rlimits); err != nil {
		return l, err
	}
	if l.rights, err = rightsOf(p); err != nil {
		return l, err
	}
	l.oom, l.umask = int(p.OomScoreAdj), defaultUmask
	if p.Umask != nil {
		l.umask = int(p.Umask.Mask)
	}
	l.env = environment(p.Env, hostname, l.account.home, p.Tty)
	l.args, l.tty = p.Args, p.Tty
	if err := enterCwd(p.Cwd, make); err != nil {
		return l, err
	}
	l.program, err = lookup(p.Args[0], lookupEnv(l.env, "PATH"))
	return l, err
}

// enterCwd changes into dir. make: it is made first if it is missing, as Docker makes it.
func enterCwd(dir string, make bool) error {
	if dir != "" && !filepath.IsAbs(dir) {
		return failure(tetherv1.Failure_BAD_CWD, "Cwd must be an absolute path")
	}
	dir = cleanCwd(dir)
	err := unix.Chdir(dir)
	if errors.Is(err, unix.ENOENT) && make {
		if err = os.MkdirAll(dir, 0o755); err == nil {
			err = unix.Chdir(dir)
		}
	}
	if err != nil {
		return failure(tetherv1.Failure_BAD_CWD, "chdir to cwd (%q) set in config.json failed: %w", dir, plain(err))
	}
	return nil
}

// plain is the system's error without the path that os adds.
func plain(err error) error {
	var p *os.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// fork starts the process on the streams. With rights it spoils the calling thread.
func (l launch) fork(files [3]int) (int, error) {
	if err := l.rights.limit(); err != nil {
		return 0, err
	}
	if l.umask != defaultUmask {
		unix.Umask(l.umask) // the Space's thread shares it with no other
		defer unix.Umask(defaultUmask)
	}
	program, args := l.program, l.args
	if l.init {
		program, args = InitProgram, initArgs(l.program, l.args)
	}
	attr := &syscall.ProcAttr{
		Env:   l.env,
		Files: []uintptr{uintptr(files[0]), uintptr(files[1]), uintptr(files[2])},
		Sys: &syscall.SysProcAttr{
			Setsid:     true,
			Setctty:    l.tty,
			Credential: &syscall.Credential{Uid: l.account.uid, Gid: l.account.gid, Groups: l.account.groups},
			Ptrace:     l.traced,
		},
	}
	if l.cgroup != nil {
		attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, int(l.cgroup.Fd())
	}
	pid, err := syscall.ForkExec(program, args, attr)
	if err != nil {
		return 0, execFailure(program, err)
	}
	return pid, nil
}

// limit is a resource limit to set.
type limit struct {
	resource int
	value    unix.Rlimit
}

// limits decodes rlimits. Names are those of setrlimit(2).
func limits(list []*tetherv1.Rlimit) ([]limit, error) {
	resources := map[string]int{
		"as": unix.RLIMIT_AS, "core": unix.RLIMIT_CORE, "cpu": unix.RLIMIT_CPU, "data": unix.RLIMIT_DATA,
		"fsize": unix.RLIMIT_FSIZE, "locks": unix.RLIMIT_LOCKS, "memlock": unix.RLIMIT_MEMLOCK,
		"msgqueue": unix.RLIMIT_MSGQUEUE, "nice": unix.RLIMIT_NICE, "nofile": unix.RLIMIT_NOFILE,
		"nproc": unix.RLIMIT_NPROC, "rss": unix.RLIMIT_RSS, "rtprio": unix.RLIMIT_RTPRIO,
		"rttime": unix.RLIMIT_RTTIME, "sigpending": unix.RLIMIT_SIGPENDING, "stack": unix.RLIMIT_STACK,
	}
	var all []limit
	for _, r := range list {
		resource, ok := resources[strings.ToLower(r.Name)]
		if !ok {
			return nil, fmt.Errorf("unknown resource limit %q", r.Name)
		}
		if r.Soft > r.Hard {
			return nil, fmt.Errorf("resource limit %s: soft limit %d exceeds hard limit %d", r.Name, r.Soft, r.Hard)
		}
		all = append(all, limit{resource, unix.Rlimit{Cur: r.Soft, Max: r.Hard}})
	}
	return all, nil
}

// release readies a traced child that has just executed its program, and lets it go. Limits set on the tether around the
// fork would hit the tether; set on a running child they would come late. It must run on the thread that forked. proc is the
// directory of the tether's /proc.
func (l launch) release(c *child, proc int, ready func() error) error {
	if !l.traced {
		return nil
	}
	ws := <-c.events // the kernel stops a traced child at its exec, and reports its end if that comes first
	if !ws.Stopped() {
		c.events <- ws
		return nil
	}
	err := ready()
	if err == nil {
		err = l.limitChild(c.pid, proc)
	}
	if err != nil {
		_ = unix.Kill(c.pid, unix.SIGKILL)
		err = fmt.Errorf("cannot set up process: %w", err)
	}
	_ = unix.PtraceDetach(c.pid)
	return err
}

// limitChild sets what is the process's own and not its thread's.
func (l launch) limitChild(pid, proc int) error {
	for _, lim := range l.limits {
		if err := unix.Prlimit(pid, lim.resource, &lim.value, nil); err != nil {
			return fmt.Errorf("error setting rlimit type %d: %w", lim.resource, err)
		}
	}
	if l.oom == 0 {
		return nil
	}
	fd, err := unix.Openat(proc, strconv.Itoa(pid)+"/oom_score_adj", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err == nil {
		_, err = unix.Write(fd, strconv.AppendInt(nil, int64(l.oom), 10))
		_ = unix.Close(fd)
	}
	if err != nil {
		return fmt.Errorf("cannot set oom_score_adj to %d: %w", l.oom, err)
	}
	return nil
}
