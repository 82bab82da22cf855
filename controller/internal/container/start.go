package container

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// tailBytes is how much of a guest's console an error quotes.
const tailBytes = 2 << 10

// Start brings a container's process up and waits until it runs: the gate of a parked machine is opened, one that is off
// is powered on. It goes on when the client leaves: a start is not left half done. The error of a container that runs already
// is of class errdefs.ErrNotModified.
func (s *Service) Start(ctx context.Context, ref string) error {
	begun := time.Now()
	defer s.templates.Busy()()
	c, err := s.Get(ref)
	if err != nil {
		return err
	}
	release, err := s.starts.acquire(ctx, c.ID)
	if err != nil {
		return fmt.Errorf("cannot start %s: another start of it is under way: %w", &c, err)
	}
	defer release()
	if c, err = s.Get(c.ID); err != nil {
		return err
	}
	if c.Running() {
		return errdefs.ErrNotModified.WithMessage("container already started")
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.times.Start)
	defer cancel()
	kind, err := s.start(ctx, c, begun)
	if err != nil {
		return s.startFailed(c, err)
	}
	s.metrics.started(kind, time.Since(begun))
	return nil
}

// starts are the starts under way. While a container is being started nobody else starts it, and it is not removed by
// itself: its start could not tell any more what became of it.
type starts struct {
	mu   sync.Mutex
	busy map[string]chan struct{} // by container ID; closed at the end
}

func newStarts() *starts { return &starts{busy: map[string]chan struct{}{}} }

// acquire waits until no start of the container is under way, and holds others up until release is called.
func (x *starts) acquire(ctx context.Context, id string) (release func(), err error) {
	for {
		x.mu.Lock()
		other, busy := x.busy[id]
		if !busy {
			mine := make(chan struct{})
			x.busy[id] = mine
			x.mu.Unlock()
			return func() { x.end(id, mine) }, nil
		}
		x.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (x *starts) end(id string, mine chan struct{}) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.busy, id)
	close(mine)
}

// start lets a container's process come up, waits for it, and says in which way.
func (s *Service) start(ctx context.Context, c Container, begun time.Time) (kind string, err error) {
	kind = kindBoot
	if c.shut() && (c.parked() || c.forkFailed()) {
		kind = kindFork
		err = s.openGate(ctx, c, begun)
	} else {
		err = s.bootOff(ctx, c, begun)
	}
	if err != nil {
		return kind, fmt.Errorf("cannot start %s: %w", &c, err)
	}
	vm, err := s.host.Wait(ctx, c.VM.Ref, decided)
	if errors.Is(err, context.DeadlineExceeded) {
		return kind, s.hung(c, vm)
	}
	if err != nil {
		return kind, fmt.Errorf("cannot start %s: %w", &c, err)
	}
	now, err := parse(vm)
	switch {
	case err != nil:
		return kind, err
	case now.ran():
		return kind, nil
	case now.Status.GetState() == tetherv1.State_FAILED:
		s.settleOff(c)
		return kind, startFailure(&now)
	case kind == kindFork && now.endedBefore(begun):
		return s.start(ctx, now, begun) // it was parked when last seen, and is off: it boots
	default:
		return kind, fmt.Errorf("cannot start %s: %s%s", &c, now.Trouble(), quote(now.consoleTail()))
	}
}

// openGate lets the process of a parked machine start. For one that could not be forked it notes that the start was tried.
func (s *Service) openGate(ctx context.Context, c Container, begun time.Time) error {
	marks := append(append([]Mark{}, s.made(c)...), mark("startRequested", begun))
	s.clock.set(c.ID, marks)
	return s.host.Reconfigure(ctx, c.VM.Ref, map[string]string{
		link.KeyGate: link.GateOpen, keyStart: encodeNote(startNote{Why: c.start.Why, Marks: marks}),
	})
}

// made are the API's marks of a container's creation.
func (s *Service) made(c Container) []Mark {
	if own := s.clock.get(c.ID); own != nil {
		return own
	}
	return c.start.Marks
}

