package container

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/containervm/containervm/controller/internal/guest"
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
	Container Container
	s         *Service
	opt       AttachOptions
	log       io.ReadCloser // nil: no output is wanted
	cancel    context.CancelFunc
}

// Attach takes a place. No byte that the process writes after Attach has returned is missed, also when the container is
// started only then.
func (s *Service) Attach(ctx context.Context, ref string, opt AttachOptions) (*Attachment, error) {
	c, err := s.Get(ref)
	if err != nil {
		return nil, err
	}
	a := &Attachment{Container: c, s: s, opt: opt}
	if !opt.Stdout && !opt.Stderr || !opt.Stream && !opt.Logs {
		return a, nil
	}
	from := int64(-1)
	if opt.Logs {
		from = 0
	}
	ctx, a.cancel = context.WithCancel(ctx)
	a.log, _, err = s.host.OpenLog(ctx, c.VM.Ref, from, opt.Stream, opt.Stream)
	if err != nil {
		a.cancel()
		return nil, fmt.Errorf("cannot attach to %s: %w", &c, err)
	}
	return a, nil
}

// Close gives the place up.
func (a *Attachment) Close() {
	if a.log != nil {
		a.cancel()
		a.log.Close()
	}
}

// Run carries bytes until the output has ended, the client detaches (stdin yields its detach keys), or ctx ends. The
// process goes on in any case. Run may return while a read of stdin is still waiting: the caller owns it and closes it.
func (a *Attachment) Run(ctx context.Context, stdin io.Reader, out Sink) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	detached := make(chan error, 1)
	if a.opt.Stdin && a.opt.Stream && a.Container.Config.OpenStdin {
		go func() { detached <- a.feed(ctx, stdin) }()
	}
	if a.log == nil {
		return a.idle(ctx, detached)
	}
	written := make(chan error, 1)
	go func() { written <- copyRecords(out, a.log, selection{a.opt.Stdout, a.opt.Stderr}) }()
	for {
		select {
		case err := <-written:
			return err
		case err := <-detached:
			if errors.Is(err, errDetached) {
				a.Close()
				<-written
				return nil
			}
			detached = nil // stdin has ended; output goes on
		case <-ctx.Done():
			a.Close()
			<-written
			return nil
		}
	}
}

// idle serves an attachment to stdin alone: it lasts until the client detaches or the machine is off.
func (a *Attachment) idle(ctx context.Context, detached <-chan error) error {
	if !a.opt.Stdin || !a.opt.Stream {
		return nil
	}
	off := make(chan struct{})
	go func() {
		defer close(off)
		if c, err := await(ctx, a.s.host, a.Container, runs); err == nil {
			_, _ = await(ctx, a.s.host, c, func(now *Container) bool { return isOff(now.VM) }) // gone is over too
		}
	}()
	select {
	case <-detached:
	case <-off:
	case <-ctx.Done():
	}
	return nil
}

// feed carries stdin to the process once it runs. At its end the process reads end of file when the container was made
// so (StdinOnce), else its stdin stays open for the next one.
func (a *Attachment) feed(ctx context.Context, stdin io.Reader) error {
	if _, err := await(ctx, a.s.host, a.Container, runs); err != nil {
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
	keys := a.opt.DetachKeys
	if !a.Container.Config.Tty {
		keys = nil
	}
	_, err = io.Copy(in, newDetachReader(stdin, keys))
	if a.Container.Config.StdinOnce && !errors.Is(err, errDetached) {
		return errors.Join(err, in.CloseWrite())
	}
	return err
}

func runs(c *Container) bool { return c.phase() == phaseRunning }

// copyRecords writes the wanted records of a log until its end.
func copyRecords(out Sink, log io.Reader, want selection) error {
	records := link.NewRecordReader(log)
	for {
		rec, err := records.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if !want.has(rec.Stream) {
			continue
		}
		if err := out.Write(rec.Stream, rec.Payload); err != nil {
			return err
		}
	}
}

// Resize sets the window size of the container's terminal.
func (s *Service) Resize(ctx context.Context, ref string, rows, columns uint32) error {
	c, err := s.running(ref)
	if err != nil {
		return err
	}
	return guest.Failed(s.calls.Resize(ctx, c.VM, link.MainSession, rows, columns), "cannot resize the terminal of %s", &c)
}
