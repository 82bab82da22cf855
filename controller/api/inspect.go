package api

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	ctr "github.com/containervm/containervm/controller/internal/container"
	"github.com/containervm/containervm/controller/internal/guest"
	"github.com/containervm/containervm/hostd-bridge/hostapi"
)

// platform of every container.
const platform = "linux"

func (a *containerAPI) inspect(w http.ResponseWriter, r *http.Request) error {
	c, err := a.containers.Get(r.PathValue("id"))
	if err != nil {
		return err
	}
	answer := inspection{InspectResponse: describe(c), Fork: forkInfo(a.containers.Fork(c))}
	answer.ExecIDs = a.execs.IDs(c.ID)
	if boolParam(r, "size") {
		own, all, err := a.containers.DiskUse(r.Context(), c)
		if err != nil {
			return err
		}
		answer.SizeRw, answer.SizeRootFs = &own, &all
	}
	return writeJSON(w, http.StatusOK, answer)
}

// inspection is Docker's answer with a key of our own.
type inspection struct {
	container.InspectResponse
	Fork forkAnswer
}

func describe(c ctr.Container) container.InspectResponse {
	args := append(append([]string{}, c.Config.Entrypoint...), c.Config.Cmd...)
	return container.InspectResponse{
		ID: c.ID, Created: c.Created.Format(time.RFC3339Nano), Path: args[0], Args: args[1:],
		State: state(c), Image: c.ImageID.String(), Name: "/" + c.Name, Driver: "vmdk", Platform: platform,
		LogPath: path.Join(c.ID, hostapi.LogFile), HostConfig: &c.HostConfig, Config: &c.Config,
		Mounts:          c.MountPoints(),
		NetworkSettings: &container.NetworkSettings{Ports: network.PortMap{}, Networks: endpoints(c)},
	}
}

func state(c ctr.Container) *container.State {
	s := &container.State{
		Status: c.State(), Running: c.Running(), Paused: c.State() == container.StatePaused,
		OOMKilled: c.OOMKilled(), ExitCode: c.ExitCode(), Error: guest.Printable(c.Trouble()),
		StartedAt: c.StartedAt().UTC().Format(time.RFC3339Nano), FinishedAt: c.FinishedAt().UTC().Format(time.RFC3339Nano),
	}
	if s.Running {
		s.Pid = int(c.Status.GetPid())
	}
	return s
}

// endpoints is the container's place in the network.
func endpoints(c ctr.Container) map[string]*network.EndpointSettings {
	if c.HostConfig.NetworkMode.IsNone() {
		return map[string]*network.EndpointSettings{"none": {NetworkID: networkID("none")}}
	}
	e := &network.EndpointSettings{NetworkID: networkID("bridge")}
	if c.Running() {
		prefix := netip.MustParsePrefix(hostapi.GuestAddress)
		e.IPAddress, e.IPPrefixLen, e.Gateway = prefix.Addr(), prefix.Bits(), netip.MustParseAddr(hostapi.Gateway)
	}
	return map[string]*network.EndpointSettings{"bridge": e}
}

