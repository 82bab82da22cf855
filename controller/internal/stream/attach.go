package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"

	"github.com/containervm/containervm/controller/internal/container"
	"github.com/containervm/containervm/controller/internal/logconf"
	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/hostapi/hostclient"
	"github.com/containervm/containervm/tether/link"
)

// AttachOptions say what to attach.
type AttachOptions struct {
	Stdin, Stdout, Stderr bool
	Stream                bool // follow what is to come
	Logs                  bool // begin with what was
	DetachKeys            []byte
}

// Attachment is a place at a container's streams, of its present run or, when it does not run, of the next. It holds
// resources until Close.
type Attachment struct {
	Container container.Container
	s         *Service
	opt       AttachOptions
	log       *follower // nil: no output is wanted
	cancel    context.CancelFunc
}

// Attach takes a place. No byte that the process writes after Attach has returned is missed, also when the container is
// started only then.
func (s *Service) Attach(ctx context.Context, ref string, opt AttachOptions) (*Attachment, error) {
	c, err := s.containers.Get(ref)
	if err == nil {
		err = c.NotPaused(ref, "attach")
	}
	if err != nil {
		return nil, err
	}
	a := &Attachment{Container: c, s: s, opt: opt, cancel: func() {}}
	if !opt.Stdout && !opt.Stderr || !opt.Stream && !opt.Logs {
		s.containers.Tell(&c, events.ActionAttach, nil)
		return a, nil
	}
	if opt.Logs && c.HostConfig.LogConfig.Type == logconf.None {
		return nil, logconf.ErrNotReadable
	}
	from := int64(hostclient.End)
	if opt.Logs {
		from = 0
	}
	ctx, a.cancel = context.WithCancel(ctx)
	if a.log, err = s.open(ctx, &c, from, opt.Stream, opt.Stream); err != nil {
		a.cancel()
		return nil, fmt.Errorf("cannot attach to %s: %w", &c, err)
	}
	s.containers.Tell(&c, events.ActionAttach, nil)
	return a, nil
}

// Close gives the place up.
func (a *Attachment) Close() { a.cancel() }

// TakesStdin reports whether Run reads stdin.
func (a *Attachment) TakesStdin() bool {
	return a.opt.Stdin && a.opt.Stream && a.Container.Config.OpenStdin
}

// Run carries bytes until the output has ended, the client detaches (stdin yields its detach keys), or ctx ends. The
// process goes on in any case. Run may return while a read of stdin is still waiting: the caller owns it and closes it.
func (a *Attachment) Run(ctx context.Context, stdin io.Reader, out Sink) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	detached, lost := make(chan error, 1), make(chan error, 1)
	if a.TakesStdin() {
		go func() {
			err := a.feed(ctx, stdin, lost)
			detached <- err
			if err != nil && !errors.Is(err, ErrDetached) {
				_, _ = io.Copy(io.Discard, stdin) // the process takes no more; the client's end is still to be noticed
			}
		}()
	}
	if a.log == nil {
		return a.idle(ctx, detached, lost)
	}
	written := make(chan error, 1)
	go func() { written <- a.write(ctx, out) }()
	for {
		select {
		case err := <-written:
			return err
		case err := <-detached:
			if errors.Is(err, ErrDetached) {
				a.Close()
				cancel()
				<-written
				a.s.containers.Tell(&a.Container, events.ActionDetach, nil)
				return nil
			}
			detached = nil // stdin has ended; output goes on
		case err := <-lost:
			a.Close()
			cancel()
			<-written
			return err
		case <-ctx.Done():
			a.Close()
			<-written
			return nil
		}
	}
}

// write copies the output until its end. An attachment to a parked machine that ends at its gate goes on with the run in which
// the container is started.
func (a *Attachment) write(ctx context.Context, out Sink) error {
	defer func() { a.log.Close() }()
	for run := a.Container.Run; ; {
		err := a.copy(ctx, out)
		if err != nil || !a.opt.Stream || a.Container.Phase() != container.PhaseParked {
			return err
		}
		more, err := a.next(ctx, run)
		if more == nil {
			return err
		}
		run = more.Run
	}
}

