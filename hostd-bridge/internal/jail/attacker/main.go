// Command attacker is put in QEMU's or a supervisor's place by the tests of package jail. It tries one thing that an attacker would and says
// on its standard output which error stopped it, as an errno's name, or "done".
package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/containervm/containervm/hostd-bridge/internal/jail"
)

func main() {
	jail.Enter()
	args := os.Args[1:]
	switch {
	case len(args) == 1 && args[0] == "--version": // of QEMU, for a trial
		fmt.Println("QEMU emulator version 0 (attacker)")
		return
	case len(args) > 1 && args[0] == "supervisor": // in its place
		if err := errors.Join(jail.CloseOnExec(), jail.ConfineSelf(false)); err != nil {
			fmt.Println("cannot confine:", err)
			return
		}
		args = args[1:]
	}
	if len(args) == 0 {
		fmt.Println("no attempt")
		return
	}
	try, ok := attempts[args[0]]
	if !ok {
		fmt.Println("unknown attempt", args[0])
		return
	}
	var errno syscall.Errno
	switch err := try(args[1:]); {
	case err == nil:
		fmt.Println("done")
	case errors.As(err, &errno):
		fmt.Println(unix.ErrnoName(errno))
	default:
		fmt.Println(err)
	}
}

// attempts by their names; what they need to know follows.
var attempts = map[string]func(args []string) error{
	"read": func(a []string) error { _, err := os.ReadFile(a[0]); return err },
	"write": func(a []string) error {
		return os.WriteFile(a[0], []byte("planted"), 0o666)
	},
	"list": func(a []string) error {
		entries, err := os.ReadDir(a[0])
		for _, e := range entries {
			fmt.Print(e.Name(), " ")
		}
		return err
	},
	"climb":   climb,
	"connect": func(a []string) error { return dial("unix", a[0]) },
	"tcp":     func(a []string) error { return dial("tcp", a[0]) },
	"udp": func(a []string) error {
		c, err := net.Dial("udp", a[0])
		if err != nil {
			return err
		}
		_, err = c.Write([]byte("x"))
		return err
	},
	"packet":     func([]string) error { _, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0); return err },
	"signal":     func(a []string) error { return unix.Kill(number(a[0]), 0) },
	"signal-all": func([]string) error { return unix.Kill(-1, 0) },
	"trace":      func(a []string) error { return unix.PtraceAttach(number(a[0])) },
	"memory": func(a []string) error {
		b := make([]byte, 8)
		_, err := unix.ProcessVMReadv(number(a[0]), []unix.Iovec{{Base: &b[0], Len: 8}}, []unix.RemoteIovec{{Base: 0x400000, Len: 8}}, 0)
		return err
	},
	"renice":   func(a []string) error { return unix.Setpriority(unix.PRIO_PROCESS, number(a[0]), 5) },
	"pidfd":    func(a []string) error { _, err := unix.PidfdOpen(number(a[0]), 0); return err },
	"mount":    func([]string) error { return unix.Mount("t", "/dev", "tmpfs", 0, "") },
	"remount":  func([]string) error { return unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND, "") },
	"pivot":    func([]string) error { return unix.PivotRoot(".", ".") },
	"chroot":   func([]string) error { return unix.Chroot("/") },
	"mknod":    func([]string) error { return unix.Mknod("/proc/x", unix.S_IFBLK|0o600, 0) },
	"module":   func([]string) error { return unix.FinitModule(0, "", 0) },
	"reboot":   func([]string) error { return unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF) },
	"hostname": func([]string) error { return unix.Sethostname([]byte("x")) },
	"clock": func([]string) error {
		return unix.ClockSettime(unix.CLOCK_REALTIME, &unix.Timespec{Sec: time.Now().Unix()})
	},
	"setuid":   func([]string) error { return raw(unix.SYS_SETRESUID, 0, 0, 0) },
	"setuid-1": func([]string) error { return raw(unix.SYS_SETRESUID, 1, 1, 1) },
	"caps":     raiseCaps,
	"unshare":  func([]string) error { return raw(unix.SYS_UNSHARE, unix.CLONE_NEWUSER|unix.CLONE_NEWNS) },
	"setns":    func([]string) error { return raw(unix.SYS_SETNS, 0, 0) },
	"bpf":      func([]string) error { return raw(unix.SYS_BPF, 0, 0, 0) },
	"io_uring": func([]string) error {
		var p [120]byte
		return raw(unix.SYS_IO_URING_SETUP, 8, uintptr(unsafe.Pointer(&p)))
	},
	"keyctl":    func([]string) error { return raw(unix.SYS_KEYCTL, 0, ^uintptr(2), 1) },
	"userfault": func([]string) error { return raw(unix.SYS_USERFAULTFD, 0) },
	"perf": func([]string) error {
		var attr unix.PerfEventAttr
		_, err := unix.PerfEventOpen(&attr, 0, -1, -1, 0)
		return err
	},
	"open-by-handle": func([]string) error { return raw(unix.SYS_OPEN_BY_HANDLE_AT, 0, 0, 0) },
	"syslog":         func([]string) error { _, err := unix.Klogctl(3, make([]byte, 64)); return err },
	"swap":           func([]string) error { return raw(unix.SYS_SWAPON, 0, 0) },
	"quota":          func([]string) error { return raw(unix.SYS_QUOTACTL, 0, 0, 0, 0) },
	"personality":    func([]string) error { return raw(unix.SYS_PERSONALITY, 0x0400000) },
	"call32":         func([]string) error { return call32() },
	"x32":            func([]string) error { return raw(0x40000000 | unix.SYS_GETPID) },
	"raise-limit": func([]string) error {
		return unix.Prlimit(0, unix.RLIMIT_CORE, &unix.Rlimit{Cur: 1 << 20, Max: 1 << 20}, nil)
	},
	"limit-other": func(a []string) error { return unix.Prlimit(number(a[0]), unix.RLIMIT_CPU, nil, new(unix.Rlimit)) },
	"execute":     func(a []string) error { return unix.Exec(a[0], a, nil) },
	"fork":        fork,
	"threads":     threads,
	"allocate":    allocate,
	"descriptors": func([]string) error {
		for {
			if _, err := unix.Dup(0); err != nil {
				return err
			}
		}
	},
	"inherited": func([]string) error {
		for fd := 3; fd < 4096; fd++ {
			if link, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd)); err == nil && link[0] == '/' {
				fmt.Print(link, " ")
			}
		}
		return nil
	},
	"environment": func([]string) error { fmt.Print(len(os.Environ()), " "); return nil },
	"identity": func([]string) error {
		status, err := os.ReadFile("/proc/self/status")
		fmt.Print(string(status))
		return err
	},
	"fill": func(a []string) error {
		for i := 0; ; i++ {
			if err := os.WriteFile(a[0]+strconv.Itoa(i), make([]byte, 1<<20), 0o600); err != nil {
				return err
			}
		}
	},
}

