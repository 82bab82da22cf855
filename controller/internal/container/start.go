package container

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"github.com/containervm/containervm/controller/internal/guest"
	"github.com/containervm/containervm/controller/internal/record"
	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/tether/link"
)

// Start brings a container's process up and waits until it runs: the gate of a parked machine is opened, one that is off
// is powered on. It goes on when the client leaves: a start is not left half done. The error of a container that runs already, or that its
// policy is about to restart, is of class errdefs.ErrNotModified.
func (s *Service) Start(ctx context.Context, ref string) error {
	begun := time.Now()
	defer s.templates.Busy()()
	c, err := s.Get(ref)
	if err != nil {
		return err
	}
	op, err := s.starts.acquire(ctx, c.ID, toStart)
	if err != nil {
		return err
	}
	defer op.release()
	if c, err = s.Get(c.ID); err != nil {
		return err
	}
	switch {
	case c.State() == container.StatePaused:
		return errdefs.ErrConflict.WithMessage("cannot start a paused container, try unpause instead")
	case c.Active():
		return errdefs.ErrNotModified.WithMessage("container already started")
	}
	return s.bring(ctx, op, c, begun, record.Restart{})
}

// bring brings up a container that does not run, in an operation, and writes how its restart policy stands then.
func (s *Service) bring(ctx context.Context, op *operation, c Container, begun time.Time, r record.Restart) error {
	s.takeBack(ctx, c.ID, true)
	s.takeBackShared(ctx, c)
	if at := c.Endpoints(); len(at) > 0 {
		held, err := s.networks.Hold(at)
		if err != nil {
			return s.startFailed(op, c, err)
		}
		defer held()
	}
	patience, cancel := context.WithTimeout(op.patience, s.times.Start)
	defer cancel()
	kind, err := s.start(context.WithoutCancel(ctx), patience, c, begun, r)
	if context.Cause(op.patience) == errAbandoned {
		return errAbandoned
	}
	if err != nil {
		return s.startFailed(op, c, err)
	}
	s.metrics.started(kind, time.Since(begun))
	return nil
}

// start lets a container's process come up, waits for it, and says in which way. It goes by the run and its phase:
//
//	            run            phase                     what it does
//	asked for   the last       parked, unfit             opens the gate: its process is to be this run's
//	            the last       any other                 powers on: its process is to be the next run's
//	gate open   the last       new, ended before it ran  powers on: the machine had ended at its gate
//	            the last       any other                 waits
//	waiting     an earlier     any                       waits
//	            that or later  starting                  waits; ends the machine when it takes too long
//	            that or later  failed                    fails, once the machine is off
//	            that or later  new, ended before it ran  fails
//	            that or later  any other                 has started
//
// What is done on the host with ctx is ended in any case; patience is for waiting for the guest.
//
// A host that numbers no runs shows the new run when its power-on has ended, so there run 0 is the one that is waited for.
func (s *Service) start(ctx, patience context.Context, c Container, begun time.Time, r record.Restart) (kind string, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.times.Start)
	defer cancel()
	kind, run := kindBoot, c.Run+1
	if p := c.Phase(); p == PhaseParked || p == PhaseUnfit {
		kind, run = kindFork, c.Run
		c, err = s.openGate(ctx, c, begun, r)
	}
	if err == nil && (kind == kindBoot || c.endedBeforeItRan()) {
		kind, run = kindBoot, c.Run+1
		err = s.powerOn(ctx, c, begun, r)
	}
	if err != nil {
		return kind, startError(&c, err)
	}
	c, err = Await(patience, s.host, c, func(now *Container) bool {
		return (now.Run >= run || now.Run == 0) && now.Phase() != PhaseStarting
	})
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return kind, s.hung(c)
	case err != nil:
		return kind, fmt.Errorf("cannot start %s: %w", &c, err)
	case c.Phase() == PhaseFailed:
		s.settleOff(c)
		return kind, startFailure(&c)
	case c.endedBeforeItRan():
		return kind, fmt.Errorf("cannot start %s: %s%s", &c, cmp.Or(c.Trouble(), "the machine was powered off"), guest.Quote(c.consoleTail()))
	default:
		return kind, nil
	}
}

// startError says of an error which container could not be started, unless it is in Docker's words, which do that.
func startError(c *Container, err error) error {
	if errors.As(err, new(portError)) {
		return err
	}
	return fmt.Errorf("cannot start %s: %w", c, err)
}

// endedBeforeItRan reports whether the machine is off, and neither its process nor a reason against it was ever there.
func (c *Container) endedBeforeItRan() bool {
	p := c.Phase()
	return p == PhaseNew || p == PhaseEnded && !c.Ran()
}

// openGate lets the process of a parked machine start, and returns the container as it was when its gate was open. For one that
// could not be forked it notes that the start was tried.
func (s *Service) openGate(ctx context.Context, c Container, begun time.Time, r record.Restart) (Container, error) {
	net, err := s.HostNet(c.ID, c.Name, &c.Container, c.Endpoints())
	if err != nil {
		return c, err
	}
	marks := append(slices.Clone(s.made(c)), record.MarkAt("startRequested", begun))
	s.clock.set(c.ID, marks)
	change := vsphere.Change{Extra: map[string]string{
		link.KeyGate: link.GateOpen, record.KeyStart: record.Start{Why: c.start.Why, Marks: marks}.Encode(), hostapi.KeyNet: net,
	}}
	c.addRestart(&change, r)
	c.addDisks(&change)
	if err := s.bindPorts(&c, c.Run, change.Extra); err != nil {
		return c, err
	}
	if err := s.host.Change(ctx, c.VM.Ref, change); err != nil {
		s.ports.ReleaseAll(c.VM.Ref)
		return c, s.inUse(&c, err)
	}
	if vm, ok := s.host.Get(c.ID); ok {
		c = c.at(vm)
	}
	return c, nil
}

