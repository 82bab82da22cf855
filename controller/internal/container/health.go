package container

import (
	"time"

	"github.com/moby/moby/api/types/container"

	"github.com/containervm/containervm/internal/printable"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// First words of a health check's Test.
const (
	testNone    = "NONE"      // no check, whatever the image says
	testCommand = "CMD"       // a program and its arguments
	testShell   = "CMD-SHELL" // a command of the image's shell
)

// inheritHealth fills what a request's health check leaves open from the image's, field by field, by Docker's rules.
func inheritHealth(h, from *container.HealthConfig) *container.HealthConfig {
	if h == nil || from == nil {
		if h == nil {
			return from
		}
		return h
	}
	own := *h
	if len(own.Test) == 0 {
		own.Test = from.Test
	}
	for d, usual := range map[*time.Duration]time.Duration{
		&own.Interval: from.Interval, &own.Timeout: from.Timeout, &own.StartPeriod: from.StartPeriod, &own.StartInterval: from.StartInterval,
	} {
		if *d == 0 {
			*d = usual
		}
	}
	if own.Retries == 0 {
		own.Retries = from.Retries
	}
	return &own
}

// checkHealth refuses what is no health check. But for the last two the words are Docker's, which makes no checks in those cases.
func checkHealth(h *container.HealthConfig) error {
	if h == nil {
		return nil
	}
	for _, d := range []struct {
		name string
		d    time.Duration
	}{{"Interval", h.Interval}, {"Timeout", h.Timeout}, {"StartPeriod", h.StartPeriod}, {"StartInterval", h.StartInterval}} {
		if d.d != 0 && d.d < container.MinimumDuration {
			return invalid("%s in Healthcheck cannot be less than %v", d.name, container.MinimumDuration)
		}
	}
	switch {
	case h.Retries < 0:
		return invalid("Retries in Healthcheck cannot be negative")
	case len(h.Test) == 0, h.Test[0] == testNone:
		return nil
	case h.Test[0] != testCommand && h.Test[0] != testShell:
		return invalid("unknown kind of health check %q: want CMD, CMD-SHELL or NONE; --no-healthcheck makes none", h.Test[0])
	case len(h.Test) == 1:
		return invalid("a health check of kind %s needs a command; --no-healthcheck makes none", h.Test[0])
	}
	return nil
}

// checksHealth reports whether a container's health is checked.
func checksHealth(c *container.Config) bool {
	h := c.Healthcheck
	return h != nil && len(h.Test) > 1 && h.Test[0] != testNone
}

// tetherHealth says how the tether is to check a container's health: by a process like the main one, without a terminal; nil: not at all.
func tetherHealth(c *container.Config, h *container.HostConfig) *tetherv1.Health {
	if !checksHealth(c) {
		return nil
	}
	p := mainProcess(c, h)
	p.Args, p.Tty, p.Stdin, p.Window = c.Healthcheck.Test[1:], false, false, nil
	p.Env = environment(c.Hostname, false, c.Env)
	if c.Healthcheck.Test[0] == testShell {
		shell := c.Shell
		if len(shell) == 0 {
			shell = []string{"/bin/sh", "-c"}
		}
		p.Args = append(append([]string{}, shell...), p.Args...)
	}
	check := c.Healthcheck
	return &tetherv1.Health{
		Process: p, Interval: int64(check.Interval), Timeout: int64(check.Timeout), StartPeriod: int64(check.StartPeriod),
		StartInterval: int64(check.StartInterval), Retries: uint32(check.Retries),
	}
}

// Health is what the checks of a container's health have found; nil: there are none, or it has never run. As Docker has it, a container that
// has ended is unhealthy.
func (c *Container) Health() *container.Health {
	if !checksHealth(&c.Config) || !c.Started() && !c.Running() {
		return nil
	}
	h := &container.Health{Status: container.Starting, FailingStreak: int(c.health.GetFailingStreak()), Log: []*container.HealthcheckResult{}}
	switch {
	case !c.Running():
		h.Status = container.Unhealthy
	case c.health.GetState() == tetherv1.HealthStatus_HEALTHY:
		h.Status = container.Healthy
	case c.health.GetState() == tetherv1.HealthStatus_UNHEALTHY:
		h.Status = container.Unhealthy
	}
	results := c.health.GetResults()
	for _, r := range results[max(0, len(results)-maxHealthLog):] {
		h.Log = append(h.Log, &container.HealthcheckResult{
			Start: time.Unix(0, r.GetStartUnixNano()).UTC(), End: time.Unix(0, r.GetEndUnixNano()).UTC(),
			ExitCode: int(r.GetExitCode()), Output: printable.Text(r.GetOutput()),
		})
	}
	return h
}

// maxHealthLog is how many results are shown: as many as Docker shows and a tether tells, whatever a guest sends.
const maxHealthLog = 5

// HealthStatus is the word for the container's health: "none" without checks.
func (c *Container) HealthStatus() container.HealthStatus {
	if h := c.Health(); h != nil {
		return h.Status
	}
	return container.NoHealthcheck
}