func number(s string) int {
	n, _ := strconv.Atoi(s) // zero says the same to all that use it
	return n
}

func raw(nr uintptr, args ...uintptr) error {
	var a [6]uintptr
	copy(a[:], args)
	if _, _, errno := unix.RawSyscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5]); errno != 0 {
		return errno
	}
	return nil
}

// dial makes the socket by hand: the name of the network that cannot be reached tells more than Go's error.
func dial(network, address string) error {
	c, err := net.DialTimeout(network, address, 2*time.Second)
	if err == nil {
		c.Close()
	}
	return err
}

// climb leaves the root by a directory of it, if it can.
func climb([]string) error {
	if _, err := os.Stat("../../../../../../etc/hostname"); err != nil {
		return err
	}
	return nil
}

// raiseCaps asks for all capabilities.
func raiseCaps([]string) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	all := [2]unix.CapUserData{{Effective: ^uint32(0), Permitted: ^uint32(0)}, {Effective: ^uint32(0), Permitted: ^uint32(0)}}
	return unix.Capset(&header, &all[0])
}

// fork makes processes until one cannot be made. They end with this one: it is process 1 of its namespace, or its parent is.
func fork([]string) error {
	for range 4096 {
		pid, _, errno := unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
		if errno != 0 {
			return errno
		}
		if pid == 0 {
			for {
				unix.RawSyscall(unix.SYS_PAUSE, 0, 0, 0)
			}
		}
	}
	return nil
}

// threads makes threads until one cannot be made, which ends a Go program; who looks on sees that in what it says.
func threads([]string) error {
	for range 4096 {
		go func() { runtime.LockOSThread(); select {} }()
		go func() {
			runtime.LockOSThread()
			var ts unix.Timespec
			ts.Sec = 3600
			unix.Nanosleep(&ts, nil)
		}()
	}
	time.Sleep(3 * time.Second)
	return nil
}

// allocate maps and touches memory until there is no more.
func allocate([]string) error {
	const step = 64 << 20
	for range 4096 {
		if _, err := unix.Mmap(-1, 0, step, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON); err != nil {
			return err
		}
	}
	return nil
}
