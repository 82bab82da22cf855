package jail

import (
	"fmt"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// rule says what happens at one system call. Of rules for the same call the first whose conditions all hold counts.
type rule struct {
	call   string
	when   []condition
	action uint32 // SECCOMP_RET_*, with its data
}

// condition compares 32 bits of an argument.
type condition struct {
	arg   int // 0 to 5
	mask  uint32
	value uint32 // of the argument's low half, masked
	not   bool
}

// Offsets in struct seccomp_data (include/uapi/linux/seccomp.h), little-endian.
const (
	dataNumber = 0
	dataArch   = 4
	dataArgs   = 16
)

// x32Bit marks calls of the x32 ABI, whose architecture is that of x86-64 (arch/x86/include/uapi/asm/unistd.h).
const x32Bit = 0x40000000

// allow makes rules that allow calls without a look at their arguments.
func allow(calls string) (rules []rule) {
	for _, c := range strings.Fields(calls) {
		rules = append(rules, rule{call: c, action: unix.SECCOMP_RET_ALLOW})
	}
	return rules
}

// refuse makes rules by which calls fail with an errno. It is for what a program tries and can do without.
func refuse(errno unix.Errno, calls string) (rules []rule) {
	for _, c := range strings.Fields(calls) {
		rules = append(rules, rule{call: c, action: unix.SECCOMP_RET_ERRNO | uint32(errno)})
	}
	return rules
}

// assemble makes the program of a filter (seccomp(2)): calls of another architecture and of the x32 ABI, and calls that no rule is for,
// have otherwise as their end.
func assemble(rules []rule, otherwise uint32) ([]unix.SockFilter, error) {
	load := func(at uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: at}
	}
	jump := func(op uint16, k uint32, yes, no int) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | op | unix.BPF_K, K: k, Jt: uint8(yes), Jf: uint8(no)}
	}
	ret := func(k uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: k} }
	p := []unix.SockFilter{
		load(dataArch), jump(unix.BPF_JEQ, unix.AUDIT_ARCH_X86_64, 1, 0), ret(otherwise),
		load(dataNumber), jump(unix.BPF_JGE, x32Bit, 0, 1), ret(otherwise),
	}
	for _, r := range rules {
		nr, known := numberOf(r.call)
		if !known {
			return nil, fmt.Errorf("cannot make a system call filter: there is no call %q", r.call)
		}
		if len(r.when) == 0 {
			p = append(p, jump(unix.BPF_JEQ, nr, 0, 1), ret(r.action))
			continue
		}
		// Each condition is three instructions; behind them are the return, and the number's load for the rules that follow.
		size := 3*len(r.when) + 2
		p = append(p, jump(unix.BPF_JEQ, nr, 0, size))
		for i, c := range r.when {
			yes, no := 0, 3*(len(r.when)-1-i)+1 // to the load
			if c.not {
				yes, no = no, yes
			}
			p = append(p, load(dataArgs+8*uint32(c.arg)),
				unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: c.mask}, jump(unix.BPF_JEQ, c.value, yes, no))
		}
		p = append(p, ret(r.action), load(dataNumber))
	}
	return append(p, ret(otherwise)), nil
}

// install puts a filter on the calling thread, which cannot gain privileges any more. flags are SECCOMP_FILTER_FLAG_*; with
// NEW_LISTENER the result is the descriptor of the listener.
func install(filter []unix.SockFilter, flags uintptr) (int, error) {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return -1, fmt.Errorf("cannot set no_new_privs: %w", err)
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	fd, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags|unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return -1, fmt.Errorf("cannot install a system call filter: %w", errno)
	}
	return int(fd), nil
}

// installAll puts a filter on all threads.
func installAll(filter []unix.SockFilter) error {
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	_, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0)
	if errno == 0 {
		_, _, errno = syscall.AllThreadsSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW, uintptr(unsafe.Pointer(&prog)))
	}
	switch {
	case errno == unix.ENOTSUP:
		return errCgo
	case errno != 0:
		return fmt.Errorf("cannot install a system call filter: %w", errno)
	}
	return nil
}
