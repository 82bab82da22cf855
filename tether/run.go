package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"

	"github.com/containervm/containervm/tether/internal/agent"
	"github.com/containervm/containervm/tether/internal/guestinfo"
	"github.com/containervm/containervm/tether/internal/process"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

const (
	// logWait is how long the host may take for the rest of the log once the process has ended.
	logWait = 30 * time.Second
	// answerWait is how long answers that are being given may take when the machine ends.
	answerWait = 500 * time.Millisecond
)

// requests are the ways in which others ask the loop for something.
type requests struct {
	stops    chan stopRequest
	forks    chan chan<- uint32
	networks chan networkRequest
	pauses   chan pauseRequest
}

// stopRequest asks the loop to stop the container.
type stopRequest struct {
	signal unix.Signal   // 0: the container's own
	grace  time.Duration // until SIGKILL; negative: none
	done   chan<- error  // has room for the answer
}

// attend serves the running container until its process has ended, its output is in the host's log and its status known.
func (t *tether) attend(ctx context.Context) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	logged := t.startLog(ctx)
	ask := requests{make(chan stopRequest), make(chan chan<- uint32), make(chan networkRequest), make(chan pauseRequest)}
	hold, ended := t.instance.hold, t.instance.main.Done()
	if t.clock, err = newWallClock(t.host, t.reporter, t.console); err != nil {
		return err
	}
	a, stopServing, err := t.serve(ctx, agent.Config{
		Container: t.instance.container, Files: t.files(false), Stop: stopBy(ask.stops, ended), Hold: hold.take, Release: t.release, Network: networkBy(ask.networks, ended),
		Pause: pauseBy(ask.pauses, ended),
	})
	if err != nil {
		return err
	}
	defer stopServing()
	if t.vsock {
		cid, err := guestinfo.CID()
		if err != nil {
			return fmt.Errorf("cannot learn the machine's vsock CID: %w", err)
		}
		go watchForks(ctx, t.token.Stream(), t.console, cid, ask.forks)
	}
	t.setStatus(t.running())
	t.listenForSignals()
	running, over := context.WithCancel(ctx)
	t.monitor(running)
	t.clock.keep(running)
	err = t.loop(ctx, ask)
	over()
	if err != nil {
		return err
	}
	<-logged
	exited := t.running()
	exited.State, exited.Paused = tetherv1.State_EXITED, false
	exited.Exit, _ = t.instance.main.Wait(ctx) // at once
	t.end(ctx, a, exited)
	return nil
}

// release lets a source's processes go on after a fork, for which the machine has stood still: its clock is behind.
func (t *tether) release(f *tetherv1.Fork) error {
	defer t.clock.hurry()
	return t.instance.hold.release(f)
}

// loop does one thing at a time with the container until its process has ended. An error is that of a fork that cannot go on.
func (t *tether) loop(ctx context.Context, ask requests) error {
	for {
		select {
		case <-t.instance.main.Done():
			return nil
		case r := <-ask.stops:
			r.done <- t.stop(ctx, r.signal, r.grace)
		case r := <-ask.pauses:
			r.done <- t.pause(ctx, r.resume)
		case r := <-ask.networks:
			r.done <- t.changeNetwork(r.network)
		case <-t.signals: // a request to end the machine
			grace := time.Duration(t.instance.spec.StopGraceSeconds) * time.Second
			if grace == 0 {
				grace = link.DefaultStopGrace * time.Second
			}
			_ = t.stop(ctx, 0, grace) // the one error is that the process has ended
		case handled := <-ask.forks:
			cid, err := t.becomeCopy(ctx)
			if err != nil {
				return err
			}
			handled <- cid
		}
	}
}

// stopBy is the agent's way to stop the container: it asks the loop, which ends with the process.
func stopBy(stops chan<- stopRequest, ended <-chan struct{}) func(context.Context, unix.Signal, time.Duration) error {
	return func(ctx context.Context, sig unix.Signal, grace time.Duration) error {
		done := make(chan error, 1)
		select {
		case stops <- stopRequest{signal: sig, grace: grace, done: done}:
			return <-done
		case <-ended:
			return process.ErrEnded
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// stop ends the container in order, which ends the machine. A zero signal is the container's own. Processes that are paused go on, with the
// signal.
func (t *tether) stop(ctx context.Context, sig unix.Signal, grace time.Duration) error {
	if sig == 0 {
		sig = unix.Signal(t.instance.spec.StopSignal)
	}
	if sig == 0 {
		sig = unix.SIGTERM
	}
	if err := t.instance.main.Stop(sig, grace); err != nil {
		return err
	}
	return t.pause(ctx, true)
}

// running is the status of a container whose process runs.
func (t *tether) running() *tetherv1.Status {
	main := t.instance.main
	return &tetherv1.Status{State: tetherv1.State_RUNNING, StartedUnixNano: main.Started.UnixNano(), Pid: int32(main.PID), Paused: t.instance.container.Stands(process.Paused)}
}

// end tells the host of the end and waits for answers that are being given.
func (t *tether) end(ctx context.Context, a *agent.Agent, exited *tetherv1.Status) {
	t.setStatus(exited)
	t.flush(ctx)
	drain, cancel := context.WithTimeout(ctx, answerWait)
	defer cancel()
	a.Drain(drain)
}

// startLog copies the process's output to the host; logged is closed when the host has all of it, took too long, or ctx has ended.
func (t *tether) startLog(ctx context.Context) (logged <-chan struct{}) {
	done := make(chan struct{})
	if !t.vsock { // a host that is reached otherwise reads the rings by link
		close(done)
		return done
	}
	host := agent.NewHostLog(t.token.DialLog, t.console)
	main, console := t.instance.main, t.console
	rings := map[link.RecordStream]*process.Ring{link.StreamStdout: main.Stdout, link.StreamStderr: main.Stderr}
	go func() {
		defer close(done)
		if err := host.Send(ctx, rings, main.Done(), logWait); err != nil {
			console.Error("log is not complete", "err", err)
		}
	}()
	return done
}

// serve serves the link; stop ends it.
func (t *tether) serve(ctx context.Context, c agent.Config) (a *agent.Agent, stop func(), err error) {
	c.Version, c.Log, c.Phase, c.Status = t.version, t.console, t.progress.Phase, t.progress.Status
	a = agent.New(c)
	listener, err := t.listen()
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

// listenForSignals keeps the first signal that asks for the machine's end for the loop: SIGTERM, SIGPWR, and SIGINT, which is
// Ctrl-Alt-Del.
func (t *tether) listenForSignals() {
	if t.signals == nil {
		signals := make(chan os.Signal, 1)
		signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGPWR)
		t.signals = signals
	}
}

// serveUnpacker extracts layers until the host ends the machine.
func (t *tether) serveUnpacker(ctx context.Context) error {
	asked := make(chan struct{}, 1)
	a, stopServing, err := t.serve(ctx, agent.Config{
		Unpacker: agent.NewUnpacker(diskDir),
		Stop: func(context.Context, unix.Signal, time.Duration) error {
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
	t.end(ctx, a, &tetherv1.Status{State: tetherv1.State_EXITED, Exit: &tetherv1.Exit{UnixNano: time.Now().UnixNano()}})
	return nil
}
