package publish

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
)

// ephemeralTries is how often a port that one family has free is looked for in the other.
const ephemeralTries = 16

// bindAlike binds publications that differ by the host's address alone, to one port.
func bindAlike(group []hostapi.Publication) (sockets []io.Closer, at []hostapi.Publication, err error) {
	first, last := group[0].HostPort, max(group[0].HostPort, group[0].HostPortEnd)
	tries := int(last-first) + 1
	if first == 0 {
		tries = ephemeralTries
	}
	for n := range tries {
		port := first
		if first != 0 {
			port += uint16(n)
		}
		if sockets, at, err = bindOn(group, port); !errors.As(err, new(*TakenError)) {
			return sockets, at, err
		}
	}
	return nil, nil, err
}

// bindOn binds publications to a port; 0: one that the first of them gets. Of two families one may be missing.
func bindOn(group []hostapi.Publication, port uint16) (sockets []io.Closer, at []hostapi.Publication, err error) {
	for _, want := range group {
		socket, bound, err := bind(want.Protocol, netip.AddrPortFrom(want.HostIP, port))
		if len(group) > 1 && (errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EADDRNOTAVAIL)) {
			continue
		}
		if err != nil {
			for _, s := range sockets {
				s.Close()
			}
			return nil, nil, err
		}
		port = bound
		want.HostPort, want.HostPortEnd = port, 0
		sockets, at = append(sockets, socket), append(at, want)
	}
	if len(sockets) == 0 {
		return nil, nil, fmt.Errorf("cannot publish a port on %s: this machine has no such address", group[0].HostIP)
	}
	return sockets, at, nil
}

// bind binds one address and says which port it got. A socket of IPv6 is of that alone.
func bind(protocol string, at netip.AddrPort) (socket io.Closer, port uint16, err error) {
	network := protocol + "4"
	if at.Addr().Is6() {
		network = protocol + "6"
	}
	switch protocol {
	case hostapi.TCP:
		l, err := net.ListenTCP(network, net.TCPAddrFromAddrPort(at))
		if err != nil {
			return nil, 0, bindError(at, err)
		}
		return l, l.Addr().(*net.TCPAddr).AddrPort().Port(), nil
	default:
		c, err := net.ListenUDP(network, net.UDPAddrFromAddrPort(at))
		if err != nil {
			return nil, 0, bindError(at, err)
		}
		return c, c.LocalAddr().(*net.UDPAddr).AddrPort().Port(), nil
	}
}

func bindError(at netip.AddrPort, err error) error {
	if errors.Is(err, unix.EADDRINUSE) {
		return &TakenError{Address: at}
	}
	return fmt.Errorf("cannot publish a port on %s: %w", at, err)
}
