package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"time"

	"github.com/mdlayher/vsock"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/containervm/containervm/tether/internal/agent"
	"github.com/containervm/containervm/tether/internal/guestinfo"
	"github.com/containervm/containervm/tether/internal/process"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

const (
	// defaultGrace is Docker's: between the stop signal and SIGKILL.
	defaultGrace = 10 * time.Second
	// logWait is how long the host may take for the rest of the log once the process has ended.
	logWait = 30 * time.Second
	// answerWait is how long answers that are being given may take when the machine ends.
	answerWait = 500 * time.Millisecond
)

// startProcess runs the container's process. It may ask for its fork point from its first instruction on.
func (t *tether) startProcess(context.Context) (err error) {
	if t.hold, err = newHold(t.container, t.console); err != nil {
		return err
	}
	session, err := t.container.Start(link.MainSession, t.spec.Load().Process, process.Options{})
	if err != nil {
		return err
	}
	t.main = session
	return nil
}

// attend serves the running container until its process has ended, its output is in the host's log and its status known.
func (t *tether) attend(ctx context.Context) (err error) {
	running := &tetherv1.Status{
		State: tetherv1.State_RUNNING, StartedUnixNano: t.main.Started.UnixNano(), Pid: int32(t.main.PID),
	}
	defer t.hold.close()
	logged := t.startLog(ctx)
	a, stopServing, err := t.serve(ctx, agent.Config{
		Container: t.container, Stop: t.stop, Hold: t.hold.take, Release: t.hold.release,
	})
	if err != nil {
		return err
	}
	defer stopServing()
	t.setStatus(running)
	t.listenForSignals()
	go t.obeySignals()
	if t.vsock {
		go t.followForks(ctx)
	}

	<-t.main.Done()
	exit, _ := t.main.Wait(ctx) // at once
	<-logged
	t.setStatus(&tetherv1.Status{
		State: tetherv1.State_EXITED, StartedUnixNano: running.StartedUnixNano, Pid: running.Pid, Exit: exit,
	})
	t.flush(ctx)
	drain, cancel := context.WithTimeout(ctx, answerWait)
	defer cancel()
	a.Drain(drain)
	return nil
}

// startLog copies the process's output to the host; logged is closed when all of it is there, or the host took too long.
func (t *tether) startLog(ctx context.Context) (logged <-chan struct{}) {
	done := make(chan struct{})
	if !t.vsock { // a host that is reached otherwise reads the rings by link
		close(done)
		return done
	}
	ctx, cancel := context.WithCancel(ctx)
	host := agent.NewHostLog(guestinfo.Dial(link.ServiceLog), t.console)
	var copies errgroup.Group
	for stream, ring := range map[link.RecordStream]*process.Ring{link.StreamStdout: t.main.Stdout, link.StreamStderr: t.main.Stderr} {
		copies.Go(func() error {
			reader, err := ring.Reader(0, true)
			if err != nil {
				return err
			}
			return host.Copy(ctx, stream, reader)
		})
	}
	go func() {
		<-t.main.Done()
		limit := time.AfterFunc(logWait, cancel)
		defer limit.Stop()
		if err := errors.Join(copies.Wait(), host.Finish(ctx)); err != nil {
			t.console.Error("log is not complete", "err", err)
		}
		cancel()
		close(done)
	}()
	return done
}

// serve serves the link; stop ends it.
func (t *tether) serve(ctx context.Context, c agent.Config) (a *agent.Agent, stop func(), err error) {
	c.Version, c.Log = t.version, t.console
	c.Phase = func() string { return t.phase.Load().(string) }
	c.Status = t.status.Load
	a = agent.New(c)
	listener, err := vsock.ListenContextID(unix.VMADDR_CID_ANY, link.PortLink, nil)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := a.Serve(ctx, listener); err != nil {
			t.console.Error("the link is no longer served", "err", err)
		}
	}()
	return a, func() {
		cancel()
		select {
		case <-done:
		case <-time.After(answerWait):
		}
	}, nil
}

// stop ends the container in order, which ends the machine. A zero signal is the container's own.
func (t *tether) stop(sig unix.Signal, grace time.Duration) error {
	if sig == 0 {
		sig = unix.Signal(t.spec.Load().StopSignal)
	}
	if sig == 0 {
		sig = unix.SIGTERM
	}
	return t.main.Stop(sig, grace)
}

// listenForSignals keeps the first signal that asks for the machine's end for obeySignals: SIGTERM, SIGPWR, and SIGINT, which is
// Ctrl-Alt-Del.
func (t *tether) listenForSignals() {
	if t.signals == nil {
		t.signals = make(chan os.Signal, 1)
		signal.Notify(t.signals, unix.SIGTERM, unix.SIGINT, unix.SIGPWR)
	}
}

// obeySignals takes a signal as a request to end the machine.
func (t *tether) obeySignals() {
	for range t.signals {
		grace := time.Duration(t.spec.Load().StopGraceSeconds) * time.Second
		if grace == 0 {
			grace = defaultGrace
		}
		_ = t.stop(0, grace) // the one error is that the process has ended
	}
}

// leaveRoot lets go of the container's namespaces, whose processes have ended with their PID 1.
func (t *tether) leaveRoot(context.Context) error {
	t.container.Close()
	t.container = nil
	return nil
}

// serveUnpacker extracts layers until the host ends the machine.
func (t *tether) serveUnpacker(ctx context.Context) error {
	asked := make(chan struct{}, 1)
	a, stopServing, err := t.serve(ctx, agent.Config{
		Unpacker: agent.NewUnpacker(diskDir),
		Stop: func(unix.Signal, time.Duration) error {
			select {
			case asked <- struct{}{}:
			default:
			}
			return nil
		},
	})
	if err != nil {
		return err
	}
	defer stopServing()
	t.setStatus(&tetherv1.Status{State: tetherv1.State_RUNNING, StartedUnixNano: time.Now().UnixNano(), Pid: 1})
	<-asked
	t.setStatus(&tetherv1.Status{State: tetherv1.State_EXITED, Exit: &tetherv1.Exit{UnixNano: time.Now().UnixNano()}})
	t.flush(ctx)
	drain, cancel := context.WithTimeout(ctx, answerWait)
	defer cancel()
	a.Drain(drain)
	return nil
}
