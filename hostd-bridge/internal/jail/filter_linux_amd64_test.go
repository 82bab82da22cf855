package jail

import (
	"encoding/binary"
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// verdict runs a filter on a call, as the kernel does, on its data in the network's order, in which the interpreter loads it.
func verdict(t *testing.T, filter []unix.SockFilter, arch, nr uint32, args ...uint64) uint32 {
	t.Helper()
	var program []bpf.Instruction
	for _, f := range filter {
		program = append(program, bpf.RawInstruction{Op: f.Code, Jt: f.Jt, Jf: f.Jf, K: f.K}.Disassemble())
	}
	vm, err := bpf.NewVM(program)
	if err != nil {
		t.Fatal(err)
	}
	data := binary.BigEndian.AppendUint32(nil, nr)
	data = binary.BigEndian.AppendUint32(data, arch)
	data = binary.BigEndian.AppendUint64(data, 0)
	for i := range 6 {
		var a uint64
		if i < len(args) {
			a = args[i]
		}
		data = binary.BigEndian.AppendUint32(data, uint32(a))
		data = binary.BigEndian.AppendUint32(data, uint32(a>>32))
	}
	got, err := vm.Run(data)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(got)
}

// TestFilters: calls that no rule is for come to the end that is for them, as do all calls of other ABIs.
func TestFilters(t *testing.T) {
	const end = unix.SECCOMP_RET_TRAP
	never := []string{"ptrace", "mount", "umount2", "pivot_root", "chroot", "setns", "unshare", "bpf", "init_module", "finit_module", "delete_module", "kexec_load",
		"reboot", "kill", "tkill", "keyctl", "add_key", "perf_event_open", "open_by_handle_at", "fork", "vfork", "setuid", "setresuid", "capset", "mknod", "mknodat",
		"iopl", "ioperm", "personality", "syslog", "swapon", "quotactl", "fsopen", "move_mount", "open_tree", "mount_setattr", "io_uring_enter"}
	for name, rules := range map[string][]rule{
		"QEMU": qemuRules(QEMUCalls{}), "QEMU under KVM": qemuRules(QEMUCalls{KVM: true, KernelVsock: true}),
		"supervisor": supervisorRules(false), "supervisor with the kernel's vsock": supervisorRules(true), "switch": switchRules(),
	} {
		filter, err := assemble(rules, end)
		if err != nil {
			t.Fatal(err)
		}
		call := func(call string, args ...uint64) uint32 {
			nr, ok := numberOf(call)
			if !ok {
				t.Fatalf("there is no %s", call)
			}
			return verdict(t, filter, unix.AUDIT_ARCH_X86_64, nr, args...)
		}
		for _, c := range never {
			if got := call(c); got != end {
				t.Errorf("%s: %s has %#x", name, c, got)
			}
		}
		for nr := range uint32(600) {
			for arch, nr := range map[uint32]uint32{unix.AUDIT_ARCH_I386: nr, unix.AUDIT_ARCH_X86_64: nr | x32Bit} {
				if got := verdict(t, filter, arch, nr); got != end {
					t.Errorf("%s: call %#x of ABI %#x has %#x", name, nr, arch, got)
				}
			}
		}
		for _, c := range []struct {
			call string
			args []uint64
			want uint32
		}{
			{"read", nil, unix.SECCOMP_RET_ALLOW},
			{"clone", []uint64{unix.CLONE_THREAD | unix.CLONE_VM}, unix.SECCOMP_RET_ALLOW},
			{"clone", []uint64{uint64(unix.SIGCHLD)}, end},
			{"clone", []uint64{unix.CLONE_VFORK | unix.CLONE_VM}, end},
			{"clone", []uint64{unix.CLONE_THREAD | unix.CLONE_NEWUSER}, end},
			{"clone3", nil, unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)},
			{"ioctl", []uint64{0, 0x5412}, unix.SECCOMP_RET_ERRNO | uint32(unix.ENOTTY)}, // TIOCSTI
			{"prlimit64", []uint64{1}, unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)},
			{"prlimit64", []uint64{0}, unix.SECCOMP_RET_ALLOW},
			{"prctl", []uint64{unix.PR_SET_MM}, unix.SECCOMP_RET_ERRNO | uint32(unix.EINVAL)},
			{"prctl", []uint64{unix.PR_SET_NAME}, unix.SECCOMP_RET_ALLOW},
		} {
			if got := call(c.call, c.args...); got != c.want {
				t.Errorf("%s: %s(%#x) has %#x, want %#x", name, c.call, c.args, got, c.want)
			}
		}
	}
}

// TestSupervisorAsksSockets: a card's loop asks how much its socket holds.
func TestSupervisorAsksSockets(t *testing.T) {
	filter, err := assemble(supervisorRules(false), unix.SECCOMP_RET_TRAP)
	if err != nil {
		t.Fatal(err)
	}
	if got := verdict(t, filter, unix.AUDIT_ARCH_X86_64, unix.SYS_IOCTL, 0, unix.SIOCINQ); got != unix.SECCOMP_RET_ALLOW {
		t.Errorf("SIOCINQ has %#x", got)
	}
}

// TestVhostIsNotified: the listener hears of vhost requests where it plays the device, and the kernel of those where it does, and of KVM's.
func TestVhostIsNotified(t *testing.T) {
	for calls, want := range map[QEMUCalls][2]uint32{
		{}:                             {unix.SECCOMP_RET_USER_NOTIF, unix.SECCOMP_RET_ERRNO | uint32(unix.ENOTTY)},
		{KVM: true, KernelVsock: true}: {unix.SECCOMP_RET_ALLOW, unix.SECCOMP_RET_ALLOW},
	} {
		filter, err := assemble(qemuRules(calls), unix.SECCOMP_RET_TRAP)
		if err != nil {
			t.Fatal(err)
		}
		for i, request := range []uint64{0x8008af00, 0xae80} { // VHOST_GET_FEATURES, KVM_RUN
			if got := verdict(t, filter, unix.AUDIT_ARCH_X86_64, unix.SYS_IOCTL, 0, request); got != want[i] {
				t.Errorf("%+v: request %#x has %#x, want %#x", calls, request, got, want[i])
			}
		}
	}
}

// TestCallNames: names and numbers are each other's.
func TestCallNames(t *testing.T) {
	for name, nr := range map[string]uint32{"read": unix.SYS_READ, "ptrace": unix.SYS_PTRACE, "rseq": unix.SYS_RSEQ, "pidfd_open": unix.SYS_PIDFD_OPEN,
		"pidfd_send_signal": unix.SYS_PIDFD_SEND_SIGNAL, "close_range": unix.SYS_CLOSE_RANGE, "futex_waitv": unix.SYS_FUTEX_WAITV} {
		if got, ok := numberOf(name); !ok || got != nr || CallName(int(nr)) != name {
			t.Errorf("%s has number %d (%v), %d is %s", name, got, ok, nr, CallName(int(nr)))
		}
	}
	if _, ok := numberOf("no_such_call"); ok {
		t.Error("a call was made up")
	}
	for _, nr := range []int{-1, 400, 5000} {
		if CallName(nr) == "" {
			t.Errorf("%d has no name", nr)
		}
	}
}
