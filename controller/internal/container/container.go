package container

import (
	"fmt"
	"time"

	"github.com/moby/moby/api/types/container"

	"github.com/containervm/containervm/controller/internal/guest"
	"github.com/containervm/containervm/controller/internal/record"
	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// Container is what is known of a container at one moment. It must not be changed.
type Container struct {
	ID   string // 64 hexadecimal digits, also the name of the VM
	Name string // without a slash
	record.Container
	VM     vsphere.VM
	Run    hostapi.Run      // the present or last run, to which all below belongs; 0: it never ran, or its host counts no runs
	Status *tetherv1.Status // what the tether said last; nil: nothing yet
	Ended  *hostapi.Exit    // how the run ended; nil: it lasts, never was, or the host does not say

	fork    *tetherv1.Fork         // which fork the machine was made as; nil: it was not, or has booted since
	health  *tetherv1.HealthStatus // nil: nothing was said of it
	clock   *tetherv1.ClockStatus  // nil: nobody has looked at it yet
	receipt *tetherv1.Receipt      // what the fork did; nil: the machine of this run was booted, or has not said it yet
	gate    bool                   // a fork's process may start
	start   record.Start
	restart record.Restart
	doomed  bool // someone removes it
}

// Parse reads a container from its VM.
func Parse(vm vsphere.VM) (Container, error) {
	c := Container{ID: vm.Name}
	var err error
	if c.Container, err = record.DecodeContainer(vm.Extra[record.KeyContainer]); err != nil {
		return c, fmt.Errorf("cannot read VM %s: %w", vm.Name, err)
	}
	return c.at(vm), nil
}

// at is the container as a later picture of its VM shows it. What it was made with is decoded once. What a guest sends may be
// anything: nonsense counts as nothing.
func (c Container) at(vm vsphere.VM) Container {
	c = Container{
		ID: c.ID, Container: c.Container, VM: vm, Name: vm.Extra[record.KeyName], Run: hostapi.RunOf(vm.Extra),
		gate: vm.Extra[link.KeyGate] == link.GateOpen, start: record.DecodeStart(vm.Extra[record.KeyStart]), restart: record.DecodeRestart(vm.Extra[record.KeyRestart]),
	}
	c.Status = said(vm, link.KeyStatus, link.DecodeStatus)
	c.health = said(vm, link.KeyHealth, link.DecodeHealth)
	c.clock = said(vm, link.KeyClock, link.DecodeClock)
	c.fork = said(vm, link.KeyFork, link.DecodeFork)
	c.receipt = said(vm, link.KeyReceipt, link.DecodeReceipt)
	if text := vm.Extra[hostapi.KeyExit]; text != "" {
		var err error
		if c.Ended, err = hostapi.DecodeExit(text); err != nil {
			c.Ended = &hostapi.Exit{Reason: fmt.Sprintf("the host's report cannot be decoded: %v", err)}
		}
	}
	return c
}

// said decodes a key of extraConfig; nil: it is not there, or nonsense.
func said[T any](vm vsphere.VM, key string, decode func(string) (*T, error)) *T {
	if vm.Extra[key] == "" {
		return nil
	}
	value, err := decode(vm.Extra[key])
	if err != nil {
		return nil
	}
	return value
}

// State is the container's state in Docker's terms.
func (c *Container) State() container.ContainerState {
	switch {
	case c.doomed:
		return container.StateRemoving
	case c.ComesBack():
		return container.StateRestarting
	case c.VM.PowerState == vsphere.Suspended, c.Paused():
		return container.StatePaused
	case c.Running():
		return container.StateRunning
	case !c.Started(), c.Phase() == PhaseFailed:
		return container.StateCreated // as Docker has it when the process could not be started
	default:
		return container.StateExited
	}
}

// ExitCode is the exit code of the last run; 0 while it runs or before.
func (c *Container) ExitCode() int {
	switch {
	case c.Running() || !c.Started():
		return 0
	case c.Phase() == PhaseExited:
		return int(c.Status.GetExit().GetCode())
	case c.Phase() == PhaseFailed:
		return guest.ExitCode(c.Status.GetFailure())
	case c.Ran():
		return guest.ExitKilled
	default:
		return guest.ExitUnknown
	}
}

// Trouble says for people why the container is not as it should be; empty: nothing is wrong.
func (c *Container) Trouble() string {
	switch {
	case c.Running() || !c.Started() || c.Phase() == PhaseExited:
		return ""
	case c.Phase() == PhaseFailed:
		return c.failure()
	case c.Ended == nil:
		return "the machine was powered off"
	case c.Ran():
		return "the machine ended under the process: " + c.Ended.Reason
	default:
		return "the machine ended before the process ran: " + c.Ended.Reason
	}
}

// StartedAt is when the process of the present or last run began; zero: never. That of a fork of a running container began
// before the container did, which runs since it was made.
func (c *Container) StartedAt() time.Time {
	at := unixTime(c.Status.GetStartedUnixNano())
	if c.fork != nil && !at.IsZero() && at.Before(c.Created) {
		return c.Created
	}
	return at
}

// FinishedAt is when the last run ended; zero: it runs, or never ran.
func (c *Container) FinishedAt() time.Time {
	if c.Running() || !c.Started() {
		return time.Time{}
	}
	if at := c.Status.GetExit().GetUnixNano(); at != 0 {
		return unixTime(at)
	}
	if c.Ended != nil {
		return c.Ended.At
	}
	return time.Time{}
}

func unixTime(nano int64) time.Time {
	if nano == 0 {
		return time.Time{}
	}
	return time.Unix(0, nano)
}

// args is the process's command line.
func (c *Container) args() []string {
	return append(append([]string{}, c.Config.Entrypoint...), c.Config.Cmd...)
}
