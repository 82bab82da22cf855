package supervisor

import (
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"

	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// Bounds of what is read back when a machine has ended, in bytes.
const (
	consoleTail = 4 << 10  // kept in Exit
	panicSearch = 64 << 10 // looked through for a kernel panic
)

// shutdown is the data of QMP's SHUTDOWN event (qapi/run-state.json).
type shutdown struct {
	Guest  bool   `json:"guest"`
	Reason string `json:"reason"`
}

// ending is what is known when QEMU has ended.
type ending struct {
	killed   bool      // by us, on request
	denied   *string   // QEMU's call that its filter refused, for which we have killed it; nil: none
	shutdown *shutdown // nil: QEMU announced none
	waitErr  error
	console  []byte // its end, at most panicSearch
	stderr   string
	guest    map[string]string
}

// exit judges how the machine ended.
func (e ending) exit() Exit {
	x := Exit{Guestinfo: e.guest}
	x.ConsoleTail = string(e.console[max(0, len(e.console)-consoleTail):])
	panicked := findPanic(e.console)
	switch {
	case e.denied != nil:
		x.Reason = "QEMU was ended: it called " + *e.denied + ", which it has no need for"
	case e.killed:
		x.Reason = "killed on request"
	case finished(e.guest):
		x.Orderly, x.Reason = true, "the container's process has ended"
	case panicked != "":
		x.Reason = "guest kernel panic: " + panicked
	case e.shutdown != nil && e.shutdown.Guest:
		x.Orderly, x.Reason = true, "the guest powered itself off ("+e.shutdown.Reason+")"
	default:
		x.Reason = e.died()
	}
	return x
}

// died says how QEMU ended by itself.
func (e ending) died() string {
	why := "QEMU ended without a reason"
	var status *exec.ExitError
	if errors.As(e.waitErr, &status) {
		ws, _ := status.Sys().(syscall.WaitStatus)
		switch {
		case ws.Signaled():
			why = fmt.Sprintf("QEMU killed by signal %d (%s)", ws.Signal(), ws.Signal())
		default:
			why = fmt.Sprintf("QEMU failed with status %d", ws.ExitStatus())
		}
	}
	if e.stderr != "" {
		why += ": " + e.stderr
	}
	return why
}

// finished reports whether the tether had said that the container's process has ended or could not run.
func finished(guest map[string]string) bool {
	s, err := link.DecodeStatus(guest[link.KeyStatus])
	return err == nil && (s.State == tetherv1.State_EXITED || s.State == tetherv1.State_FAILED)
}

// findPanic is the message of the last kernel panic on a console, or "" (kernel/panic.c: "Kernel panic - not syncing: %s").
func findPanic(console []byte) string {
	const mark = "Kernel panic - not syncing: "
	i := bytes.LastIndex(console, []byte(mark))
	if i < 0 {
		return ""
	}
	line, _, _ := bytes.Cut(console[i+len(mark):], []byte("\n"))
	return strings.TrimSpace(strings.ToValidUTF8(string(line), "?"))
}
