package api

import (
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	ctr "github.com/containervm/containervm/controller/internal/container"
)

func (a *containerAPI) list(w http.ResponseWriter, r *http.Request) error {
	f, err := readFilters(r)
	if err != nil {
		return err
	}
	limit, err := intParam(r, "limit", 0)
	if err != nil {
		return err
	}
	choose, err := a.listFilter(withBounds(f, r))
	if err != nil {
		return err
	}
	all := boolParam(r, "all") || limit > 0 || len(f["status"]) > 0 || len(f["exited"]) > 0
	out := []container.Summary{}
	for _, c := range a.containers.All() {
		if (!all && !c.Active()) || !choose(c) || (limit > 0 && len(out) >= limit) {
			continue
		}
		line := summarize(c, time.Now())
		if !atLeast(r.Context(), "1.52") {
			line.Health = nil
		}
		if boolParam(r, "size") {
			line.SizeRw, line.SizeRootFs, err = a.containers.DiskUse(r.Context(), c)
		}
		if errdefs.IsNotFound(err) {
			continue // removed meanwhile
		}
		if err != nil {
			return err
		}
		out = append(out, line)
	}
	return writeJSON(w, http.StatusOK, out)
}

// withBounds adds the parameters since and before, which docker-py sends, to the filters by those names.
func withBounds(f filters, r *http.Request) filters {
	all := filters{}
	maps.Copy(all, f)
	for _, name := range []string{"since", "before"} {
		if v := param(r, name); v != "" {
			all[name] = append(slices.Clone(all[name]), v)
		}
	}
	return all
}

// listFilter returns what chooses containers for a list.
func (a *containerAPI) listFilter(f filters) (func(ctr.Container) bool, error) {
	for _, s := range f["status"] {
		if err := container.ValidateContainerState(container.ContainerState(s)); err != nil {
			return nil, invalid("invalid filter 'status=%s'", s)
		}
	}
	for _, s := range f["health"] {
		if err := container.ValidateHealthStatus(container.HealthStatus(s)); err != nil {
			return nil, invalid("Unrecognised filter value for health: %s", s)
		}
	}
	for _, s := range f["exited"] {
		if _, err := strconv.Atoi(s); err != nil {
			return nil, invalid("invalid filter 'exited=%s': must be a number", s)
		}
	}
	if err := checkPortFilters(f); err != nil {
		return nil, err
	}
	bounds := func(name string, fits func(other, c ctr.Container) bool) (func(ctr.Container) bool, error) {
		if len(f[name]) == 0 {
			return func(ctr.Container) bool { return true }, nil
		}
		other, err := a.containers.Get(f[name][0])
		return func(c ctr.Container) bool { return fits(other, c) }, err
	}
	before, err := bounds("before", func(other, c ctr.Container) bool { return c.Created.Before(other.Created) })
	if err != nil {
		return nil, err
	}
	since, err := bounds("since", func(other, c ctr.Container) bool { return c.Created.After(other.Created) })
	if err != nil {
		return nil, err
	}
	return func(c ctr.Container) bool { return before(c) && since(c) && matches(f, c) }, nil
}

func matches(f filters, c ctr.Container) bool {
	return f.matchLabels(c.Config.Labels) &&
		f.match("status", func(v string) bool { return string(c.State()) == v }) &&
		f.match("name", func(v string) bool { return fitsText(v, c.Name) || fitsText(v, "/"+c.Name) }) &&
		f.match("id", func(v string) bool { return fitsText(v, c.ID) }) &&
		f.match("exited", func(v string) bool { return c.State() == container.StateExited && strconv.Itoa(c.ExitCode()) == v }) &&
		f.match("ancestor", func(v string) bool { return isImage(c, v) }) &&
		f.match("network", func(v string) bool { return inNetwork(c, v) }) &&
		f.match("health", func(v string) bool { return v == string(c.HealthStatus()) }) &&
		f.match("isolation", func(string) bool { return false }) &&
		f.match("is-task", func(v string) bool { return v == "false" }) &&
		f.match("volume", c.HasVolume) &&
		matchPorts(f, c)
}

// inNetwork reports whether a container is in the network with a name, or with an ID that begins so.
func inNetwork(c ctr.Container, ref string) bool {
	for name, e := range c.Networks() {
		if name == ref || ref != "" && strings.HasPrefix(e.NetworkID, ref) {
			return true
		}
	}
	return false
}

// matchPorts reports whether a container has one of the ports that are asked for: published ones by the host's number, exposed ones by its
// own. As Docker has it, one of either is enough.
func matchPorts(f filters, c ctr.Container) bool {
	if len(f["publish"])+len(f["expose"]) == 0 {
		return true
	}
	within := func(values []string, number uint16, proto string) bool {
		return slices.ContainsFunc(values, func(v string) bool {
			ports, err := network.ParsePortRange(v)
			return err == nil && ports.Start() <= number && number <= ports.End() && string(ports.Proto()) == proto
		})
	}
	return slices.ContainsFunc(portSummaries(c), func(p container.PortSummary) bool {
		return within(f["publish"], p.PublicPort, p.Type) || within(f["expose"], p.PrivatePort, p.Type)
	})
}

