package core

import (
	"encoding/binary"
	"net/netip"

	"github.com/containervm/containervm/hostd-bridge/internal/frames"
)

// verdict is what the gateway does with a frame.
type verdict int

const (
	drop    verdict = iota
	deliver         // to the netstack, where the sessions are
	ping            // an echo request to the outside, which the netstack would answer itself
	refuse          // an answer that the packet may not go there
)

const arpLen = 28 // RFC 826, for Ethernet and IPv4

// Numbers of protocols and ICMP types (RFC 791, 792, 4443, 4861).
const (
	protoICMP     = 1
	protoTCP      = 6
	protoUDP      = 17
	protoFragment = 44

	icmpEchoReply    = 0
	icmpUnreachable  = 3
	icmpEcho         = 8
	icmpTimeExceeded = 11
	icmpParameter    = 12

	icmpv6LastError = 127
	icmpv6Echo      = 128
	icmpv6EchoReply = 129
	icmpv6NS        = 135
)

// addr makes an address of 4 or 16 bytes.
func addr(b []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(b)
	return a
}

// admit decides what the gateway does with a frame to its address, or to all: pure. Only well-formed packets from the endpoint's own
// addresses come through, so that whatever is behind knows by an address whose packet it is.
func admit(t *table, e *card, f []byte) verdict {
	ip := f[frames.HeaderLen:]
	toMe := frames.To(f) == gatewayMAC
	switch etherType(f) {
	case etherARP:
		return t.admitARP(e, ip)
	case etherIPv4:
		if toMe {
			return t.admitIPv4(e, ip)
		}
	case etherIPv6:
		return t.admitIPv6(e, ip, toMe)
	}
	return drop
}

// admitARP: the question who has the gateway's address. Who has an endpoint's the gateway knows, and nobody has to tell.
func (t *table) admitARP(e *card, p []byte) verdict {
	const request = 1
	if len(p) < arpLen || binary.BigEndian.Uint16(p) != 1 || binary.BigEndian.Uint16(p[2:]) != etherIPv4 || p[4] != 6 || p[5] != 4 {
		return drop
	}
	sender := addr(p[14:18])
	if binary.BigEndian.Uint16(p[6:]) != request || !t.isGateway(addr(p[24:28])) || !sender.IsUnspecified() && !e.has(sender) {
		return drop
	}
	return deliver
}

func (t *table) admitIPv4(e *card, p []byte) verdict {
	if len(p) < 20 || p[0]>>4 != 4 {
		return drop
	}
	header, total := int(p[0]&15)*4, int(binary.BigEndian.Uint16(p[2:]))
	from, to := addr(p[12:16]), addr(p[16:20])
	if header < 20 || total < header || total > len(p) || !e.has(from) || !t.gateways(true) {
		return drop
	}
	if to.IsMulticast() || to.IsUnspecified() || to == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return drop // nobody hears it, and nobody answers: RFC 1122, 3.2.2
	}
	body := p[header:total]
	switch p[9] {
	case protoTCP, protoUDP:
		return deliver
	case protoICMP:
		switch fragment := binary.BigEndian.Uint16(p[6:])&0x3fff != 0; {
		case t.isGateway(to) && fragment:
			return deliver
		case fragment || len(body) < 8:
			return drop // as one the netstack would answer in the name of the outside
		case t.isGateway(to):
			return admitType(body[0] == icmpEcho || body[0] == icmpUnreachable || body[0] == icmpTimeExceeded || body[0] == icmpParameter)
		case body[0] == icmpEcho:
			return ping
		}
		return drop
	}
	return refuse
}

func admitType(good bool) verdict {
	if good {
		return deliver
	}
	return drop
}

func (t *table) admitIPv6(e *card, p []byte, toMe bool) verdict {
	if len(p) < 40 || p[0]>>4 != 6 || !t.gateways(false) {
		return drop
	}
	total := 40 + int(binary.BigEndian.Uint16(p[4:]))
	if total > len(p) {
		return drop
	}
	from, to, body := addr(p[8:24]), addr(p[24:40]), p[40:total]
	if p[6] == protoICMP6 && len(body) >= 24 && body[0] == icmpv6NS && (from.IsUnspecified() || from.IsLinkLocalUnicast() || e.has(from)) {
		return admitType(t.isGateway(addr(body[8:24]))) // who has the gateway's address: RFC 4861, 4.3
	}
	if !toMe || to.IsMulticast() || to.IsUnspecified() || !e.has(from) {
		return drop
	}
	switch p[6] {
	case protoTCP, protoUDP:
		return deliver
	case protoFragment:
		return admitType(len(body) >= 8 && (body[0] == protoTCP || body[0] == protoUDP))
	case protoICMP6:
		switch {
		case len(body) < 8:
			return drop
		case t.isGateway(to):
			return admitType(body[0] == icmpv6Echo || body[0] <= icmpv6LastError)
		case body[0] == icmpv6Echo:
			return ping
		}
		return drop
	}
	return refuse
}
