package main

import (
	"context"
	"time"

	"github.com/containervm/containervm/tether/internal/health"
	"github.com/containervm/containervm/tether/internal/process"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// pauseRequest asks the loop to stop the container's processes, or to let them go on.
type pauseRequest struct {
	resume bool
	done   chan<- error // has room for the answer
}

// pauseBy is the agent's way to pause: it asks the loop, which ends with the process.
func pauseBy(pauses chan<- pauseRequest, ended <-chan struct{}) func(context.Context, bool) error {
	return func(ctx context.Context, resume bool) error {
		done := make(chan error, 1)
		select {
		case pauses <- pauseRequest{resume: resume, done: done}:
			return <-done
		case <-ended:
			return process.ErrEnded
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// pause stops the container's processes, or lets them go on, and returns when the host has been told.
func (t *tether) pause(ctx context.Context, resume bool) error {
	i := t.instance
	if i.container.Stands(process.Paused) != resume {
		return nil
	}
	if resume {
		if err := i.container.Thaw(process.Paused); err != nil {
			return err
		}
	} else {
		i.restChecks(true)
		ctx, cancel := context.WithTimeout(ctx, freezeWait)
		defer cancel()
		if err := i.container.Freeze(ctx, process.Paused); err != nil {
			i.restChecks(false)
			return err
		}
	}
	t.setStatus(t.running())
	t.flush(ctx)
	if resume {
		i.restChecks(false)
	}
	return nil
}

// monitor begins to check the container's health, if its Spec wants that, until ctx ends.
func (t *tether) monitor(ctx context.Context) {
	spec := t.instance.spec.Health
	if spec.GetProcess() == nil {
		return
	}
	tell := func(s *tetherv1.HealthStatus) {
		text, err := link.EncodeHealth(s)
		if err != nil {
			t.console.Error("cannot report health", "err", err)
			return
		}
		t.reporter.Set(link.KeyHealth, text)
	}
	t.instance.health = health.New(spec, health.Of(t.instance.container, spec.Process, time.Duration(spec.Timeout)), tell)
	go t.instance.health.Run(ctx)
}

// restChecks has checks of the container's health rest, or go on.
func (i *instance) restChecks(on bool) {
	if i.health != nil {
		i.health.Rest(on)
	}
}
