package container

import (
	"context"

	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// Phase is how far a run of a container's machine has come. Start, wait, events and removal decide by a run's number and its
// phase alone:
//
//	phase     machine    what was said
//	new       off        nothing: it never ran, or was forked and ended at its gate
//	parked    on         a fork whose gate is shut
//	unfit     off        a fork whose gate is shut says that it could not become this container
//	starting  on         nothing yet of its process; or off, and the host has numbered the run but not begun it
//	running   on         the process runs
//	exited    on or off  the process has ended, and all of its output is in the log
//	failed    on or off  the process could not be started
//	ended     off        the machine ended before its process did, or before that ran
//
// A host that counts no runs (a plain vCenter) has run 0 for ever. It drops what a guest set when the machine ends, so that a
// status always belongs to the run that lasts; two runs of which the first ended unseen are one there.
type Phase int

const (
	PhaseNew Phase = iota
	PhaseParked
	PhaseUnfit
	PhaseStarting
	PhaseRunning
	PhaseExited
	PhaseFailed
	PhaseEnded
)

// Phase is that of the present or last run.
func (c *Container) Phase() Phase {
	on, state := c.On(), c.Status.GetState()
	switch {
	case c.shut() && on:
		return PhaseParked
	case c.shut() && c.forkFailed():
		return PhaseUnfit
	case c.shut():
		return PhaseNew
	case state == tetherv1.State_EXITED:
		return PhaseExited
	case state == tetherv1.State_FAILED:
		return PhaseFailed
	case on && state == tetherv1.State_RUNNING:
		return PhaseRunning
	case on, c.Run > 0 && c.Status == nil && c.Ended == nil:
		return PhaseStarting
	case c.Status == nil && c.Ended == nil:
		return PhaseNew
	default:
		return PhaseEnded
	}
}

// Ran reports whether the process ran in the present or last run.
func (c *Container) Ran() bool {
	return c.Status.GetState() == tetherv1.State_RUNNING || c.Status.GetState() == tetherv1.State_EXITED
}

// shut reports whether the machine is a fork whose process was not let start. One that another client booted since has run without
// a gate.
func (c *Container) shut() bool { return c.fork != nil && !c.gate && !c.Ran() }

// On reports whether the container's machine is on, also when it is only parked.
func (c *Container) On() bool { return c.VM.PowerState == vsphere.PoweredOn }

// Running reports whether the container's machine is on, and not only parked.
func (c *Container) Running() bool {
	return c.On() && c.Phase() != PhaseParked
}

// Started reports whether the container was ever started, with success or without. What becomes of a fork before its gate
// was opened is no start.
func (c *Container) Started() bool { return c.Phase() > PhaseStarting }

// over reports whether the run has ended. The machine may be about to end.
func (c *Container) over() bool {
	p := c.Phase()
	return p == PhaseExited || p == PhaseEnded || p == PhaseFailed && !c.On()
}

// gone reports whether the run and its machine have ended.
func (c *Container) gone() bool { return c.Started() && !c.Running() }

// goneSince reports whether a run has ended, with its machine, that had not in an earlier picture. A run whose number goes back was
// one that could not begin: what is seen then of the run before is not new. Nor is the end of a machine that was known, and counts
// only now that a start has opened its gate.
func (c *Container) goneSince(before *Container) bool {
	return c.gone() && (c.Run > before.Run || c.Run == before.Run && !before.gone() && before.Ended == nil)
}

// BegunSince reports whether a process has run that had not in an earlier picture.
func (c *Container) BegunSince(before *Container) bool {
	return c.Ran() && (c.Run > before.Run || c.Run == before.Run && !before.Ran())
}

func isOff(vm vsphere.VM) bool { return vm.PowerState != vsphere.PoweredOn }

// isOver reports whether the run that a container was seen in has ended with its machine: it is off, or in a later run, which may be all that
// is seen of it.
func (c *Container) isOver(vm vsphere.VM) bool { return isOff(vm) || hostapi.RunOf(vm.Extra) > c.Run }

// Waiter waits for changes of VMs: *vsphere.Client.
type Waiter interface {
	// Wait blocks until the VM satisfies until, which must not block.
	Wait(ctx context.Context, vm vsphere.Ref, until func(vsphere.VM) bool) (vsphere.VM, error)
}

// Await waits until a container satisfies until. The guest's words are decoded outside the inventory's lock, and only when a key
// that phase depends on has changed. With an error
// the container is the one that was seen last.
func Await(ctx context.Context, host Waiter, c Container, until func(*Container) bool) (Container, error) {
	for first := true; ; first = false {
		vm, err := host.Wait(ctx, c.VM.Ref, func(vm vsphere.VM) bool { return first || !samePhase(vm, c.VM) })
		if vm.Ref == c.VM.Ref {
			c = c.at(vm)
		}
		if err != nil || until(&c) {
			return c, err
		}
	}
}

// samePhase reports whether two pictures of a VM cannot differ in run or phase. It is called with the inventory locked.
func samePhase(a, b vsphere.VM) bool {
	if a.PowerState != b.PowerState {
		return false
	}
	for _, key := range [...]string{hostapi.KeyRun, link.KeyStatus, hostapi.KeyExit, link.KeyGate, link.KeyFork} {
		if a.Extra[key] != b.Extra[key] {
			return false
		}
	}
	return true
}
