package jail

import (
	"golang.org/x/sys/unix"
)

// Calls that every process has of its C library or Go's runtime: memory, threads, signals, time, descriptors that are there.
const (
	memoryCalls = `brk mmap munmap mremap mprotect madvise mincore msync membarrier`
	threadCalls = `futex set_robust_list get_robust_list set_tid_address rseq gettid getpid getppid exit exit_group restart_syscall
		sched_yield sched_getaffinity getcpu arch_prctl tgkill`
	signalCalls = `rt_sigaction rt_sigprocmask rt_sigreturn rt_sigtimedwait rt_sigsuspend rt_sigpending sigaltstack signalfd4`
	timeCalls   = `nanosleep clock_nanosleep clock_gettime clock_getres gettimeofday time
		timer_create timer_settime timer_gettime timer_getoverrun timer_delete timerfd_create timerfd_settime timerfd_gettime`
	waitCalls = `poll ppoll select pselect6 epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2`
	fileCalls = `read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 lseek close close_range dup dup2 dup3 fcntl
		fstat newfstatat statx fstatfs fsync fdatasync sync_file_range fallocate ftruncate fadvise64 pipe2 eventfd2`
	socketCalls = `sendto sendmsg sendmmsg recvfrom recvmsg recvmmsg shutdown getsockopt setsockopt getsockname getpeername`
	selfCalls   = `getrandom uname sysinfo getuid geteuid getgid getegid getresuid getresgid getrusage times getrlimit`
)

// Bits of clone(2)'s first argument.
const (
	cloneThread     = unix.CLONE_THREAD
	cloneNamespaces = unix.CLONE_NEWNS | unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP
)

// ownLimits allows prlimit64(2) on the caller.
func ownLimits() []rule {
	return append([]rule{{"prlimit64", []condition{{arg: 0, mask: ^uint32(0)}}, unix.SECCOMP_RET_ALLOW}}, refuse(unix.EPERM, "prlimit64")...)
}

// Types of ioctl(2) requests: bits 8 to 15 of the request (Documentation/userspace-api/ioctl/ioctl-number.rst).
const (
	ioctlType    = 0xff00
	ioctlKVM     = 0xae00
	ioctlVhost   = 0xaf00
	ioctlSeccomp = 0x2100
)

func ioctls(kind uint32, action uint32) rule {
	return rule{"ioctl", []condition{{arg: 1, mask: ioctlType, value: kind}}, action}
}

// threadsOnly allows clone(2) for threads; clone3(2), whose flags a filter cannot read, does not exist, and C libraries then use clone.
func threadsOnly() []rule {
	return append(refuse(unix.ENOSYS, "clone3"),
		rule{"clone", []condition{{arg: 0, mask: cloneThread | cloneNamespaces, value: cloneThread}}, unix.SECCOMP_RET_ALLOW})
}

// prctls allows options of prctl(2); others fail.
func prctls(options ...uint32) (rules []rule) {
	for _, o := range options {
		rules = append(rules, rule{"prctl", []condition{{arg: 0, mask: ^uint32(0), value: o}}, unix.SECCOMP_RET_ALLOW})
	}
	return append(rules, refuse(unix.EINVAL, "prctl")...)
}

// sockets allows sockets of a family.
func sockets(family uint32) []rule {
	is := []condition{{arg: 0, mask: ^uint32(0), value: family}}
	return []rule{{"socket", is, unix.SECCOMP_RET_ALLOW}, {"socketpair", is, unix.SECCOMP_RET_ALLOW}}
}

// QEMUCalls says what a QEMU's filter depends on.
type QEMUCalls struct {
	KVM         bool // the kernel's virtualisation is used
	KernelVsock bool // the kernel plays the vsock device, and not the filter's listener
}

