package jail

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// launch becomes QEMU under its filter.
func launch(args []string) error {
	if len(args) < 4 {
		return errors.New("the launcher has too few arguments")
	}
	var c QEMUCalls
	var err1, err2 error
	c.KVM, err1 = strconv.ParseBool(args[0])
	c.KernelVsock, err2 = strconv.ParseBool(args[1])
	socket, err3 := strconv.Atoi(args[2])
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	qemu, args := args[3], args[3:]
	otherwise, flags := uint32(unix.SECCOMP_RET_KILL_PROCESS), uintptr(0)
	if socket >= 0 {
		otherwise, flags = unix.SECCOMP_RET_USER_NOTIF, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER
	}
	filter, err := assemble(qemuRules(c), otherwise)
	if err != nil {
		return err
	}
	args[0] = filepath.Base(qemu)
	listener, err := install(filter, flags)
	if err != nil {
		return err
	}
	if socket >= 0 {
		if err := unix.Sendmsg(socket, []byte{0}, unix.UnixRights(listener), nil, 0); err != nil {
			return fmt.Errorf("cannot hand over the listener: %w", err)
		}
	}
	return fmt.Errorf("cannot execute %s: %w", qemu, syscall.Exec(qemu, args, []string{}))
}

// Supported says whether there are filters for this processor.
func Supported() error { return nil }

// ConfineSelf puts the supervisor's filter on this process, which starts no other program from then on. The thread that has started
// QEMU gets it too, QEMU not.
func ConfineSelf(kernelVsock bool) error {
	return confine(supervisorRules(kernelVsock))
}

// ConfineSwitch puts a switch's filter on this process.
func ConfineSwitch() error { return confine(switchRules()) }

// errCgo says that this process cannot be confined: Go cannot reach the threads of a program with cgo. Such are only tests.
var errCgo = errors.New("a program with cgo cannot be confined")

// confine puts a filter on each thread; threads that are made later have it from those that make them.
func confine(rules []rule) error {
	filter, err := assemble(rules, unix.SECCOMP_RET_TRAP)
	if err != nil {
		return err
	}
	return installAll(filter)
}
