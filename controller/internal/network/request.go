package network

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"

	"github.com/containervm/containervm/controller/internal/ident"
)

// maxName bounds a network's name, in bytes: vSphere's names have 80 characters at most.
const maxName = 80 - len(portGroupPrefix)

// invalidAll is an error of class errdefs.ErrInvalidArgument in the form of moby's multierror; nil when there is none.
func invalidAll(what string, errs []error) error {
	if len(errs) == 0 {
		return nil
	}
	text := errs[0].Error()
	if len(errs) > 1 {
		var lines []string
		for _, err := range errs {
			lines = append(lines, strings.ReplaceAll(err.Error(), "\n", "\n\t"))
		}
		text = "* " + strings.Join(lines, "\n* ")
	}
	return errdefs.ErrInvalidArgument.WithMessage(what + ":\n" + text)
}

func invalid(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}

func refused(format string, args ...any) error {
	return errdefs.ErrNotImplemented.WithMessage(fmt.Sprintf(format, args...))
}

// allows says why an address that is wished cannot be one of the pool.
func (p Pool) allows(a netip.Addr, family int) []error {
	switch {
	case !a.IsValid():
		return nil
	case a.Is4() != (family == 4) || a.IsUnspecified() || a.Zone() != "" || a.Is4In6():
		return []error{fmt.Errorf("invalid IPv%d address: %s", family, a)}
	case p.IsZero() || !p.Subnet.Contains(a):
		return []error{fmt.Errorf("no configured subnet contains IP address %s", a)}
	}
	return nil
}

// asked is a network as a request describes it, without the subnets that are to be chosen.
type asked struct {
	Network
	wantIPv6 bool // and if it has no subnet of it, one is chosen
}

// ask reads a request. What has no meaning here is refused by name.
func ask(r network.CreateRequest, now time.Time) (a asked, err error) {
	if err := checkName(r.Name); err != nil {
		return a, err
	}
	switch {
	case r.Driver != "" && r.Driver != network.NetworkDefault && r.Driver != DriverBridge:
		return a, refused("network driver %q is not supported: the one that there is is %q, a port group of the host", r.Driver, DriverBridge)
	case r.Scope != "" && r.Scope != ScopeLocal:
		return a, refused("network scope %q is not supported: a network is of one host (scope %q)", r.Scope, ScopeLocal)
	case r.EnableIPv4 != nil && !*r.EnableIPv4:
		return a, refused("a network without IPv4 is not supported: leave out --ipv4=false")
	}
	a = asked{
		Network: Network{
			ID: ident.New(), Name: r.Name, PortGroup: portGroupPrefix + r.Name, Driver: DriverBridge, Created: now.UTC(),
			Internal: r.Internal, Attachable: r.Attachable, Labels: maps.Clone(r.Labels),
		},
		wantIPv6: r.EnableIPv6 != nil && *r.EnableIPv6,
	}
	if err := a.readOptions(r.Options, r.EnableIPv6 == nil); err != nil {
		return a, err
	}
	if r.IPAM != nil {
		return a, a.readIPAM(r.IPAM)
	}
	return a, nil
}

// checkName says what is wrong with a network's name. It is part of vSphere's name of the port group, and of commands.
func checkName(name string) error {
	switch {
	case strings.TrimSpace(name) == "":
		return invalid("invalid name: name is empty")
	case Predefined(name):
		return errdefs.ErrPermissionDenied.WithMessage("operation is not permitted on predefined " + name + " network ")
	case len(name) > maxName:
		return invalid("invalid name: %q has more than %d characters", name, maxName)
	}
	for i, r := range name {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		if !letter && (i == 0 || !strings.ContainsRune("_.-", r)) {
			return invalid("invalid name: %q: only [a-zA-Z0-9][a-zA-Z0-9_.-]* are allowed", name)
		}
	}
	return nil
}

// Options of a network that have a meaning here, or none but their default.
const (
	optionMTU      = "com.docker.network.driver.mtu"
	optionIPv4     = "com.docker.network.enable_ipv4"
	optionIPv6     = "com.docker.network.enable_ipv6"
	bridgeOption   = "com.docker.network.bridge."
	optionBindIPv4 = bridgeOption + "host_binding_ipv4"
)