// checkPortFilters refuses what is no port or range of ports.
func checkPortFilters(f filters) error {
	for _, key := range []string{"publish", "expose"} {
		for _, v := range f[key] {
			if strings.Contains(v, ":") {
				return invalid("filter for '%s' should not contain ':': %s", key, v)
			}
			if _, err := network.ParsePortRange(v); err != nil {
				return invalid("error while looking up for %s %s: %v", key, v, err)
			}
		}
	}
	return nil
}

func isImage(c ctr.Container, ref string) bool {
	id := strings.TrimPrefix(ref, "sha256:")
	return c.Config.Image == ref || c.Config.Image == ref+":latest" || c.Config.Image+":latest" == ref ||
		len(id) >= 4 && strings.HasPrefix(c.ImageID.Encoded(), id)
}

func summarize(c ctr.Container, now time.Time) container.Summary {
	s := container.Summary{
		ID: c.ID, Names: []string{"/" + c.Name}, Image: c.Config.Image, ImageID: c.ImageID.String(), Command: command(c),
		Created: c.Created.Unix(), Labels: c.Config.Labels, State: c.State(), Status: status(c, now), Ports: portSummaries(c),
		NetworkSettings: &container.NetworkSettingsSummary{Networks: summarizeNetworks(c)}, Mounts: c.MountPoints(),
	}
	s.Health = &container.HealthSummary{Status: c.HealthStatus()}
	if h := c.Health(); h != nil {
		s.Health.FailingStreak = h.FailingStreak
	}
	s.HostConfig.NetworkMode = string(c.HostConfig.NetworkMode)
	return s
}

// portSummaries are a container's ports as a list shows them, by number.
func portSummaries(c ctr.Container) []container.PortSummary {
	all := []container.PortSummary{}
	for port, bindings := range c.Ports() {
		if len(bindings) == 0 {
			all = append(all, container.PortSummary{PrivatePort: port.Num(), Type: string(port.Proto())})
		}
		for _, b := range bindings {
			public, _ := strconv.ParseUint(b.HostPort, 10, 16) // it was made of a number
			all = append(all, container.PortSummary{IP: b.HostIP, PrivatePort: port.Num(), PublicPort: uint16(public), Type: string(port.Proto())})
		}
	}
	slices.SortFunc(all, func(a, b container.PortSummary) int {
		return cmp.Or(cmp.Compare(a.PrivatePort, b.PrivatePort), cmp.Compare(a.Type, b.Type), a.IP.Compare(b.IP), cmp.Compare(a.PublicPort, b.PublicPort))
	})
	return all
}

// summarizeNetworks is a container's place in its networks as a list shows it: what it is, not what it was asked to be.
func summarizeNetworks(c ctr.Container) map[string]*network.EndpointSettings {
	networks := c.Networks()
	for _, e := range networks {
		e.Links, e.Aliases, e.DNSNames, e.DriverOpts = nil, nil, nil, nil
	}
	return networks
}

// command is a container's command line as a list shows it: arguments with blanks are in quotes, the program and other white
// space are not, as in Docker.
func command(c ctr.Container) string {
	args := append(append([]string{}, c.Config.Entrypoint...), c.Config.Cmd...)
	for i, a := range args {
		if i > 0 && strings.Contains(a, " ") {
			args[i] = "'" + a + "'"
		}
	}
	return strings.Join(args, " ")
}

// status is a sentence on how long a container has been what it is, in Docker's words.
func status(c ctr.Container, now time.Time) string {
	switch c.State() {
	case container.StateRunning:
		if c.StartedAt().IsZero() {
			return "Up Less than a second" + healthText(c)
		}
		return "Up " + units.HumanDuration(now.Sub(c.StartedAt())) + healthText(c)
	case container.StatePaused:
		return "Up " + units.HumanDuration(now.Sub(c.StartedAt())) + " (Paused)"
	case container.StateCreated:
		return "Created"
	case container.StateRemoving:
		return "Removal In Progress"
	case container.StateRestarting:
		return fmt.Sprintf("Restarting (%d)%s", c.ExitCode(), since(c.FinishedAt(), now))
	default:
		return fmt.Sprintf("Exited (%d)%s", c.ExitCode(), since(c.FinishedAt(), now))
	}
}

// healthText is what a list says of a container's health behind how long it has run.
func healthText(c ctr.Container) string {
	switch s := c.HealthStatus(); s {
	case container.NoHealthcheck:
		return ""
	case container.Starting:
		return " (health: starting)"
	default:
		return " (" + string(s) + ")"
	}
}

// since says behind a blank how long ago a moment was; nothing of one that is not known.
func since(at, now time.Time) string {
	if at.IsZero() {
		return ""
	}
	return " " + units.HumanDuration(now.Sub(at)) + " ago"
}
