package container

import (
	"maps"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"github.com/containervm/containervm/controller/internal/image"
)

// merge fills what a request leaves open from the image's configuration, by Docker's rules: an entrypoint of the
// request's own drops the image's command; lists of names are united, the request's values win.
func merge(c *container.Config, img image.Image) {
	from := img.Docker.Config
	fill(&c.User, from.User)
	fill(&c.WorkingDir, from.WorkingDir)
	fill(&c.StopSignal, from.StopSignal)
	if len(c.Entrypoint) == 0 {
		if len(c.Cmd) == 0 {
			c.Cmd = from.Cmd
		}
		if c.Entrypoint == nil {
			c.Entrypoint = from.Entrypoint
		}
	}
	if len(c.Entrypoint) == 1 && c.Entrypoint[0] == "" {
		c.Entrypoint = nil // "no entrypoint" as the command line can say it
	}
	c.Env = mergeEnv(c.Env, from.Env)
	c.Labels = union(c.Labels, from.Labels)
	c.Volumes = union(c.Volumes, from.Volumes)
	c.Healthcheck = inheritHealth(c.Healthcheck, from.Healthcheck)
	if c.Shell == nil {
		c.Shell = from.Shell
	}
	for text := range from.ExposedPorts {
		if port, err := network.ParsePort(text); err == nil { // an image's nonsense is not the request's fault
			c.ExposedPorts = union(c.ExposedPorts, network.PortSet{port: {}})
		}
	}
}

func fill(s *string, from string) {
	if *s == "" {
		*s = from
	}
}

// union adds the entries of from that m lacks.
func union[K comparable, V any](m, from map[K]V) map[K]V {
	all := maps.Clone(from)
	if all == nil {
		all = map[K]V{}
	}
	maps.Copy(all, m)
	return all
}

// mergeEnv appends the image's variables that the request does not mention.
func mergeEnv(env, from []string) []string {
	mentioned := map[string]bool{}
	for _, kv := range env {
		k, _, _ := strings.Cut(kv, "=")
		mentioned[k] = true
	}
	for _, kv := range from {
		if k, _, _ := strings.Cut(kv, "="); !mentioned[k] {
			env = append(env, kv)
		}
	}
	return env
}
