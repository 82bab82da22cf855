package netswitch

import (
	"net/netip"
	"syscall"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
)

// Config is all that a switch is told, each time. What is the same as before goes on untouched.
type Config struct {
	Name     string         `json:"name"`               // of the network
	Gateways []netip.Prefix `json:"gateways,omitempty"` // one of each family at most; none: no DNS, no NAT, no published ports
	Internal bool           `json:"internal,omitempty"` // nothing leads out, and no port in
	MTU      int            `json:"mtu,omitempty"`      // of the gateway, in bytes; 0: 1500
	// HostGateway is what of the host's loopback address is open to endpoints that have HostGateway.
	HostGateway []hostapi.PortRange `json:"hostGateway,omitempty"`
	Denied      []netip.Prefix      `json:"denied,omitempty"` // other networks' subnets
	Endpoints   []Endpoint          `json:"endpoints,omitempty"`
}

// Endpoint is a card of a VM, and what is behind it.
type Endpoint struct {
	VM        string       `json:"vm"` // reference; it has one endpoint
	MAC       string       `json:"mac"`
	Addresses []netip.Addr `json:"addresses,omitempty"`
	// Names are found by all endpoints; the first is the answer to who asks for an address.
	Names       []string              `json:"names,omitempty"`
	Others      []Name                `json:"others,omitempty"` // names of its other networks: found by this endpoint alone
	HostGateway bool                  `json:"hostGateway,omitempty"`
	Publish     []hostapi.Publication `json:"publish,omitempty"`
}

// Name is a name with its addresses.
type Name struct {
	Name      string       `json:"name"`
	Addresses []netip.Addr `json:"addresses,omitempty"`
}

// Result says of each endpoint, by VM, what became of it.
type Result struct {
	Endpoints map[string]Outcome `json:"endpoints,omitempty"`
}

// Outcome is what became of an endpoint. One that failed is not in the switch, or as it was before; the others are not concerned.
type Outcome struct {
	// Published has the publications with the port that each was given, in their order; none when the network is internal.
	Published []hostapi.Publication `json:"published,omitempty"`
	Failed    *Failure              `json:"failed,omitempty"`
}

// Failure is why an endpoint was not taken: an error that wraps Errno.
type Failure struct {
	// Publication is the one that could not be bound. It has no protocol when the endpoint itself is at fault.
	Publication hostapi.Publication `json:"publication"`
	Errno       syscall.Errno       `json:"errno,omitempty"` // EADDRINUSE, EADDRNOTAVAIL, EACCES, ...; 0: none
	Text        string              `json:"text"`
}

func (f *Failure) Error() string { return f.Text }

func (f *Failure) Unwrap() error {
	if f.Errno == 0 {
		return nil
	}
	return f.Errno
}

// Stats counts since the switch's start.
type Stats struct {
	PID       int                      `json:"pid"`
	Endpoints map[string]EndpointStats `json:"endpoints,omitempty"` // by VM
	Gateway   GatewayStats             `json:"gateway"`
}

// EndpointStats is an endpoint's part. Sent and received are as the guest sees them.
type EndpointStats struct {
	Connected      bool  `json:"connected"` // its supervisor is there
	SentFrames     int64 `json:"sentFrames"`
	SentBytes      int64 `json:"sentBytes"`
	ReceivedFrames int64 `json:"receivedFrames"`
	ReceivedBytes  int64 `json:"receivedBytes"`
	Forged         int64 `json:"forged"`  // frames with another's address
	Dropped        int64 `json:"dropped"` // frames that found the endpoint's queue full
	Unknown        int64 `json:"unknown"` // frames to a card that is not there
	Sessions       int64 `json:"sessions"`
	Refused        int64 `json:"refused"` // sessions that policy or a limit refused
}

// GatewayStats is what the gateway did.
type GatewayStats struct {
	Queries  int64 `json:"queries"`  // of DNS
	Sessions int64 `json:"sessions"` // that there are now, with published ports'
	Memory   int64 `json:"memory"`   // bytes in use, about
}