// made are the API's marks of a container's creation.
func (s *Service) made(c Container) []record.Mark {
	if own := s.clock.get(c.ID); own != nil {
		return own
	}
	return c.start.Marks
}

// powerOn boots a machine from its disk. One that was forked is like any other from then on.
func (s *Service) powerOn(ctx context.Context, c Container, begun time.Time, r record.Restart) error {
	asked := record.MarkAt("startRequested", begun)
	marks := []record.Mark{record.MarkAt("api", begun), asked}
	if !c.Started() && c.fork == nil {
		marks = append(slices.Clone(s.made(c)), asked)
	}
	s.clock.set(c.ID, marks)
	net, err := s.HostNet(c.ID, c.Name, &c.Container, c.Endpoints())
	if err != nil {
		return err
	}
	change := vsphere.Change{Extra: map[string]string{}}
	if c.fork != nil {
		change.Extra = map[string]string{
			link.KeyFork: "", link.KeyGate: "", record.KeyStart: record.Start{Why: whyOff, Marks: marks}.Encode(),
		}
	}
	if c.VM.Extra[hostapi.KeyNet] != net { // it was parked and has ended
		change.Extra[hostapi.KeyNet] = net
	}
	c.addRestart(&change, r)
	c.addDisks(&change)
	if err := s.bindPorts(&c, c.Run+1, change.Extra); err != nil {
		return err
	}
	if len(change.Extra) > 0 {
		err = s.host.Change(ctx, c.VM.Ref, change)
	}
	if err == nil {
		err = s.inUse(&c, s.host.PowerOn(ctx, c.VM.Ref))
	}
	if err != nil {
		s.ports.ReleaseAll(c.VM.Ref) // no run began that would end
	}
	return err
}

// inUse is an error of the host that says in Docker's words what a start wants and someone has: a port or a volume; else it is the error.
func (s *Service) inUse(c *Container, err error) error {
	return s.diskInUse(c, PortTaken(c.ID, c.Name, c.Endpoints(), err))
}

// PortTaken is an error of the host in Docker's words if it is that a port is taken which a container publishes; else it is the error.
func PortTaken(id, name string, endpoints []record.Endpoint, err error) error {
	why, taken := vsphere.PortTaken(err)
	if !taken {
		return err
	}
	return portTaken(id, name, endpoints, why)
}

// portTaken is the error of a port that is taken, in Docker's words.
func portTaken(id, name string, endpoints []record.Endpoint, why string) error {
	in := wayIn(endpoints)
	for _, e := range endpoints {
		if e.PortGroup == in {
			id = e.ID
		}
	}
	return portError(fmt.Sprintf(
		"failed to set up container networking: driver failed programming external connectivity on endpoint %s (%s): %s", name, id, why))
}

// portError is that a port is taken which a container publishes; Docker answers it as an internal error.
type portError string

func (e portError) Error() string { return string(e) }

// startFailure is the error of a start whose process never ran.
func startFailure(c *Container) error {
	if c.forkFailed() {
		return errdefs.ErrInternal.WithMessage(guest.StartPrefix + c.failure())
	}
	return guest.StartError(guest.StartPrefix, c.Status.GetFailure(), c.args())
}

// startFailed removes a container that is not to outlive its process.
func (s *Service) startFailed(op *operation, c Container, err error) error {
	if !c.HostConfig.AutoRemove {
		return err
	}
	return errors.Join(err, s.remove(context.Background(), op, c, true))
}

// settleOff waits until the machine of a container whose process has ended is off, and ends it when it does not go.
func (s *Service) settleOff(c Container) {
	ctx, cancel := context.WithTimeout(context.Background(), s.times.Off)
	defer cancel()
	if _, err := s.host.Wait(ctx, c.VM.Ref, c.isOver); err != nil && !errdefs.IsNotFound(err) {
		s.powerOff(c)
	}
}

// powerOff ends a machine whose guest does not, unless someone has begun another run of it since.
func (s *Service) powerOff(c Container) error {
	if now, ok := s.host.Get(c.ID); ok && hostapi.RunOf(now.Extra) > c.Run {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.times.Off)
	defer cancel()
	err := s.host.PowerOff(ctx, c.VM.Ref)
	if err != nil && !errdefs.IsNotFound(err) {
		s.log.Warn("cannot end a machine", "container", c.ID, "err", err)
		return err
	}
	return nil
}

// hung ends a machine whose tether has not got its process running in time, and says how far it came.
func (s *Service) hung(c Container) error {
	phase := c.VM.Extra[link.KeyPhase]
	if phase == "" {
		phase = "before the tether's first (kernel or initramfs)"
	}
	tail := s.host.ConsoleTail(context.Background(), c.ID)
	_ = s.powerOff(c)
	return errdefs.ErrInternal.WithMessage(fmt.Sprintf(
		"cannot start %s: its process does not run after %v; the tether hangs in phase %s%s", &c, s.times.Start, phase, guest.Quote(tail)))
}

func (c *Container) consoleTail() string {
	if c.Ended == nil {
		return ""
	}
	return c.Ended.ConsoleTail
}
