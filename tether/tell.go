package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/containervm/containervm/tether/internal/process"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

const (
	// wipeWait bounds the search for memory to be wiped: the kernel looks at each page of each process for it.
	wipeWait = 2 * time.Second
	// notifyWait is how long a command may take that a fork runs while its processes stand.
	notifyWait = 10 * time.Second
	// notifyGroup is the name of the group of processes that such a command runs in.
	notifyGroup = "cvm-notify"
	// maxNotifyOutput is how much of what the command says of its failure is passed on, in bytes.
	maxNotifyOutput = 512
)

// tell tells the processes of a running container's fork that they are in another machine, before they go on, and says how many were told
// by which way. It fails when something was asked for and nobody hears it: programs that keep secrets must not go on untold.
func (t *tether) tell(ctx context.Context) (detail string, err error) {
	fork := t.child.fork
	value := max(t.generation.Value()+1, uint64(fork.GetGeneration()))
	said := []string{
		fmt.Sprintf("generation %d: open %d times", value, t.generation.Set(value)),
		fmt.Sprintf("%d at the fork point", t.instance.hold.point.Waiting()),
	}
	n := fork.GetNotify()
	if len(n.GetCommand()) > 0 {
		if err := t.runNotify(ctx, n.Command); err != nil {
			return strings.Join(said, ", "), err
		}
		said = append(said, fmt.Sprintf("ran %q", n.Command[0]))
	}
	if n.GetSignal() > 0 {
		sig := unix.Signal(n.Signal)
		told, deaf, err := t.instance.container.SignalHandlers(sig, n.All)
		if err == nil && told == 0 {
			err = fmt.Errorf("no process handles %s, of %d", unix.SignalName(sig), deaf)
		}
		if err != nil {
			return strings.Join(said, ", "), err
		}
		said = append(said, fmt.Sprintf("%s to %d processes, %d do not handle it", unix.SignalName(sig), told, deaf))
	}
	return strings.Join(said, ", "), nil
}

// wipe wipes the memory that the container's processes have marked for forks.
func (t *tether) wipe(ctx context.Context) (detail string, err error) {
	ctx, cancel := context.WithTimeout(ctx, wipeWait)
	defer cancel()
	w, err := t.instance.container.WipeOnFork(ctx)
	detail = fmt.Sprintf("marked memory of %d processes", w.Processes)
	if w.Cut {
		detail += fmt.Sprintf("; not all processes were looked at in %v", wipeWait)
	}
	return detail, err
}

// runNotify runs a command as the main process is run, beside the container's processes, which stand. What it started is ended with it.
func (t *tether) runNotify(ctx context.Context, command []string) error {
	c := t.instance.container
	g, err := c.NewGroupBeside(notifyGroup)
	if err != nil {
		return err
	}
	defer g.Close()
	p, _ := proto.Clone(t.instance.spec.GetProcess()).(*tetherv1.Process)
	if p == nil {
		return errors.New("nothing says how the main process runs")
	}
	p.Args, p.Tty, p.Stdin, p.Window = command, false, false, nil
	p.Env = append(p.Env, fmt.Sprintf("CVM_GENERATION=%d", t.child.fork.GetGeneration()), fmt.Sprintf("CVM_INDEX=%d", t.child.fork.GetIndex()))
	s, err := c.RunHeld(p, g)
	if err != nil {
		return fmt.Errorf("cannot run %q: %w", command[0], err)
	}
	ctx, cancel := context.WithTimeout(ctx, notifyWait)
	defer cancel()
	select {
	case <-s.Done():
	case <-ctx.Done():
	}
	late := ctx.Err() != nil
	if err := g.Kill(); err != nil {
		return err
	}
	<-s.Done()
	exit, err := s.Wait(context.WithoutCancel(ctx)) // at once
	switch {
	case late:
		return fmt.Errorf("%q did not end within %v", command[0], notifyWait)
	case err != nil || exit.GetCode() == 0:
		return err
	}
	return fmt.Errorf("%q: exit status %d: %s", command[0], exit.GetCode(), head(s.Stderr))
}

// head is the beginning of what a ring holds, whose writers have ended.
func head(r *process.Ring) string {
	reader, err := r.Reader(0, true)
	if err != nil {
		return ""
	}
	defer reader.Close()
	text, _ := io.ReadAll(io.LimitReader(reader, maxNotifyOutput)) // as far as it goes
	return strings.TrimSpace(strings.ToValidUTF8(string(text), "?"))
}
