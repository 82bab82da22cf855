package container

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/opencontainers/go-digest"

	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// Keys of extraConfig (DESIGN.md, "extraConfig keys of the controller").
const (
	keyRole   = "cvm.role"
	keyName   = "cvm.name"
	keyRecord = "cvm.container"
	keyStart  = "cvm.start"
	keyExit   = "cvm.host.exit"     // written by hostd-bridge
	keyMarks  = "cvm.host.timeline" // written by hostd-bridge

	roleContainer = "container"
	// roleForkSource is the role of a copy of a running container, at the moment of its fork, while its children are made.
	roleForkSource = "fork-source"
)

// Exit codes that Docker gives to containers whose process did not end by itself.
const (
	exitEngine        = 125 // Docker's own failure
	exitNotExecutable = 126
	exitNotFound      = 127
	exitKilled        = 128 + 9 // as if by SIGKILL: the machine went away under the process
	exitUnknown       = 255
)

// record is what a container was made with: the value of cvm.container.
type record struct {
	Created    time.Time
	ImageID    digest.Digest
	Config     container.Config // merged with the image's
	HostConfig container.HostConfig
}

// Container is what is known of a container at one moment. It must not be changed.
type Container struct {
	ID   string // 64 hexadecimal digits, also the name of the VM
	Name string // without a slash
	record
	VM     vsphere.VM
	Status *tetherv1.Status // what the tether said last in the present or last run; nil: nothing yet
	Ended  *MachineExit     // how the last run of the machine ended; nil: never run, running, or not said

	fork    *tetherv1.Fork    // which fork the machine was made as; nil: it was not, or has booted since
	receipt *tetherv1.Receipt // what the fork did; nil: the machine of this run was booted, or has not said it yet
	gate    bool              // a fork's process may start
	start   startNote
}

// MachineExit says how a machine ended (hostd-bridge's extraConfig key cvm.host.exit).
type MachineExit struct {
	At          time.Time `json:"at"`
	Orderly     bool      `json:"orderly"` // the guest powered itself off
	Reason      string    `json:"reason"`
	ConsoleTail string    `json:"consoleTail"`
}

// parse reads a container from its VM.
func parse(vm vsphere.VM) (Container, error) {
	c := Container{ID: vm.Name, Name: vm.Extra[keyName], VM: vm}
	if err := json.Unmarshal([]byte(vm.Extra[keyRecord]), &c.record); err != nil {
		return c, fmt.Errorf("cannot decode %s of VM %s: %w", keyRecord, vm.Name, err)
	}
	c.Status = statusOf(vm)
	c.parseFork()
	if text := vm.Extra[keyExit]; text != "" {
		c.Ended = &MachineExit{}
		if err := json.Unmarshal([]byte(text), c.Ended); err != nil {
			c.Ended.Reason = fmt.Sprintf("the host's report cannot be decoded: %v", err)
		}
	}
	return c, nil
}

// statusOf decodes what the guest says of its process. What a guest sends may be anything: nonsense counts as nothing.
func statusOf(vm vsphere.VM) *tetherv1.Status {
	text := vm.Extra[link.KeyStatus]
	if text == "" {
		return nil
	}
	st, err := link.DecodeStatus(text)
	if err != nil {
		return nil
	}
	return st
}

// Running reports whether the container's machine is on, and not only parked.
func (c *Container) Running() bool { return c.VM.PowerState == vsphere.PoweredOn && !c.parked() }

// ran reports whether the process ran in the present or last run.
func (c *Container) ran() bool {
	return c.Status.GetState() == tetherv1.State_RUNNING || c.Status.GetState() == tetherv1.State_EXITED
}

// started reports whether the container was ever started, with success or without. What becomes of a fork before its gate
// was opened is no start.
func (c *Container) started() bool {
	if c.shut() {
		return c.ran()
	}
	return c.Status != nil || c.Ended != nil
}

// State is the container's state in Docker's terms.
func (c *Container) State() container.ContainerState {
	switch {
	case c.VM.PowerState == vsphere.Suspended:
		return container.StatePaused
	case c.Running():
		return container.StateRunning
	case !c.started(), c.Status.GetState() == tetherv1.State_FAILED:
		return container.StateCreated // as Docker has it when the process could not be started
	default:
		return container.StateExited
	}
}

// ExitCode is the exit code of the last run; 0 while it runs or before.
func (c *Container) ExitCode() int {
	switch {
	case c.Running() || !c.started():
		return 0
	case c.Status.GetState() == tetherv1.State_EXITED:
		return int(c.Status.GetExit().GetCode())
	case c.Status.GetState() == tetherv1.State_FAILED:
		return failureCode(c.Status.GetFailure())
	case c.Status.GetState() == tetherv1.State_RUNNING:
		return exitKilled
	default:
		return exitUnknown
	}
}

// Trouble says for people why the container is not as it should be; empty: nothing is wrong.
func (c *Container) Trouble() string {
	switch {
	case c.Running() || !c.started() || c.Status.GetState() == tetherv1.State_EXITED:
		return ""
	case c.Status.GetState() == tetherv1.State_FAILED:
		return c.failure()
	case c.Ended == nil:
		return "the machine was powered off"
	case c.ran():
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
	if c.Running() || !c.started() {
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

// run identifies what the present or last run has said: it differs between any two runs that were seen to end.
func run(vm vsphere.VM) string { return vm.Extra[link.KeyStatus] + "\x00" + vm.Extra[keyExit] }
