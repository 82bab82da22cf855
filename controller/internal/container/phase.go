package container

import (
	"context"

	"github.com/containervm/containervm/controller/internal/record"
	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// phase is how far a run of a container's machine has come. Start, wait, events and removal decide by a run's number and its
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
type phase int

const (
	phaseNew phase = iota
	phaseParked
	phaseUnfit
	phaseStarting
	phaseRunning
	phaseExited
	phaseFailed
	phaseEnded
)

func (c *Container) phase() phase {
	on, state := c.VM.PowerState == vsphere.PoweredOn, c.Status.GetState()
	switch {
	case c.shut() && on:
		return phaseParked
	case c.shut() && c.forkFailed():
		return phaseUnfit
	case c.shut():
		return phaseNew
	case state == tetherv1.State_EXITED:
		return phaseExited
	case state == tetherv1.State_FAILED:
		return phaseFailed
	case on && state == tetherv1.State_RUNNING:
		return phaseRunning
	case on, c.Run > 0 && c.Status == nil && c.Ended == nil:
		return phaseStarting
	case c.Status == nil && c.Ended == nil:
		return phaseNew
	default:
		return phaseEnded
	}
}

// ran reports whether the process ran in the present or last run.
func (c *Container) ran() bool {
	return c.Status.GetState() == tetherv1.State_RUNNING || c.Status.GetState() == tetherv1.State_EXITED
}

// shut reports whether the machine was made as a fork whose process was never let go. One that was booted by another client has
// run without a gate.
func (c *Container) shut() bool { return c.fork != nil && !c.gate && !c.ran() }

// Running reports whether the container's machine is on, and not only parked.
func (c *Container) Running() bool {
	return c.VM.PowerState == vsphere.PoweredOn && c.phase() != phaseParked
}

// started reports whether the container was ever started, with success or without. What becomes of a fork before its gate
// was opened is no start.
func (c *Container) started() bool { return c.phase() > phaseStarting }

// over reports whether the run has ended. The machine may be about to end.
func (c *Container) over() bool {
	p := c.phase()
	return p == phaseExited || p == phaseEnded || p == phaseFailed && isOff(c.VM)
}

// gone reports whether the run and its machine have ended.
func (c *Container) gone() bool { return c.started() && !c.Running() }

func isOff(vm vsphere.VM) bool { return vm.PowerState != vsphere.PoweredOn }

// await waits until a container satisfies until. The guest's words are decoded outside the inventory's lock, and only when a key
// that phase depends on has changed. With an error
// the container is the one that was seen last.
func await(ctx context.Context, host Inventory, c Container, until func(*Container) bool) (Container, error) {
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
	for _, key := range [...]string{hostapi.KeyRun, link.KeyStatus, hostapi.KeyExit, link.KeyGate, link.KeyFork, record.KeyContainer} {
		if a.Extra[key] != b.Extra[key] {
			return false
		}
	}
	return true
}
