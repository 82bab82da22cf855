package jail

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// First arguments by which the supervisor's program is stage 1, or the launcher of QEMU.
const (
	stageOne = "jail"
	launcher = "launch"
)

// plan is all that stage 1 knows.
type plan struct {
	Files       []string       // that the root has, read-only, at the same paths
	Devices     []string       // that it has beside null and urandom
	Supervisor  string         // path of its program, which is inside in the root
	User        int            // user and group; -1: it stays who it is
	Groups      []int          // more of them, if User is not -1
	Limits      map[int]uint64 // by RLIMIT_*
	Descriptors int            // how many it keeps, from 0 on
	Args        []string       // of the supervisor
}

// limits bound what each process may take, beside the control group. They cannot be raised again.
func limits(memoryMiB int) map[int]uint64 {
	return map[int]uint64{
		unix.RLIMIT_CORE:     0,
		unix.RLIMIT_NOFILE:   4096,
		unix.RLIMIT_NPROC:    512,      // threads of the user: QEMU has up to 64 for its disks beside its CPUs, Go a few
		unix.RLIMIT_FSIZE:    17 << 40, // the largest volume, 16 TiB, and its tables
		unix.RLIMIT_MEMLOCK:  64 << 10,
		unix.RLIMIT_MSGQUEUE: 0,
		unix.RLIMIT_DATA:     uint64(memoryMiB)<<20 + 3<<30, // a copy of the guest's memory; translated code (1 GiB), the heap and stacks
	}
}

// Enter is called first by the supervisor's program. It returns if the program is to be a supervisor; else it becomes what it
// was started for, or ends.
func Enter() {
	if len(os.Args) < 3 || os.Args[1] != stageOne && os.Args[1] != launcher {
		return
	}
	runtime.LockOSThread() // what follows concerns a thread, and exec leaves only that one
	var err error
	if os.Args[1] == launcher {
		err = launch(os.Args[2:])
	} else {
		err = enter(os.Args[2])
	}
	fmt.Fprintln(os.Stderr, "cannot enter the jail:", err)
	os.Exit(1)
}

// enter is stage 1, in new namespaces already.
func enter(text string) error {
	var p plan
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		return err
	}
	if err := makeRoot(p); err != nil {
		return err
	}
	unix.Umask(0o077)
	if err := unix.Sethostname([]byte("cvm")); err != nil {
		return fmt.Errorf("sethostname: %w", err)
	}
	for resource, value := range p.Limits {
		if err := limit(resource, value); err != nil {
			return fmt.Errorf("rlimit %d: %w", resource, err)
		}
	}
	if err := dropUser(p); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no_new_privs: %w", err)
	}
	if err := unix.CloseRange(uint(p.Descriptors), ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("close_range: %w", err)
	}
	return fmt.Errorf("exec: %w", syscall.Exec(inside, append([]string{filepath.Base(inside)}, p.Args...), []string{}))
}

// limit lowers a limit as far as value; one that is lower stays.
func limit(resource int, value uint64) error {
	var now unix.Rlimit
	if err := unix.Getrlimit(resource, &now); err != nil {
		return err
	}
	value = min(value, now.Max)
	return unix.Prlimit(0, resource, &unix.Rlimit{Cur: value, Max: value}, nil)
}

// mountpoint is where the root is mounted before it is one: a directory that every host has, and of which nothing is needed later.
const mountpoint = "/dev"

