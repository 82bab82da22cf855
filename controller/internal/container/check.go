package container

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"github.com/containervm/containervm/controller/internal/logconf"
	"github.com/containervm/containervm/controller/internal/signal"
)

func invalid(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}

func notImplemented(format string, args ...any) error {
	return errdefs.ErrNotImplemented.WithMessage(fmt.Sprintf(format, args...))
}

// runtimes are the values of HostConfig.Runtime: how a containerVM comes up.
var runtimes = []string{"", RuntimeFork, RuntimeBoot}

// Values of HostConfig.Runtime. Without one a container is forked when there is a template of its size, and boots else.
const (
	RuntimeFork = "fork" // it is forked, and waits for its template
	RuntimeBoot = "boot" // it boots
)

// check refuses what cannot be a container, and what would be another one than asked for.
func check(c *container.Config, h *container.HostConfig) error {
	switch {
	case len(c.Entrypoint)+len(c.Cmd) == 0:
		return invalid("no command specified")
	case c.WorkingDir != "" && !path.IsAbs(c.WorkingDir):
		return invalid("the working directory '%s' is invalid, it needs to be an absolute path", c.WorkingDir)
	case !slices.Contains(runtimes, h.Runtime):
		return invalid("unknown or invalid runtime name: %s", h.Runtime)
	case h.AutoRemove && !h.RestartPolicy.IsNone():
		return invalid("can't create 'AutoRemove' container with restart policy")
	}
	if _, err := signal.Parse(c.StopSignal); c.StopSignal != "" && err != nil {
		return invalid("%v", err)
	}
	for _, kv := range c.Env {
		if kv == "" || strings.HasPrefix(kv, "=") || strings.ContainsRune(kv, 0) {
			return invalid("invalid environment variable: %s", kv)
		}
	}
	if err := container.ValidateRestartPolicy(h.RestartPolicy); err != nil {
		return invalid("%v", err)
	}
	return cmp.Or(checkNames(c), checkHealth(c.Healthcheck), checkCPUs(&h.Resources), checkNamespaces(h), checkSecurity(h.SecurityOpt), checkSize(&h.Resources), checkLimits(h), logconf.Check(h.LogConfig))
}
