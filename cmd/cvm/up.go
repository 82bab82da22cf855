package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"

	"github.com/moby/term"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/containervm/containervm/internal/printable"
	"github.com/containervm/containervm/internal/trusted"
)

func upCommand(a *app) *cobra.Command {
	var h hostConfig
	var foreground, verbose bool
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start the host of this machine",
		Long: `Start hostd-bridge (the vSphere API of this machine) and the controller (the Docker Engine API) in one background process.

When the host runs already, up says so and changes nothing. Containers that were left running are found again.

Containers are forked from templates, which are made in the background when the first one of a size is wanted, the usual
one at once.

Containers do not reach this machine, its loopback least of all. --host-gateway names the ports of its loopback that a
container with --add-host NAME:host-gateway reaches.`,
		Example: `  cvm up
  cvm up --state ~/vms --run /tmp/vms --listen 127.0.0.1:0
  cvm up --templates 8 --warm 2   # more memory for shorter starts
  cvm up --host-gateway 5432,8000-8010   # for docker run --add-host host.docker.internal:host-gateway
  cvm up --foreground --log tether=debug,supervisor=debug --capture --pprof`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if verbose {
				_ = h.levels.Set("debug") // it is one
			}
			if err := h.check(); err != nil {
				return err
			}
			if err := a.paths.prepare(); err != nil {
				return err
			}
			if foreground {
				return serve(cmd.Context(), a.paths, h, h.loggers(a.err), func(s hostStatus) { printEndpoints(a.out, "ready", s) })
			}
			return up(cmd.Context(), a, h)
		},
	}
	h.addFlags(cmd)
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "log debug records of every part: --log debug")
	cmd.Flags().BoolVar(&foreground, "foreground", false, "stay in the foreground and log to standard error")
	return cmd
}

func up(ctx context.Context, a *app, h hostConfig) error {
	starting, err := lock(a.paths.startLock(), unix.LOCK_EX) // a second `cvm up` waits for the first and finds its host
	if err != nil {
		return err
	}
	defer starting.Close()
	s, err := runningHost(ctx, a.paths)
	if err == nil {
		printEndpoints(a.out, "already running", s)
		return nil
	}
	if !errors.Is(err, errNotRunning) {
		return err
	}
	show := newStatusLine(a.err)
	s, err = startHost(ctx, a.paths, h, show.set)
	show.clear()
	if err != nil {
		return fmt.Errorf("cannot start the host: %w (log: %s)", err, a.paths.logFile())
	}
	printEndpoints(a.out, "started", s)
	return nil
}

// startHost starts the background process and waits for its word that it is ready. When ctx ends first, or the start
// fails, the process is gone when it returns.
func startHost(ctx context.Context, p paths, h hostConfig, progress func(string)) (hostStatus, error) {
	exe, err := os.Executable()
	if err != nil {
		return hostStatus{}, fmt.Errorf("cannot find this program's own path: %w", err)
	}
	log, err := trusted.OpenFile(p.logFile(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return hostStatus{}, fmt.Errorf("cannot open the log: %w", err)
	}
	defer log.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return hostStatus{}, err
	}
	defer r.Close()
	cmd := exec.Command(exe, append([]string{"serve"}, h.args(p)...)...)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log // a panic's trace is kept
	cmd.ExtraFiles = []*os.File{w}    // becomes reportFD
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return hostStatus{}, err
	}
	defer context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(syscall.SIGTERM) })()
	s, err := readReport(r, progress)
	if err == nil {
		return s, cmd.Process.Release()
	}
	ended := cmd.Wait()
	switch {
	case ctx.Err() != nil:
		return s, context.Cause(ctx)
	case errors.Is(err, errNoReport):
		return s, fmt.Errorf("%w: %w", err, ended)
	}
	return s, err
}

func printEndpoints(w io.Writer, state string, s hostStatus) {
	fmt.Fprintf(w, "containerVM %s (process %d)\n", state, s.PID)
	fmt.Fprintf(w, "  Docker API   %s\n", s.DockerHost)
	fmt.Fprintf(w, "  vSphere API  %s\n", s.VSphere.URL)
	fmt.Fprintf(w, "  log          %s\n", s.Log)
	fmt.Fprintf(w, "  jail         %s\n", s.Jail)
	for _, l := range s.Lacks {
		fmt.Fprintf(w, "               %s: see cvm check\n", printable.Line(l))
	}
	fmt.Fprintf(w, "  environment  eval \"$(cvm env)\"\n")
}

// statusLine shows progress: on a terminal one line that changes, else a line for each step.
type statusLine struct {
	w        io.Writer
	terminal bool
}

func newStatusLine(w io.Writer) statusLine {
	_, terminal := term.GetFdInfo(w)
	return statusLine{w, terminal}
}

// Control sequences of ECMA-48: go to the line's start (CR) and erase to its end (EL).
const eraseLine = "\r\x1b[K"

func (s statusLine) set(text string) {
	if s.terminal {
		fmt.Fprint(s.w, eraseLine, text)
		return
	}
	fmt.Fprintln(s.w, text)
}

func (s statusLine) clear() {
	if s.terminal {
		fmt.Fprint(s.w, eraseLine)
	}
}