// bootOff powers a machine on. What was forked once is a machine like any other from then on.
func (s *Service) bootOff(ctx context.Context, c Container, begun time.Time) error {
	marks := []Mark{mark("api", begun), mark("startRequested", begun)}
	if !c.started() && c.fork == nil {
		marks = append(append([]Mark{}, s.made(c)...), marks[1])
	}
	s.clock.set(c.ID, marks)
	if c.fork != nil {
		if err := s.host.Reconfigure(ctx, c.VM.Ref, map[string]string{
			link.KeyFork: "", link.KeyGate: "", keyStart: encodeNote(startNote{Why: whyOff, Marks: marks}),
		}); err != nil {
			return err
		}
	}
	return s.host.PowerOn(ctx, c.VM.Ref)
}

// endedBefore reports whether the machine was off before a time, as far as the host says when it ended.
func (c *Container) endedBefore(t time.Time) bool {
	return isOff(c.VM) && c.Status == nil && (c.Ended == nil || c.Ended.At.Before(t))
}

// startFailure is the error of a start whose process never ran.
func startFailure(c *Container) error {
	if c.forkFailed() {
		return errdefs.ErrInternal.WithMessage(startPrefix + c.failure())
	}
	return startError(startPrefix, c.Status.GetFailure(), c.args())
}

// decided reports whether a start has succeeded or failed.
func decided(vm vsphere.VM) bool {
	if vm.PowerState != vsphere.PoweredOn {
		return true
	}
	st := statusOf(vm)
	return st != nil && st.State != tetherv1.State_STARTING
}

// startFailed removes a container that is not to outlive its process.
func (s *Service) startFailed(c Container, err error) error {
	if !c.HostConfig.AutoRemove {
		return err
	}
	return errors.Join(err, s.remove(context.Background(), c))
}

// settleOff waits until the machine of a container whose process has ended is off, and ends it when it does not go.
func (s *Service) settleOff(c Container) {
	ctx, cancel := context.WithTimeout(context.Background(), s.times.Off)
	defer cancel()
	if _, err := s.host.Wait(ctx, c.VM.Ref, isOff); err != nil && !errdefs.IsNotFound(err) {
		s.powerOff(c)
	}
}

func isOff(vm vsphere.VM) bool { return vm.PowerState != vsphere.PoweredOn }

// powerOff ends a machine whose guest does not.
func (s *Service) powerOff(c Container) error {
	ctx, cancel := context.WithTimeout(context.Background(), s.times.Off)
	defer cancel()
	err := s.host.PowerOff(ctx, c.VM.Ref)
	if err != nil && !errdefs.IsNotFound(err) {
		s.log.Warn("cannot end a machine", "container", c.ID, "error", err)
		return err
	}
	return nil
}

// hung ends a machine whose tether has not got its process running in time, and says how far it came.
func (s *Service) hung(c Container, vm vsphere.VM) error {
	phase := vm.Extra[link.KeyPhase]
	if phase == "" {
		phase = "before the tether's first (kernel or initramfs)"
	}
	tail := s.host.ConsoleTail(context.Background(), c.ID)
	_ = s.powerOff(c)
	return errdefs.ErrInternal.WithMessage(fmt.Sprintf(
		"cannot start %s: its process does not run after %v; the tether hangs in phase %s%s", &c, s.times.Start, phase, quote(tail)))
}

func (c *Container) consoleTail() string {
	if c.Ended == nil {
		return ""
	}
	return c.Ended.ConsoleTail
}

// quote sets a console's end under an error.
func quote(tail string) string {
	tail = strings.TrimSpace(strings.ToValidUTF8(strings.ReplaceAll(tail, "\r", ""), "?"))
	if tail == "" {
		return ""
	}
	tail = tail[max(0, len(tail)-tailBytes):]
	return "; the end of its console:\n" + withoutPhrases(tail)
}
