package container

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"github.com/containervm/containervm/controller/internal/record"
	"github.com/containervm/containervm/controller/internal/vsphere"
)

// Waits before restarts: Docker's (reference of docker run, "Restart policies"). Each is twice the one before, until a container has run for
// some time.
const (
	restartFirst = 100 * time.Millisecond
	restartMost  = time.Minute
	restartReset = 10 * time.Second
)

// Restarting reports whether the container has ended and is to be restarted by its policy. It follows from the VM alone.
func (c *Container) Restarting() bool {
	return c.died() && !c.restart.Stopped && !c.restart.Over && c.wantsRestart()
}

// ComesBack reports whether the container waits for its restart, or is being brought up for it: Docker calls it "restarting" until its process
// runs again.
func (c *Container) ComesBack() bool {
	return c.Restarting() || c.Phase() == PhaseStarting && c.restart.Count > 0 && !c.restart.Stopped && !c.restart.Over
}

// died reports whether the container's process has run and ended, with its machine.
func (c *Container) died() bool {
	return c.gone() && c.Ran() && c.Phase() != PhaseFailed
}

// wantsRestart reports whether the policy asks for a restart after the end of the last run.
func (c *Container) wantsRestart() bool {
	p := c.HostConfig.RestartPolicy
	switch {
	case p.IsAlways(), p.IsUnlessStopped():
		return true
	case p.IsOnFailure():
		return c.ExitCode() != 0 && (p.MaximumRetryCount == 0 || c.restart.Count < p.MaximumRetryCount)
	default:
		return false
	}
}

// wantsRevival reports whether the policy asks for a start when the engine starts and finds the container ended. As in Docker, one that was
// stopped by hand stays so with the policy unless-stopped alone, and one that was never started stays as it is.
func (c *Container) wantsRevival() bool {
	startedBefore := c.died() || c.gone() && (c.restart.Over || c.restart.Count > 0)
	return startedBefore && c.wantsRestart() && !(c.restart.Stopped && c.HostConfig.RestartPolicy.IsUnlessStopped())
}

// nextRestart is what is recorded of the next restart: how many there were with it, and how long it waits.
func (c *Container) nextRestart() record.Restart {
	r := record.Restart{Count: c.restart.Count + 1, Delay: restartFirst}
	ran := c.FinishedAt().Sub(c.StartedAt())
	if c.restart.Delay > 0 && (ran < restartReset || c.StartedAt().IsZero()) {
		r.Delay = min(2*c.restart.Delay, restartMost)
	}
	return r
}

// addRestart adds to a change of the VM how the restart policy stands from then on.
func (c *Container) addRestart(change *vsphere.Change, r record.Restart) {
	if c.restart != r {
		change.Extra[record.KeyRestart] = r.Encode()
	}
}

// RestartCount is Docker's: restarts by the policy since someone started the container, and the one that is about to come.
func (c *Container) RestartCount() int {
	if c.Restarting() {
		return c.restart.Count + 1
	}
	return c.restart.Count
}

// Active reports whether the container runs, or is about to by its policy: Docker says of both that they run.
func (c *Container) Active() bool { return c.Running() || c.Restarting() }

// hasPolicy reports whether the container is restarted in some case.
func (c *Container) hasPolicy() bool { return !c.HostConfig.RestartPolicy.IsNone() }

// setPolicy gives a container another restart policy, and returns the container with it. One that has ended is not restarted by a policy that it
// gets then.
func (s *Service) setPolicy(ctx context.Context, id string, policy container.RestartPolicy) (Container, error) {
	if err := container.ValidateRestartPolicy(policy); err != nil {
		return Container{}, invalid("%v", err)
	}
	release, err := s.AcquireStart(ctx, id)
	if err != nil {
		return Container{}, err
	}
	defer release()
	c, err := s.Get(id)
	if err != nil {
		return c, err
	}
	if c.HostConfig.AutoRemove && !policy.IsNone() {
		return c, errdefs.ErrConflict.WithMessage(fmt.Sprintf(
			"Cannot update container %s: Restart policy cannot be updated because AutoRemove is enabled for the container", c.ID))
	}
	r := c.restart
	r.Over = r.Over || c.gone() && !c.Restarting()
	r.Stopped = r.Stopped || s.starts.isStopping(id)
	rec := c.Container
	rec.HostConfig.RestartPolicy = policy
	text, err := rec.Encode()
	if err != nil {
		return c, err
	}
	if err := s.host.Reconfigure(context.WithoutCancel(ctx), c.VM.Ref, map[string]string{record.KeyContainer: text, record.KeyRestart: r.Encode()}); err != nil {
		return c, err
	}
	return s.Get(id)
}