// makeRoot changes the root to one in memory that has the plan's files alone. Nobody outside sees it, and it ends with the last process.
func makeRoot(p plan) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("cannot separate mounts: %w", err)
	}
	// What is bound is looked up before the root lies over it.
	type bound struct {
		tree   int
		target string
	}
	var files []bound
	take := func(source, target string) error {
		fd, err := unix.OpenTree(unix.AT_FDCWD, source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		if err != nil {
			return fmt.Errorf("open_tree %s: %w", source, err)
		}
		files = append(files, bound{fd, target})
		return nil
	}
	for _, f := range p.Files {
		if err := take(f, f); err != nil {
			return err
		}
	}
	if err := take(p.Supervisor, inside); err != nil {
		return err
	}
	programs := len(files)
	for _, d := range append([]string{"/dev/null", "/dev/urandom"}, p.Devices...) {
		if err := take(d, d); err != nil {
			return err
		}
	}
	if err := unix.Mount("cvm", mountpoint, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755,size=1m,nr_inodes=1k"); err != nil {
		return fmt.Errorf("cannot mount the root: %w", err)
	}
	if err := unix.Chdir(mountpoint); err != nil { // "." is the mount from here on
		return err
	}
	put := func(b bound) error {
		at := "." + b.target
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			return err
		}
		fd, err := unix.Open(at, unix.O_CREAT|unix.O_RDONLY|unix.O_CLOEXEC, 0o444)
		if err != nil {
			return fmt.Errorf("%s: %w", b.target, err)
		}
		unix.Close(fd)
		if err := unix.MoveMount(b.tree, "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return fmt.Errorf("move_mount %s: %w", b.target, err)
		}
		return unix.Close(b.tree)
	}
	for _, f := range files[:programs] {
		if err := put(f); err != nil {
			return err
		}
	}
	if err := os.Mkdir("proc", 0o555); err != nil {
		return err
	}
	for _, d := range files[programs:] {
		attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC}
		if err := unix.MountSetattr(d.tree, "", unix.AT_EMPTY_PATH, &attr); err != nil {
			return fmt.Errorf("mount_setattr %s: %w", d.target, err)
		}
		if err := put(d); err != nil {
			return err
		}
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID}
	if err := unix.MountSetattr(unix.AT_FDCWD, ".", unix.AT_RECURSIVE, &attr); err != nil {
		return fmt.Errorf("cannot make the root read-only: %w", err)
	}
	if err := mountProc("proc"); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil { // the old root, which lies over the new one
		return fmt.Errorf("cannot leave the old root: %w", err)
	}
	return unix.Chdir("/")
}

// mountProc mounts a /proc of the machine's processes and nothing else of the kernel.
func mountProc(at string) error {
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	err := unix.Mount("proc", at, "proc", flags, "subset=pid,hidepid=2")
	if err != nil {
		return fmt.Errorf("cannot mount /proc: %w", err)
	}
	return nil
}

// Bits of prctl(PR_SET_SECUREBITS) (capabilities(7)): user 0 is nothing special, and that is final.
const secureBits = 1<<0 | 1<<1 | 1<<2 | 1<<3 | 1<<6 | 1<<7 // NOROOT, NO_SETUID_FIXUP, NO_CAP_AMBIENT_RAISE, each with its lock

// lastCap is above the last capability that any kernel has; those that this one does not know are an error that says so.
const lastCap = 63

// dropUser becomes the machine's user without any capability. It works on the calling thread.
func dropUser(p plan) error {
	for c := range lastCap + 1 {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("cannot drop capability %d: %w", c, err)
		}
	}
	if err := unix.Prctl(unix.PR_SET_SECUREBITS, secureBits, 0, 0, 0); err != nil {
		return fmt.Errorf("securebits: %w", err)
	}
	if p.User >= 0 {
		groups := make([]uint32, len(p.Groups)+1)
		for i, g := range p.Groups {
			groups[i] = uint32(g)
		}
		id := uintptr(p.User)
		calls := [...]struct {
			name    string
			nr      uintptr
			a, b, c uintptr
		}{
			{"setgroups", unix.SYS_SETGROUPS, uintptr(len(p.Groups)), uintptr(unsafe.Pointer(&groups[0])), 0},
			{"setresgid", unix.SYS_SETRESGID, id, id, id},
			{"setresuid", unix.SYS_SETRESUID, id, id, id},
		}
		for _, c := range calls {
			if _, _, errno := unix.RawSyscall(c.nr, c.a, c.b, c.c); errno != 0 {
				return fmt.Errorf("%s: %w", c.name, errno)
			}
		}
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := unix.Capset(&header, &none[0]); err != nil {
		return fmt.Errorf("cannot give up capabilities: %w", err)
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("cannot give up ambient capabilities: %w", err)
	}
	return nil
}

// LauncherArgs are the arguments by which the supervisor's program starts QEMU under its filter. It sends the filter's listener over the
// socket with that number, if it is not -1, before QEMU's first instruction.
func LauncherArgs(c QEMUCalls, socket int, qemu string, args ...string) []string {
	return append([]string{launcher, strconv.FormatBool(c.KVM), strconv.FormatBool(c.KernelVsock), strconv.Itoa(socket), qemu}, args...)
}

// CloseOnExec has all descriptors but the standard ones closed when this process starts another program. What a program is to have is
// handed to it by name.
func CloseOnExec() error {
	if err := unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return os.NewSyscallError("close_range", err)
	}
	return nil
}
