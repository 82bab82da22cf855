// Command cvm is the user's own program: it starts the embedded host of one machine (hostd-bridge and controller in one
// background process) and drives containers that run as virtual machines, over the Docker Engine API.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/containervm/containervm/internal/printable"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the program at once
	app := &app{in: os.Stdin, out: os.Stdout, err: os.Stderr, host: os.Getenv("CVM_HOST"), paths: defaultPaths(os.Getenv, os.Geteuid())}
	os.Exit(exitCode(os.Stderr, newRoot(app).ExecuteContext(ctx)))
}

// exitError ends the program with the exit status of a container or exec; err may be nil, then nothing is printed.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// exitCode prints err, if there is anything to say, and chooses the exit status.
func exitCode(w io.Writer, err error) int {
	if err == nil {
		return 0
	}
	var exit *exitError
	if !errors.As(err, &exit) {
		fmt.Fprintln(w, "cvm:", printable.Text(err.Error()))
		return 1
	}
	if exit.err != nil {
		fmt.Fprintln(w, "cvm:", printable.Text(exit.err.Error()))
	}
	return exit.code
}
