package core

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/frames"
	"github.com/containervm/containervm/hostd-bridge/internal/netswitch"
)

// Limits of a Config.
const (
	// maxEndpoints is more than machines fit into the memory of a host.
	maxEndpoints = 10_000
	defaultMTU   = 1500
)

// check says what is wrong with the network; endpoints are looked at one by one.
func check(c netswitch.Config) error {
	settings := hostapi.NetworkSettings{Gateways: c.Gateways, MTU: c.MTU}
	if err := settings.Check(); err != nil {
		return err
	}
	if len(c.Endpoints) > maxEndpoints {
		return fmt.Errorf("%d endpoints, at most %d are possible", len(c.Endpoints), maxEndpoints)
	}
	vms := map[string]bool{}
	for _, e := range c.Endpoints {
		if vms[e.VM] {
			return fmt.Errorf("VM %q has two endpoints", e.VM)
		}
		vms[e.VM] = true
	}
	return nil
}

func mtuOf(c netswitch.Config) uint32 {
	if c.MTU == 0 {
		return defaultMTU
	}
	return uint32(c.MTU)
}

// checkEndpoint says what is wrong with an endpoint of a Config, and returns its address.
func checkEndpoint(c netswitch.Config, e netswitch.Endpoint) (frames.Address, error) {
	mac, err := frames.ParseAddress(e.MAC)
	switch {
	case err != nil:
		return mac, err
	case e.VM == "":
		return mac, errors.New("an endpoint without a VM")
	case mac == gatewayMAC:
		return mac, fmt.Errorf("cannot use %v: it is the gateway's MAC address", mac)
	}
	for _, a := range e.Addresses {
		if !a.IsValid() || a.Is4In6() || a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() {
			return mac, fmt.Errorf("%v is no address of a VM", a)
		}
		if slices.ContainsFunc(c.Gateways, func(g netip.Prefix) bool { return g.Addr() == a }) {
			return mac, fmt.Errorf("cannot use %v: it is the gateway's address", a)
		}
	}
	return mac, nil
}
