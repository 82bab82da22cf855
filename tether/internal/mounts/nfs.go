package mounts

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// nfs mounts a directory of a server. What mount.nfs does on other machines is done here: the name is resolved, and the newest version is
// taken that the server speaks, unless one is asked for.
func (s *Set) nfs(ctx context.Context, n *tetherv1.Nfs) (string, error) {
	o, err := nfsOptions(n)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, serverWait)
	defer cancel()
	address, err := s.resolve(ctx, o.server)
	if err != nil {
		return "", err
	}
	dir, err := s.newPlace()
	if err != nil {
		return "", err
	}
	source := o.server + ":" + o.path
	if strings.Contains(o.server, ":") {
		source = "[" + o.server + "]:" + o.path
	}
	for _, version := range o.versions {
		data := o.data(address, version)
		err = waitFor(ctx, func() error { return unix.Mount(source, dir, "nfs", o.flags, data) })
		if !errors.Is(err, unix.EPROTONOSUPPORT) {
			break
		}
	}
	if err != nil {
		return "", explain(err, address)
	}
	s.places = append(s.places, place{dir: dir, remote: true})
	return dir, nil
}

// waitFor calls f, which a server can hold up, and gives it up with ctx.
func waitFor(ctx context.Context, f func() error) error {
	done := make(chan error, 1)
	go func() { done <- f() }() // until the kernel gives up, too, or the machine ends
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("the server did not answer in %v", serverWait)
	}
}

// explain says what the kernel's word means here.
func explain(err error, address netip.Addr) error {
	switch {
	case errors.Is(err, unix.EPROTONOSUPPORT):
		return fmt.Errorf("the server %s does not speak the version that was asked for: %w", address, err)
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return fmt.Errorf("the server %s does not give this directory to this container: %w", address, err)
	case errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.ETIMEDOUT):
		return fmt.Errorf("there is no server at %s that this container reaches: %w", address, err)
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("the kernel does not take these options: %w", err)
	}
	return err
}

// nfsMount is what an Nfs says, decoded.
type nfsMount struct {
	server, path string
	flags        uintptr
	versions     []string // to be tried in order
	options      []string // for the kernel
	lock         bool
}

// versions are those of the kernel, the newest first.
func versions() []string { return []string{"4.2", "4.1", "4.0", "3"} }

// nfsOptions decodes n. What mount.nfs keeps from the kernel is kept from it here, and what would need a program that is not there is refused.
func nfsOptions(n *tetherv1.Nfs) (o nfsMount, err error) {
	o = nfsMount{server: strings.Trim(n.GetAddress(), "[]"), path: n.GetPath(), versions: versions()}
	known := flagOptions()
	for _, option := range strings.Split(n.GetOptions(), ",") {
		if f, ok := known[option]; ok {
			o.flags = f.apply(o.flags)
			continue
		}
		key, value, _ := strings.Cut(option, "=")
		switch key {
		case "", "_netdev", "fg", "retry": // mount.nfs' own, of no meaning here
		case "addr":
			if o.server == "" {
				o.server = strings.Trim(value, "[]")
			}
		case "vers", "nfsvers", "v3", "v4", "v4.0", "v4.1", "v4.2":
			if value == "" {
				value = strings.TrimPrefix(key, "v")
			}
			if o.versions, err = versionsOf(value); err != nil {
				return o, err
			}
		case "lock":
			o.lock = true
		case "bg", "sec", "clientaddr", "sharecache", "xprtsec", "local_lock", "mountaddr", "mounthost":
			if key == "sec" && value == "sys" {
				continue
			}
			return o, fmt.Errorf("option %.60q is not supported", option)
		default:
			o.options = append(o.options, option)
		}
	}
	if o.path = strings.TrimPrefix(o.path, ":"); !path.IsAbs(o.path) || strings.ContainsRune(o.path, 0) {
		return o, fmt.Errorf("%.80q is not an absolute path of the server's", n.GetPath())
	}
	if o.server == "" {
		return o, errors.New("it has no server: give its address as addr=")
	}
	return o, nil
}

func versionsOf(text string) ([]string, error) {
	if text == "4" {
		return versions()[:3], nil
	}
	if !slices.Contains(versions(), text) {
		return nil, fmt.Errorf("NFS version %.20q is not known: there are 3, 4, 4.0, 4.1 and 4.2", text)
	}
	return []string{text}, nil
}

// data is mount(2)'s. Locks of version 3 need a daemon on each side, of which this one has none: they are local unless asked for.
func (o nfsMount) data(address netip.Addr, version string) string {
	all := append([]string{"addr=" + address.String(), "vers=" + version}, o.options...)
	if version == "3" && !o.lock && !slices.Contains(o.options, "nolock") {
		all = append(all, "nolock")
	}
	return strings.Join(all, ",")
}

// resolve finds the server's address, as the container would: by its own lines of /etc/hosts, then by its resolver.
func (s *Set) resolve(ctx context.Context, server string) (netip.Addr, error) {
	if a, err := netip.ParseAddr(server); err == nil {
		return a.Unmap(), nil
	}
	for _, h := range s.Hosts {
		if a, err := netip.ParseAddr(h.Address); err == nil && slices.Contains(h.Names, server) {
			return a.Unmap(), nil
		}
	}
	servers := s.Resolver.GetNameservers()
	if len(servers) == 0 {
		return netip.Addr{}, fmt.Errorf("cannot resolve %s: this container has no resolver", server)
	}
	next := 0
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		at := servers[next%len(servers)]
		next++
		return new(net.Dialer).DialContext(ctx, network, net.JoinHostPort(at, "53"))
	}}
	found, err := resolver.LookupNetIP(ctx, "ip", strings.TrimSuffix(server, ".")+".")
	if err != nil {
		return netip.Addr{}, fmt.Errorf("cannot resolve %s: %w", server, err)
	}
	slices.SortStableFunc(found, func(a, b netip.Addr) int { // IPv4 first: most servers have it
		return b2i(a.Unmap().Is6()) - b2i(b.Unmap().Is6())
	})
	return found[0].Unmap(), nil
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}
