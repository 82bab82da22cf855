package process

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"

	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// InitProgram is where a container with an init has it: the tether's own program under another name.
const InitProgram = "/dev/cvm/container-init"

// initArgs are the init's arguments for a program and its own.
func initArgs(program string, args []string) []string {
	return append([]string{InitProgram, program, "--"}, args...)
}

// IsInit reports whether this process was started as the init of a container.
func IsInit() bool { return len(os.Args) > 3 && os.Args[0] == InitProgram && os.Args[2] == "--" }

// Init is the init: it runs its program as its child, in a process group of its own that has the terminal, passes signals on to it, reaps
// what the kernel gives it, and ends as its child does. Its result is the exit status.
//
// SIGURG is not passed on: Go's runtime sends it to itself.
func Init(errors io.Writer) int {
	signals := make(chan os.Signal, 1024) // a burst of all kinds: what does not fit is lost
	signal.Notify(signals)
	child, err := startInit(os.Args[1], os.Args[3:])
	if err != nil {
		fmt.Fprintf(errors, "%s: %v\n", InitProgram, execFailure(os.Args[1], err))
		if reasonOf(err) == tetherv1.Failure_NOT_FOUND {
			return 127
		}
		return 126
	}
	letGo()
	for s := range signals {
		switch sig := s.(syscall.Signal); sig {
		case unix.SIGCHLD:
			if code, ended := reapAll(child); ended {
				return code
			}
		case unix.SIGURG, unix.SIGTTIN, unix.SIGTTOU: // of a terminal that is the child's
		default:
			_ = unix.Kill(child, sig) // it may have ended: SIGCHLD says so
		}
	}
	return 0 // never: the channel is not closed
}

func startInit(program string, args []string) (int, error) {
	_, err := unix.IoctlGetTermios(0, unix.TCGETS)
	return syscall.ForkExec(program, args, &syscall.ProcAttr{
		Env: os.Environ(), Files: []uintptr{0, 1, 2},
		Sys: &syscall.SysProcAttr{Setpgid: true, Foreground: err == nil, Ctty: 0},
	})
}

// letGo leaves the streams to the child: who writes to it learns when it has closed its end.
func letGo() {
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return // then they stay open as long as the init
	}
	for fd := range 3 {
		_ = unix.Dup3(null, fd, 0)
	}
	_ = unix.Close(null)
}

// reapAll reaps everyone that has ended. ended: child is among them, and code is how.
func reapAll(child int) (code int, ended bool) {
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, unix.WNOHANG, nil)
		if err == unix.EINTR {
			continue
		}
		if pid <= 0 || err != nil {
			return code, ended
		}
		if pid == child {
			code, ended = ws.ExitStatus(), true
			if ws.Signaled() {
				code = 128 + int(ws.Signal())
			}
		}
	}
}
