package core

import (
	"encoding/binary"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/containervm/containervm/hostd-bridge/internal/frames"
)

// Packets that the gateway makes beside its netstack: answers in the name of the outside.

const hops = 64 // RFC 1700

// sendICMP sends an ICMP message, whose checksum it fills in, to an endpoint. It has 8 bytes at least.
func sendICMP(e *card, from, to netip.Addr, message []byte) {
	message[2], message[3] = 0, 0
	var ip []byte
	ether := uint16(etherIPv6)
	if from.Is4() {
		ether = etherIPv4
		binary.BigEndian.PutUint16(message[2:], ^checksum.Checksum(message, 0))
		h := header.IPv4(make([]byte, header.IPv4MinimumSize))
		h.Encode(&header.IPv4Fields{TotalLength: uint16(len(h) + len(message)), TTL: hops, Protocol: protoICMP, SrcAddr: toTCPIP(from), DstAddr: toTCPIP(to)})
		h.SetChecksum(^h.CalculateChecksum())
		ip = h
	} else {
		pseudo := header.PseudoHeaderChecksum(tcpip.TransportProtocolNumber(protoICMP6), toTCPIP(from), toTCPIP(to), uint16(len(message)))
		binary.BigEndian.PutUint16(message[2:], ^checksum.Checksum(message, pseudo))
		h := header.IPv6(make([]byte, header.IPv6MinimumSize))
		h.Encode(&header.IPv6Fields{PayloadLength: uint16(len(message)), TransportProtocol: protoICMP6, HopLimit: hops, SrcAddr: toTCPIP(from), DstAddr: toTCPIP(to)})
		ip = h
	}
	ethernet := append(append(append([]byte(nil), e.mac[:]...), gatewayMAC[:]...), byte(ether>>8), byte(ether))
	e.receive(frames.Append(nil, ethernet, ip, message))
}

// answerUnreachable tells an endpoint that its packet, which admit has looked at, may not go where it wants to: communication with it is
// administratively prohibited (RFC 1812, 5.2.7.1; RFC 4443, 3.1).
func answerUnreachable(t *table, e *card, f []byte) {
	packet := f[frames.HeaderLen:]
	v4 := etherType(f) == etherIPv4
	message := []byte{icmpUnreachable, 13, 0, 0, 0, 0, 0, 0}
	var to netip.Addr
	if v4 {
		to = addr(packet[12:16])
		packet = packet[:min(len(packet), int(packet[0]&15)*4+8)] // header and 8 bytes: RFC 792
	} else {
		to = addr(packet[8:24])
		message[0], message[1] = 1, 1
		packet = packet[:min(len(packet), header.IPv6MinimumMTU-header.IPv6MinimumSize-len(message))]
	}
	e.refused.Add(1)
	for _, g := range t.config.Gateways {
		if g.Addr().Is4() == v4 {
			sendICMP(e, g.Addr(), to, append(message, packet...))
		}
	}
}