func (a *containerAPI) list(w http.ResponseWriter, r *http.Request) error {
	f, err := readFilters(r, "status", "name", "id", "label", "label!", "ancestor", "exited", "before", "since", "health",
		"network", "volume", "publish", "expose", "isolation", "is-task")
	if err != nil {
		return err
	}
	limit, err := intParam(r, "limit", 0)
	if err != nil {
		return err
	}
	choose, err := a.listFilter(f)
	if err != nil {
		return err
	}
	all := boolParam(r, "all") || limit > 0 || len(f["status"]) > 0 || len(f["exited"]) > 0
	out := []container.Summary{}
	for _, c := range a.containers.All() {
		if (!all && !c.Running()) || !choose(c) || (limit > 0 && len(out) >= limit) {
			continue
		}
		line := summarize(c, time.Now())
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

// listFilter returns what chooses containers for a list.
func (a *containerAPI) listFilter(f filters) (func(ctr.Container) bool, error) {
	for _, s := range f["status"] {
		if err := container.ValidateContainerState(container.ContainerState(s)); err != nil {
			return nil, invalid("invalid filter 'status=%s'", s)
		}
	}
	for _, s := range f["exited"] {
		if _, err := strconv.Atoi(s); err != nil {
			return nil, invalid("invalid filter 'exited=%s': must be a number", s)
		}
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
		f.match("name", func(v string) bool {
			return strings.Contains("/"+c.Name, strings.Trim(v, "^$")) && exactName(v, c.Name)
		}) &&
		f.match("id", func(v string) bool { return strings.HasPrefix(c.ID, v) }) &&
		f.match("exited", func(v string) bool { return c.State() == container.StateExited && strconv.Itoa(c.ExitCode()) == v }) &&
		f.match("ancestor", func(v string) bool { return isImage(c, v) }) &&
		f.match("network", func(v string) bool { _, ok := endpoints(c)[v]; return ok }) &&
		f.match("health", func(v string) bool { return v == string(container.NoHealthcheck) }) &&
		f.match("isolation", func(string) bool { return false }) &&
		f.match("is-task", func(v string) bool { return v == "false" }) &&
		f.match("volume", c.HasVolume) &&
		f.match("publish", func(string) bool { return false }) &&
		f.match("expose", func(v string) bool { return exposes(c, v) })
}

// exactName honours the anchors of "^/?name$", which scripts use to name exactly one container.
func exactName(pattern, name string) bool {
	bare := strings.TrimPrefix(strings.Trim(pattern, "^$"), "/")
	return (!strings.HasPrefix(pattern, "^") || strings.HasPrefix(name, bare)) &&
		(!strings.HasSuffix(pattern, "$") || strings.HasSuffix(name, bare))
}

func isImage(c ctr.Container, ref string) bool {
	id := strings.TrimPrefix(ref, "sha256:")
	return c.Config.Image == ref || c.Config.Image == ref+":latest" || c.Config.Image+":latest" == ref ||
		len(id) >= 4 && strings.HasPrefix(c.ImageID.Encoded(), id)
}

func exposes(c ctr.Container, port string) bool {
	p, err := network.ParsePort(port)
	_, ok := c.Config.ExposedPorts[p]
	return err == nil && ok
}

func summarize(c ctr.Container, now time.Time) container.Summary {
	s := container.Summary{
		ID: c.ID, Names: []string{"/" + c.Name}, Image: c.Config.Image, ImageID: c.ImageID.String(), Command: command(c),
		Created: c.Created.Unix(), Labels: c.Config.Labels, State: c.State(), Status: status(c, now), Ports: []container.PortSummary{},
		NetworkSettings: &container.NetworkSettingsSummary{Networks: endpoints(c)}, Mounts: c.MountPoints(),
	}
	s.HostConfig.NetworkMode = string(c.HostConfig.NetworkMode)
	for p := range c.Config.ExposedPorts {
		s.Ports = append(s.Ports, container.PortSummary{PrivatePort: p.Num(), Type: string(p.Proto())})
	}
	slices.SortFunc(s.Ports, func(a, b container.PortSummary) int { return int(a.PrivatePort) - int(b.PrivatePort) })
	return s
}

// command is a container's command line as a list shows it: arguments with blanks are quoted.
func command(c ctr.Container) string {
	args := append(append([]string{}, c.Config.Entrypoint...), c.Config.Cmd...)
	for i, a := range args {
		if strings.ContainsAny(a, " \t\n") {
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
			return "Up Less than a second"
		}
		return "Up " + units.HumanDuration(now.Sub(c.StartedAt()))
	case container.StatePaused:
		return "Up (Paused)"
	case container.StateCreated:
		return "Created"
	default:
		ago := ""
		if at := c.FinishedAt(); !at.IsZero() {
			ago = " " + units.HumanDuration(now.Sub(at)) + " ago"
		}
		return fmt.Sprintf("Exited (%d)%s", c.ExitCode(), ago)
	}
}

// withTimeout is the context of a stream that ends at a time; zero: never.
func withTimeout(ctx context.Context, at time.Time) (context.Context, context.CancelFunc) {
	if at.IsZero() {
		return context.WithCancel(ctx)
	}
	return context.WithDeadline(ctx, at)
}