// next opens the log behind what was read of a run that has ended, and returns the container in the run that follows; nil: it was the
// attachment's own.
func (a *Attachment) next(ctx context.Context, run hostapi.Run) (*container.Container, error) {
	now, err := container.Await(ctx, a.s.host, a.Container, func(now *container.Container) bool {
		return now.Run != run || now.Started() || !now.On()
	})
	switch {
	case errdefs.IsNotFound(err), ctx.Err() != nil:
		return nil, nil // removed without a start, or detached
	case err != nil:
		return nil, err
	case now.Run == run && now.Started():
		return nil, nil
	}
	log, err := a.s.open(ctx, &now, a.log.at, true, now.Run == run)
	if errdefs.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot follow %s to its next run: %w", &now, err)
	}
	a.log.Close()
	a.log = log
	return &now, nil
}

// copy writes the wanted records until the log's end.
func (a *Attachment) copy(ctx context.Context, out Sink) error {
	want := selection{a.opt.Stdout, a.opt.Stderr}
	for {
		rec, err := a.log.Next(ctx)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if rec.Gap() > 0 {
			err = out.Write(link.StreamStderr, missing(rec))
		} else if want.has(rec.Stream) {
			err = out.Write(rec.Stream, rec.Payload)
		}
		if err != nil {
			return err
		}
	}
}

// idle serves an attachment to stdin alone: it lasts until the client detaches or the machine is off.
func (a *Attachment) idle(ctx context.Context, detached, lost <-chan error) error {
	if !a.opt.Stdin || !a.opt.Stream {
		return nil
	}
	off := make(chan struct{})
	go func() {
		defer close(off)
		if c, err := container.Await(ctx, a.s.host, a.Container, a.hasRun); err == nil {
			_, _ = container.Await(ctx, a.s.host, c, func(now *container.Container) bool { return !now.On() }) // gone is off, too
		}
	}()
	select {
	case err := <-detached:
		if errors.Is(err, ErrDetached) {
			a.s.containers.Tell(&a.Container, events.ActionDetach, nil)
		}
	case err := <-lost:
		return err
	case <-off:
	case <-ctx.Done():
	}
	return nil
}

// hasRun reports whether the process runs, or has run in the run that the attachment was made for: one can be too short to be seen.
func (a *Attachment) hasRun(now *container.Container) bool {
	return runs(now) || now.BegunSince(&a.Container)
}

// feed carries stdin to the process once it runs. At its end the process reads end of file when the container was made
// so (StdinOnce), else its stdin stays open for the next one.
func (a *Attachment) feed(ctx context.Context, stdin io.Reader, lost chan<- error) error {
	c, err := container.Await(ctx, a.s.host, a.Container, runs)
	if err != nil {
		return err
	}
	l, err := a.s.host.Link(ctx, a.Container.VM.Ref)
	if err != nil {
		return err
	}
	in, err := l.OpenInput(ctx, link.MainSession)
	if err != nil {
		return err
	}
	defer in.Close()
	go func() {
		if <-in.Done(); in.Lost() && a.goesOn(ctx, c.Run) {
			lost <- ErrInputLost
		}
	}()
	keys := a.opt.DetachKeys
	if !a.Container.Config.Tty {
		keys = nil
	}
	_, err = io.Copy(in, NewDetachReader(stdin, keys))
	if err == nil && a.Container.Config.StdinOnce {
		if err = in.CloseWrite(); err == nil {
			select {
			case <-in.Done(): // all was taken, or may be lost
			case <-ctx.Done():
			}
		}
	}
	return err
}

// ErrInputLost ends the streams of a client whose input may not have reached the process. How much of it did nobody knows, so nothing is sent
// again.
var ErrInputLost = errors.New("standard input broke off: the host's daemon was away, and what was sent last may be lost; the process goes on, attach again")

// inputPause is the pause between looks at a process whose input was lost.
const inputPause = 100 * time.Millisecond

// goesOn reports, once the tether can be reached again, whether the process runs that the input was for; the end of a machine ends its
// streams, too, and is no error.
func (a *Attachment) goesOn(ctx context.Context, run hostapi.Run) bool {
	for {
		if _, err := a.s.host.Link(ctx, a.Container.VM.Ref); err == nil {
			now, err := a.s.containers.Get(a.Container.ID)
			return err == nil && runs(&now) && now.Run == run
		}
		now, err := a.s.containers.Get(a.Container.ID)
		if err != nil || !now.On() {
			return false
		}
		select {
		case <-time.After(inputPause):
		case <-ctx.Done():
			return false
		}
	}
}

func runs(c *container.Container) bool { return c.Phase() == container.PhaseRunning }