// qemuRules are what QEMU may do. It opens its own program's data, and /proc/self/fd for the guest's memory; it makes no socket and no
// process. executing allows what starts it: execve stays allowed for that, and what is executed has this filter too.
// QEMU translates code, so its memory may be executable.
func qemuRules(c QEMUCalls) (rules []rule) {
	vhost := uint32(unix.SECCOMP_RET_USER_NOTIF)
	if c.KernelVsock {
		vhost = unix.SECCOMP_RET_ALLOW
	}
	rules = append(rules, ioctls(ioctlVhost, vhost))
	if c.KVM {
		rules = append(rules, ioctls(ioctlKVM, unix.SECCOMP_RET_ALLOW))
	}
	for _, calls := range []string{threadCalls, fileCalls, waitCalls, memoryCalls, signalCalls, timeCalls, socketCalls, selfCalls,
		`openat access faccessat faccessat2 readlink readlinkat stat lstat statfs getcwd chdir fchdir getdents64 memfd_create execve umask`} {
		rules = append(rules, allow(calls)...)
	}
	rules = append(append(rules, threadsOnly()...), ownLimits()...)
	// Its own filter (-sandbox) stacks on this one; a listener is not to be had.
	rules = append(rules, rule{"seccomp", []condition{{arg: 1, mask: unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, value: 0}}, unix.SECCOMP_RET_ALLOW})
	rules = append(rules, refuse(unix.EINVAL, "seccomp")...)
	rules = append(rules, prctls(unix.PR_SET_NAME, unix.PR_GET_NAME, unix.PR_SET_NO_NEW_PRIVS, unix.PR_GET_NO_NEW_PRIVS, unix.PR_SET_TIMERSLACK,
		unix.PR_SET_PDEATHSIG, unix.PR_SET_SECCOMP, unix.PR_GET_SECCOMP, unix.PR_CAPBSET_READ)...)
	rules = append(rules, refuse(unix.ENOSYS, `io_uring_setup get_mempolicy set_mempolicy mbind copy_file_range userfaultfd
		sched_setattr sched_setaffinity sched_getattr sched_getparam sched_getscheduler`)...)
	rules = append(rules, refuse(unix.EPERM, "socket setpriority sched_setscheduler mlock mlock2 mlockall")...)
	return append(rules, refuse(unix.ENOTTY, "ioctl")...)
}

// goCalls are those of Go's runtime and of package os on files.
const goCalls = threadCalls + " " + fileCalls + " " + waitCalls + " " + memoryCalls + " " + signalCalls + " " + timeCalls + " " + socketCalls + " " + selfCalls +
	" openat openat2 readlinkat getdents64 unlinkat mkdirat renameat renameat2 linkat fchmod faccessat faccessat2 flock accept4 splice sendfile copy_file_range umask"

// supervisorRules are what a supervisor may do once QEMU runs: it starts no other program.
func supervisorRules(kernelVsock bool) (rules []rule) {
	rules = append(allow(goCalls), allow(`process_vm_readv process_vm_writev pidfd_open pidfd_getfd pidfd_send_signal wait4 waitid memfd_create`)...)
	rules = append(append(rules, threadsOnly()...), ownLimits()...)
	rules = append(rules, ioctls(ioctlSeccomp, unix.SECCOMP_RET_ALLOW))
	rules = append(rules, rule{"ioctl", []condition{{arg: 1, mask: ^uint32(0), value: unix.SIOCINQ}}, unix.SECCOMP_RET_ALLOW}) // of cards' sockets
	rules = append(rules, sockets(unix.AF_UNIX)...)
	if kernelVsock {
		rules = append(rules, ioctls(ioctlVhost, unix.SECCOMP_RET_ALLOW))
		rules = append(rules, sockets(unix.AF_VSOCK)...)
		rules = append(rules, allow("bind listen connect")...)
	}
	rules = append(rules, prctls(unix.PR_SET_NAME, unix.PR_SET_VMA)...)
	rules = append(rules, refuse(unix.ENOSYS, "io_uring_setup sched_setattr sched_setaffinity")...)
	return append(rules, refuse(unix.ENOTTY, "ioctl")...)
}

// switchRules are what a switch may do: sockets of the internet's families and of unix, and the lookups that belong to them.
func switchRules() (rules []rule) {
	rules = append(allow(goCalls), allow("bind listen connect accept accept4 pidfd_open")...)
	rules = append(append(rules, threadsOnly()...), ownLimits()...)
	for _, family := range []uint32{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK} {
		rules = append(rules, sockets(family)...)
	}
	rules = append(rules, prctls(unix.PR_SET_NAME, unix.PR_SET_VMA, unix.PR_SET_DUMPABLE, unix.PR_SET_NO_NEW_PRIVS)...)
	rules = append(rules, refuse(unix.EAFNOSUPPORT, "socket")...)
	rules = append(rules, refuse(unix.ENOSYS, "io_uring_setup sched_setaffinity")...)
	return append(rules, refuse(unix.ENOTTY, "ioctl")...)
}