// onlyDefault are options of Docker's bridge driver that are taken when they ask for what is so anyway.
func onlyDefault() map[string][]string {
	return map[string][]string{
		bridgeOption + "enable_icc":           {"true", "1", "t", "T", "TRUE", "True"},
		bridgeOption + "enable_ip_masquerade": {"true", "1", "t", "T", "TRUE", "True"},
		bridgeOption + "default_bridge":       {"false", "0", "f", "F", "FALSE", "False"},
		bridgeOption + "inhibit_ipv4":         {"false", "0", "f", "F", "FALSE", "False"},
		bridgeOption + "gateway_mode_ipv4":    {"", "nat"},
		bridgeOption + "gateway_mode_ipv6":    {"", "nat"},
		optionBindIPv4:                        {"0.0.0.0"},
		optionIPv4:                            {"true", "1", "t", "T", "TRUE", "True"},
	}
}

// ignored are options that say how Docker's bridge is made on its host, where nothing here corresponds to it and nothing is lost.
func ignored() []string { return []string{bridgeOption + "name"} }

func (a *asked) readOptions(options map[string]string, mayEnable bool) error {
	for _, key := range slices.Sorted(maps.Keys(options)) {
		value := options[key]
		defaults, known := onlyDefault()[key]
		switch {
		case key == optionMTU:
			mtu, err := strconv.Atoi(value)
			if err != nil || mtu < 0 {
				return invalid("failed to parse %s value: %s (want a number of bytes)", key, value)
			}
			a.MTU = mtu
		case key == optionIPv6:
			on, err := strconv.ParseBool(value)
			if err != nil {
				return invalid("driver-opt %q is not a valid bool", key)
			}
			a.wantIPv6 = a.wantIPv6 || on && mayEnable
		case known && !slices.Contains(defaults, value):
			return refused("network option %s=%s is not supported: only %s", key, value, defaults[len(defaults)-1])
		case !known && !slices.Contains(ignored(), key):
			return refused("network option %q is not supported: known are %s and those of Docker's bridge driver with their defaults", key, optionMTU)
		}
	}
	a.Options = maps.Clone(options)
	return nil
}

func (a *asked) readIPAM(r *network.IPAM) error {
	if r.Driver != "" && r.Driver != "default" {
		return refused("IPAM driver %q is not supported: the one that there is is \"default\"", r.Driver)
	}
	for _, key := range slices.Sorted(maps.Keys(r.Options)) {
		return refused("IPAM option %q is not supported", key)
	}
	var errs []error
	for _, c := range r.Config {
		if zeroIPAM(c) {
			continue // the CLI sends an empty one
		}
		p, wrong := configured(c)
		errs = append(errs, wrong...)
		to := &a.IPv4
		if p.Subnet.Addr().Is6() {
			if to = &a.IPv6; !a.wantIPv6 {
				errs = append(errs, fmt.Errorf("subnet %s is of IPv6, which is not enabled: give --ipv6", p.Subnet))
			}
		}
		if !to.IsZero() && len(wrong) == 0 {
			errs = append(errs, errors.New("bridge driver doesn't support multiple subnets"))
		}
		*to = p
	}
	return invalidAll("invalid network config", errs)
}

func zeroIPAM(c network.IPAMConfig) bool {
	return !c.Subnet.IsValid() && !c.IPRange.IsValid() && !c.Gateway.IsValid() && len(c.AuxAddress) == 0
}

// errOverlap has Docker's words.
var errOverlap = errdefs.ErrPermissionDenied.WithMessage("invalid pool request: Pool overlaps with other one on this address space")

// place checks the subnets that were asked for against those of other networks and those that the host is in, and chooses those that
// were not asked for: they hide none that the host has a route to.
func (a *asked) place(others []netip.Prefix, routes Routes) (Network, error) {
	n := a.Network
	for _, p := range []*Pool{&n.IPv4, &n.IPv6} {
		if p.IsZero() {
			continue
		}
		if overlaps(p.Subnet, others) {
			return n, errOverlap
		}
		if i := slices.IndexFunc(routes.Connected, p.Subnet.Overlaps); i >= 0 {
			return n, errdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf(
				"invalid pool request: subnet %s overlaps with the host's own network %s: containers there could not reach it", p.Subnet, routes.Connected[i]))
		}
	}
	taken := slices.Concat(others, routes.Connected, routes.Further)
	if n.IPv4.IsZero() {
		subnet, err := choose4(taken)
		if err != nil {
			return n, errdefs.ErrInvalidArgument.WithMessage(err.Error())
		}
		n.IPv4.Subnet = subnet
		n.IPv4.Gateway = n.IPv4.firstUsable()
	}
	if n.IPv6.IsZero() && a.wantIPv6 {
		n.IPv6.Subnet = choose6(taken)
		n.IPv6.Gateway = n.IPv6.firstUsable()
	}
	if err := n.Settings().Check(); err != nil {
		return n, invalid("invalid network config:\n%v", err)
	}
	return n, nil
}
