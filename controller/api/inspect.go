package api

import (
	"context"
	"net/http"
	"path"
	"slices"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/storage"

	ctr "github.com/containervm/containervm/controller/internal/container"
	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/internal/printable"
)

const (
	platform      = "linux" // of every container
	storageDriver = "vmdk"  // a container's root is a disk of its VM
)

func (a *containerAPI) inspect(w http.ResponseWriter, r *http.Request) error {
	c, err := a.containers.Get(r.PathValue("id"))
	if err != nil {
		return err
	}
	answer := inspection{InspectResponse: describe(r.Context(), c), Fork: forkInfo(a.containers.Fork(c)), Clock: c.Clock()}
	answer.ExecIDs = a.execs.IDs(c.ID)
	if boolParam(r, "size") {
		own, all, err := a.containers.DiskUse(r.Context(), c)
		if err != nil {
			return err
		}
		answer.SizeRw, answer.SizeRootFs = &own, &all
	}
	if atLeast(r.Context(), "1.52") {
		return writeJSON(w, http.StatusOK, answer)
	}
	old, err := withFields(answer, obsoleteFields(r.Context(), c))
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, old)
}

// obsoleteFields are those that an inspection had until version 1.52 of the API: the place in the network bridge, and the MAC address that
// was asked for in that of the network mode. Clients of those versions look for all of them, so that they are there when they say nothing.
func obsoleteFields(ctx context.Context, c ctr.Container) map[string]map[string]any {
	e := c.Networks()[network.NetworkBridge]
	if e == nil {
		e = &network.EndpointSettings{}
	}
	all := map[string]map[string]any{
		"NetworkSettings": {
			"EndpointID": e.EndpointID, "Gateway": e.Gateway, "GlobalIPv6Address": e.GlobalIPv6Address, "GlobalIPv6PrefixLen": e.GlobalIPv6PrefixLen,
			"IPAddress": e.IPAddress, "IPPrefixLen": e.IPPrefixLen, "IPv6Gateway": e.IPv6Gateway, "MacAddress": e.MacAddress,
			"Bridge": "", "HairpinMode": false, "LinkLocalIPv6Address": "", "LinkLocalIPv6PrefixLen": 0,
			"SecondaryIPAddresses": nil, "SecondaryIPv6Addresses": nil,
		},
		"Config": {"OnBuild": c.Config.OnBuild},
	}
	if mac := c.WantedMAC(); mac != "" {
		all["Config"]["MacAddress"] = mac
	}
	if !atLeast(ctx, "1.42") {
		all["HostConfig"] = map[string]any{"KernelMemory": 0, "KernelMemoryTCP": 0}
	}
	return all
}

// inspection is Docker's answer with keys of our own.
type inspection struct {
	container.InspectResponse
	Fork  forkAnswer
	Clock *ctr.Clock
}

func describe(ctx context.Context, c ctr.Container) container.InspectResponse {
	args := append(append([]string{}, c.Config.Entrypoint...), c.Config.Cmd...)
	host, config := c.InForce(), c.Config
	if len(config.Volumes) == 0 {
		config.Volumes = nil // as in Docker
	}
	return container.InspectResponse{
		ID: c.ID, Created: c.Created.Format(time.RFC3339Nano), Path: args[0], Args: args[1:],
		State: state(c), Image: c.ImageID.String(), Name: "/" + c.Name, Driver: storageDriver, Platform: platform,
		RestartCount: c.RestartCount(), LogPath: path.Join(c.ID, hostapi.LogFile), HostConfig: &host, Config: &config,
		GraphDriver:     &storage.DriverData{Name: storageDriver, Data: map[string]string{"Disk": path.Join(c.ID, hostapi.RootDisk)}},
		Mounts:          c.MountPoints(),
		NetworkSettings: networkSettings(ctx, c),
	}
}

// networkSettings says where a container is in its networks. Its sandbox is its machine.
func networkSettings(ctx context.Context, c ctr.Container) *container.NetworkSettings {
	s := &container.NetworkSettings{Ports: c.Ports(), Networks: c.Networks()}
	if c.Running() {
		s.SandboxID = c.ID
	}
	if atLeast(ctx, "1.45") {
		return s
	}
	for name, e := range s.Networks { // aliases were the names that a container is found by
		for _, own := range []string{c.ID[:12], c.Config.Hostname} {
			if container.NetworkMode(name).IsUserDefined() && !slices.Contains(e.Aliases, own) {
				e.Aliases = append(e.Aliases, own)
			}
		}
	}
	return s
}

func state(c ctr.Container) *container.State {
	s := &container.State{
		Status: c.State(), Running: c.Active(), Restarting: c.ComesBack(), Paused: c.State() == container.StatePaused,
		OOMKilled: c.OOMKilled(), ExitCode: c.ExitCode(), Error: printable.Text(c.Trouble()),
		StartedAt: c.StartedAt().UTC().Format(time.RFC3339Nano), FinishedAt: c.FinishedAt().UTC().Format(time.RFC3339Nano),
	}
	s.Health = c.Health()
	if c.Running() {
		s.Pid = int(c.Status.GetPid())
	}
	return s
}

// withTimeout is the context of a stream that ends at a time; zero: never.
func withTimeout(ctx context.Context, at time.Time) (context.Context, context.CancelFunc) {
	if at.IsZero() {
		return context.WithCancel(ctx)
	}
	return context.WithDeadline(ctx, at)
}
