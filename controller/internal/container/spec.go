package container

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"

	"github.com/containervm/containervm/controller/internal/record"
	"github.com/containervm/containervm/controller/internal/signal"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// defaultPath is Docker's PATH for an image that sets none.
const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// tetherSpec says what the tether of a container is to do that is this in its networks.
func tetherSpec(id string, rec *record.Container, endpoints []record.Endpoint, nameservers []netip.Addr) (*tetherv1.Spec, error) {
	c, h := &rec.Config, &rec.HostConfig
	stop, err := stopSignal(c)
	if err != nil {
		return nil, invalid("%v", err)
	}
	hosts, err := hostEntries(h.ExtraHosts, endpoints)
	if err != nil {
		return nil, err
	}
	spec := &tetherv1.Spec{
		Mode:             tetherv1.Mode_CONTAINER,
		Id:               id,
		Hostname:         c.Hostname,
		Domainname:       c.Domainname,
		Hosts:            hosts,
		Interfaces:       interfaces(endpoints),
		Resolver:         resolver(h, nameservers),
		ReadOnlyRoot:     h.ReadonlyRootfs,
		StopGraceSeconds: uint32(stopSeconds(c)),
		StopSignal:       stop,
		Process:          mainProcess(c, h),
		Mounts:           tetherMounts(rec),
		Files:            tetherFiles(rec),
		Health:           tetherHealth(c, h),
	}
	limitSpec(spec, h)
	return spec, nil
}

func mainProcess(c *container.Config, h *container.HostConfig) *tetherv1.Process {
	p := &tetherv1.Process{
		Args: append(append([]string{}, c.Entrypoint...), c.Cmd...),
		Env:  environment(c.Hostname, c.Tty, c.Env),
		User: c.User, Groups: h.GroupAdd, Cwd: c.WorkingDir,
		Tty: c.Tty, Stdin: c.OpenStdin,
	}
	Restrict(p, h, false)
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

// resolver is where a container asks for names: what was asked for, else the switches of its networks. One without a network has none,
// unless it was asked for.
func resolver(h *container.HostConfig, nameservers []netip.Addr) *tetherv1.Resolver {
	if len(h.DNS) > 0 {
		nameservers = h.DNS
	}
	if len(nameservers)+len(h.DNSSearch)+len(h.DNSOptions) == 0 {
		return nil
	}
	r := &tetherv1.Resolver{Search: h.DNSSearch, Options: h.DNSOptions}
	for _, a := range nameservers {
		r.Nameservers = append(r.Nameservers, a.String())
	}
	return r
}

// hostGateway stands in --add-host for the host's address.
const hostGateway = "host-gateway"

// hostEntries reads --add-host: "name:address", also "name=address"; "host-gateway" is the gateway of the container's networks.
func hostEntries(extra []string, endpoints []record.Endpoint) ([]*tetherv1.HostEntry, error) {
	var hosts []*tetherv1.HostEntry
	for _, e := range extra {
		name, address, err := hostEntry(e)
		if err != nil {
			return nil, err
		}
		if address != hostGateway {
			hosts = append(hosts, &tetherv1.HostEntry{Address: address, Names: []string{name}})
			continue
		}
		for _, gateway := range gateways(endpoints) {
			hosts = append(hosts, &tetherv1.HostEntry{Address: gateway, Names: []string{name}})
		}
	}
	return hosts, nil
}

// hostEntry reads one --add-host.
func hostEntry(text string) (name, address string, err error) {
	name, address, ok := strings.Cut(text, ":")
	if n, a, eq := strings.Cut(text, "="); eq {
		name, address, ok = n, a, true
	}
	address = strings.Trim(address, "[]")
	if address == hostGateway && ok && name != "" {
		return name, address, nil
	}
	if _, err := netip.ParseAddr(address); !ok || name == "" || err != nil {
		return "", "", invalid("bad format for add-host: %q", text)
	}
	return name, address, nil
}

// wantsHostGateway reports whether a container is to reach its host.
func wantsHostGateway(h *container.HostConfig) bool {
	return slices.ContainsFunc(h.ExtraHosts, func(e string) bool {
		_, address, err := hostEntry(e)
		return err == nil && address == hostGateway
	})
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
