package container

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"

	"github.com/containervm/containervm/controller/internal/record"
	"github.com/containervm/containervm/controller/internal/signal"
	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// defaultPath is Docker's PATH for an image that sets none.
const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// tetherSpec says what a container's tether is to do.
func tetherSpec(id string, rec *record.Container) (*tetherv1.Spec, error) {
	c, h := &rec.Config, &rec.HostConfig
	stop, err := stopSignal(c)
	if err != nil {
		return nil, invalid("%v", err)
	}
	hosts, err := hostEntries(h.ExtraHosts)
	if err != nil {
		return nil, err
	}
	spec := &tetherv1.Spec{
		Mode:             tetherv1.Mode_CONTAINER,
		Id:               id,
		Hostname:         c.Hostname,
		Domainname:       c.Domainname,
		Hosts:            hosts,
		ReadOnlyRoot:     h.ReadonlyRootfs,
		StopGraceSeconds: uint32(stopSeconds(c)),
		StopSignal:       stop,
		Process:          mainProcess(c, h),
		Mounts:           tetherMounts(rec),
		Files:            tetherFiles(rec),
	}
	if networked(rec) {
		spec.Interfaces = Interfaces()
		spec.Resolver = resolver(h)
	}
	return spec, nil
}

// Interfaces are the network cards of a container that has a network.
func Interfaces() []*tetherv1.Interface {
	return []*tetherv1.Interface{{Addresses: []string{hostapi.GuestAddress}, Gateway: hostapi.Gateway}}
}

// networked reports whether a container has a network card.
func networked(rec *record.Container) bool {
	return !rec.HostConfig.NetworkMode.IsNone() && !rec.Config.NetworkDisabled
}

func mainProcess(c *container.Config, h *container.HostConfig) *tetherv1.Process {
	p := &tetherv1.Process{
		Args: append(append([]string{}, c.Entrypoint...), c.Cmd...),
		Env:  environment(c.Hostname, c.Tty, c.Env),
		User: c.User, Groups: h.GroupAdd, Cwd: c.WorkingDir,
		Tty: c.Tty, Stdin: c.OpenStdin,
		Rlimits: Rlimits(h.Ulimits),
	}
	if h.ConsoleSize[0] > 0 && h.ConsoleSize[1] > 0 {
		p.Window = &tetherv1.Window{Rows: uint32(h.ConsoleSize[0]), Columns: uint32(h.ConsoleSize[1])}
	}
	return p
}

// Environment is that of a further process in the container.
func (c *Container) Environment(tty bool, set []string) []string {
	return override(environment(c.Config.Hostname, tty, c.Config.Env), set)
}

// environment is the process's environment in Docker's order: PATH, HOSTNAME, TERM for a terminal, then what image and
// request set, which replaces those in place. A variable without "=" is removed. HOME is the tether's: it knows the
// image's passwd.
func environment(hostname string, tty bool, set []string) []string {
	env := []string{defaultPath, "HOSTNAME=" + hostname}
	if tty {
		env = append(env, "TERM=xterm")
	}
	return override(env, set)
}

// override puts set over env: same names are replaced in place, names without "=" removed.
func override(env, set []string) []string {
	at := map[string]int{}
	for i, kv := range env {
		k, _, _ := strings.Cut(kv, "=")
		at[k] = i
	}
	for _, kv := range set {
		k, _, ok := strings.Cut(kv, "=")
		i, known := at[k]
		switch {
		case !ok && known:
			env[i] = ""
		case !ok:
		case known:
			env[i] = kv
		default:
			at[k] = len(env)
			env = append(env, kv)
		}
	}
	kept := env[:0]
	for _, kv := range env {
		if kv != "" {
			kept = append(kept, kv)
		}
	}
	return kept
}

func resolver(h *container.HostConfig) *tetherv1.Resolver {
	r := &tetherv1.Resolver{Search: h.DNSSearch, Options: h.DNSOptions}
	for _, a := range h.DNS {
		r.Nameservers = append(r.Nameservers, a.String())
	}
	if len(r.Nameservers) == 0 {
		r.Nameservers = []string{hostapi.Nameserver}
	}
	return r
}

// hostEntries reads --add-host: "name:address", also "name=address"; "host-gateway" is the host.
func hostEntries(extra []string) ([]*tetherv1.HostEntry, error) {
	var hosts []*tetherv1.HostEntry
	for _, e := range extra {
		name, address, ok := strings.Cut(e, ":")
		if n, a, eq := strings.Cut(e, "="); eq {
			name, address, ok = n, a, true
		}
		address = strings.Trim(address, "[]")
		if address == "host-gateway" {
			address = hostapi.Gateway
		}
		if _, err := netip.ParseAddr(address); !ok || name == "" || err != nil {
			return nil, invalid("bad format for add-host: %q", e)
		}
		hosts = append(hosts, &tetherv1.HostEntry{Address: address, Names: []string{name}})
	}
	return hosts, nil
}

// Rlimits are the resource limits of a process.
func Rlimits(limits []*units.Ulimit) []*tetherv1.Rlimit {
	var out []*tetherv1.Rlimit
	for _, l := range limits {
		out = append(out, &tetherv1.Rlimit{Name: l.Name, Soft: uint64(l.Soft), Hard: uint64(l.Hard)}) // -1 is RLIM_INFINITY
	}
	return out
}

// stopSignal is the signal that asks a container's process to end.
func stopSignal(c *container.Config) (int32, error) {
	if c.StopSignal == "" {
		return signal.Parse("TERM")
	}
	return signal.Parse(c.StopSignal)
}

// stopSeconds is how long the process may take to end; a negative value, for ever.
func stopSeconds(c *container.Config) int {
	if c.StopTimeout == nil {
		return link.DefaultStopGrace
	}
	return *c.StopTimeout
}

// String names a container for people.
func (c *Container) String() string { return fmt.Sprintf("container %s (%s)", c.ID[:12], c.Name) }
