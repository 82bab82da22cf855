//go:build !amd64

package jail

import "errors"

// QEMUCalls says what a QEMU's filter depends on.
type QEMUCalls struct{ KVM, KernelVsock bool }

var errUnsupported = errors.New("there are no filters of system calls for this processor")

func launch([]string) error { return errUnsupported }

// Supported says whether there are filters for this processor.
func Supported() error { return errUnsupported }

// ConfineSelf puts the supervisor's filter on this process.
func ConfineSelf(bool) error { return errUnsupported }

// ConfineSwitch puts a switch's filter on this process.
func ConfineSwitch() error { return errUnsupported }

// CallName names a system call for people.
func CallName(int) string { return "a system call" }
