package core

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/net/icmp"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/frames"
	"github.com/containervm/containervm/hostd-bridge/internal/netswitch"
)

// testTable is a network of the two endpoints 2 and 3.
func testTable() *table {
	cfg := netswitch.Config{
		Name: "test", Gateways: []netip.Prefix{prefix("172.17.0.1/16"), prefix("fd00:17::1/64")}, Denied: []netip.Prefix{prefix("172.18.0.0/16"), prefix("fd00:18::/64")},
		HostGateway: []hostapi.PortRange{{Protocol: "tcp", First: 5000, Last: 5001}}, Endpoints: []netswitch.Endpoint{endpoint(2), endpoint(3)},
	}
	cfg.Endpoints[1].HostGateway = true
	var cards []*card
	for _, e := range cfg.Endpoints {
		mac, err := checkEndpoint(cfg, e)
		if err != nil {
			panic(err)
		}
		c := newCard(e, mac)
		c.member = new(member)
		cards = append(cards, c)
	}
	return newTable(cfg, cards)
}

// TestPolicy holds each line of what is denied, in each of its forms.
func TestPolicy(t *testing.T) {
	table := testTable()
	anywhere := outside{unicast: func(netip.Addr) bool { return true }}
	may := func(e *card, network, to string) bool {
		_, ok := table.outward(anywhere, e, network, netip.MustParseAddrPort(to))
		return ok
	}
	one, two := table.order[0], table.order[1]
	v4 := []string{"127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "169.254.169.254", "169.254.0.0", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255", "172.17.0.3", "172.17.255.255", "172.18.0.2"}
	for _, a := range v4 {
		b := ip(a).As4()
		embed := func(prefix string, at int) string {
			p := ip(prefix).As16()
			copy(p[at:], b[:])
			return netip.AddrFrom16(p).String()
		}
		teredo := ip("2001::").As16()
		for i := range b {
			teredo[12+i] = ^b[i]
		}
		for _, form := range []string{a, "::ffff:" + a, embed("::", 12), embed("64:ff9b::", 12), embed("::ffff:0:0:0", 12), embed("2002::", 2), netip.AddrFrom16(teredo).String()} {
			if may(one, "tcp", net.JoinHostPort(form, "80")) || may(two, "udp", net.JoinHostPort(form, "5000")) {
				t.Errorf("%s, which is %s, may be reached", form, a)
			}
		}
	}
	for _, a := range []string{"::", "::1", "fe80::1", "febf::1", "fec0::1", "ff02::1", "ff0e::1", "fd00:17::3", "fd00:18::2", "fd00:ec2::254", "::ffff:198.51.100.7"} {
		if may(one, "tcp", net.JoinHostPort(a, "80")) {
			t.Errorf("%s may be reached", a)
		}
	}
	for _, a := range []string{"198.51.100.7", "10.1.2.3", "192.168.1.1", "172.19.0.2", "1.1.1.1", "2001:db8::1", "fd00:19::1", "64:ff9b::c633:6407", "2002:c633:6407::1"} {
		if !may(one, "tcp", net.JoinHostPort(a, "80")) {
			t.Errorf("%s may not be reached", a)
		}
	}
	for to, want := range map[string][3]bool{"172.17.0.1:5000": {false, true, false}, "[fd00:17::1]:5001": {false, true, false}, "172.17.0.1:4999": {}, "172.17.0.1:5002": {}} {
		if got := [3]bool{may(one, "tcp", to), may(two, "tcp", to), may(two, "udp", to)}; got != want {
			t.Errorf("%s: %v, want %v", to, got, want)
		}
	}
	table.config.Internal = true
	if may(one, "tcp", "198.51.100.7:80") {
		t.Error("an internal network has a way out")
	}
}

// TestRoutedAway: what the kernel keeps for the host or for many does not leave it.
func TestRoutedAway(t *testing.T) {
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addresses {
		own, _ := netip.AddrFromSlice(a.(*net.IPNet).IP)
		if routedAway(own.Unmap()) {
			t.Errorf("%v is the host's own", own)
		}
	}
	for _, a := range []string{"127.0.0.1", "127.9.9.9", "::1", "255.255.255.255", "224.0.0.1"} {
		if routedAway(ip(a)) {
			t.Errorf("%s goes out", a)
		}
	}
}

// packet4 makes an IPv4 packet; packet6 one of IPv6.
func packet4(from, to string, proto byte, fragment uint16, body ...byte) []byte {
	p := make([]byte, 20, 20+len(body))
	p[0], p[8], p[9] = 0x45, 64, proto
	binary.BigEndian.PutUint16(p[2:], uint16(20+len(body)))
	binary.BigEndian.PutUint16(p[6:], fragment)
	copy(p[12:], ip(from).AsSlice())
	copy(p[16:], ip(to).AsSlice())
	return append(p, body...)
}

func packet6(from, to string, proto byte, body ...byte) []byte {
	p := make([]byte, 40, 40+len(body))
	p[0], p[6], p[7] = 0x60, proto, 64
	binary.BigEndian.PutUint16(p[4:], uint16(len(body)))
	copy(p[8:], ip(from).AsSlice())
	copy(p[24:], ip(to).AsSlice())
	return append(p, body...)
}

func solicit(target string) []byte {
	return append([]byte{icmpv6NS, 0, 0, 0, 0, 0, 0, 0}, ip(target).AsSlice()...)
}

func TestAdmit(t *testing.T) {
	table := testTable()
	e := table.order[0]
	eight := func(kind byte) []byte { return []byte{kind, 0, 0, 0, 0, 1, 0, 1} }
	mine, all := gatewayMAC, frames.Broadcast
	for name, c := range map[string]struct {
		to   frames.Address
		kind uint16
		body []byte
		want verdict
	}{
		"ARP for the gateway":         {all, etherARP, arpPacket(1, e.mac, ip("172.17.0.2"), gateway4), deliver},
		"ARP for another":             {all, etherARP, arpPacket(1, e.mac, ip("172.17.0.2"), ip("172.17.0.3")), drop},
		"ARP probe":                   {all, etherARP, arpPacket(1, e.mac, ip("0.0.0.0"), gateway4), deliver},
		"ARP answer":                  {mine, etherARP, arpPacket(2, e.mac, ip("172.17.0.2"), gateway4), drop},
		"ARP by another":              {all, etherARP, arpPacket(1, e.mac, ip("172.17.0.3"), gateway4), drop},
		"ARP cut off":                 {all, etherARP, arpPacket(1, e.mac, ip("172.17.0.2"), gateway4)[:27], drop},
		"TCP":                         {mine, etherIPv4, packet4("172.17.0.2", "1.1.1.1", protoTCP, 0), deliver},
		"UDP in fragments":            {mine, etherIPv4, packet4("172.17.0.2", "1.1.1.1", protoUDP, 0x2000), deliver},
		"from another":                {mine, etherIPv4, packet4("172.17.0.3", "1.1.1.1", protoTCP, 0), drop},
		"from nobody":                 {mine, etherIPv4, packet4("0.0.0.0", "1.1.1.1", protoUDP, 0), drop},
		"to all":                      {all, etherIPv4, packet4("172.17.0.2", "255.255.255.255", protoUDP, 0), drop},
		"broadcast to the gateway":    {mine, etherIPv4, packet4("172.17.0.2", "255.255.255.255", protoUDP, 0), drop},
		"multicast":                   {mine, etherIPv4, packet4("172.17.0.2", "224.0.0.251", protoUDP, 0), drop},
		"echo to the gateway":         {mine, etherIPv4, packet4("172.17.0.2", "172.17.0.1", protoICMP, 0, eight(icmpEcho)...), deliver},
		"echo to the outside":         {mine, etherIPv4, packet4("172.17.0.2", "1.1.1.1", protoICMP, 0, eight(icmpEcho)...), ping},
		"a part of one":               {mine, etherIPv4, packet4("172.17.0.2", "1.1.1.1", protoICMP, 0x2000, eight(icmpEcho)...), drop},
		"echo, cut off":               {mine, etherIPv4, packet4("172.17.0.2", "1.1.1.1", protoICMP, 0, icmpEcho), drop},
		"redirect":                    {mine, etherIPv4, packet4("172.17.0.2", "172.17.0.1", protoICMP, 0, eight(5)...), drop},
		"unreachable, to the gateway": {mine, etherIPv4, packet4("172.17.0.2", "172.17.0.1", protoICMP, 0, eight(3)...), deliver},
		"unreachable, to the outside": {mine, etherIPv4, packet4("172.17.0.2", "1.1.1.1", protoICMP, 0, eight(3)...), drop},
		"another protocol":            {mine, etherIPv4, packet4("172.17.0.2", "1.1.1.1", 47, 0), refuse},
		"no header":                   {mine, etherIPv4, packet4("172.17.0.2", "1.1.1.1", protoTCP, 0)[:19], drop},
		"version 5":                   {mine, etherIPv4, append([]byte{0x55}, packet4("172.17.0.2", "1.1.1.1", protoTCP, 0)[1:]...), drop},
		"longer than it is":           {mine, etherIPv4, packet4("172.17.0.2", "1.1.1.1", protoTCP, 0, 1, 2)[:21], drop},
		"a short header":              {mine, etherIPv4, append([]byte{0x44}, packet4("172.17.0.2", "1.1.1.1", protoTCP, 0)[1:]...), drop},
		"TCP of IPv6":                 {mine, etherIPv6, packet6("fd00:17::2", "2001:db8::1", protoTCP), deliver},
		"from another of IPv6":        {mine, etherIPv6, packet6("fd00:17::3", "2001:db8::1", protoTCP), drop},
		"from a link's address":       {mine, etherIPv6, packet6("fe80::2", "2001:db8::1", protoTCP), drop},
		"to a link's address":         {mine, etherIPv6, packet6("fd00:17::2", "fe80::1", protoTCP), deliver}, // policy refuses it
		"solicitation":                {frames.Address{0x33, 0x33}, etherIPv6, packet6("fe80::2", "ff02::1:ff00:1", protoICMP6, solicit("fd00:17::1")...), deliver},
		"solicitation of another":     {frames.Address{0x33, 0x33}, etherIPv6, packet6("fe80::2", "ff02::1:ff00:3", protoICMP6, solicit("fd00:17::3")...), drop},
		"solicitation by another":     {frames.Address{0x33, 0x33}, etherIPv6, packet6("fd00:17::3", "ff02::1:ff00:1", protoICMP6, solicit("fd00:17::1")...), drop},
		"router solicitation":         {frames.Address{0x33, 0x33}, etherIPv6, packet6("fe80::2", "ff02::2", protoICMP6, eight(133)...), drop},
		"router advertisement":        {mine, etherIPv6, packet6("fd00:17::2", "fd00:17::1", protoICMP6, eight(134)...), drop},
		"echo to the gateway, IPv6":   {mine, etherIPv6, packet6("fd00:17::2", "fd00:17::1", protoICMP6, eight(icmpv6Echo)...), deliver},
		"echo to the outside, IPv6":   {mine, etherIPv6, packet6("fd00:17::2", "2001:db8::1", protoICMP6, eight(icmpv6Echo)...), ping},
		"too big, to the gateway":     {mine, etherIPv6, packet6("fd00:17::2", "fd00:17::1", protoICMP6, eight(2)...), deliver},
		"a part of UDP":               {mine, etherIPv6, packet6("fd00:17::2", "2001:db8::1", protoFragment, eight(protoUDP)...), deliver},
		"a part of ICMP":              {mine, etherIPv6, packet6("fd00:17::2", "2001:db8::1", protoFragment, eight(protoICMP6)...), drop},
		"hop by hop":                  {mine, etherIPv6, packet6("fd00:17::2", "2001:db8::1", 0, eight(protoTCP)...), refuse},
		"IPv6, cut off":               {mine, etherIPv6, packet6("fd00:17::2", "2001:db8::1", protoTCP, 1)[:40], drop},
		"something else":              {mine, experimental, nil, drop},
	} {
		if got := admit(table, e, ethernet(c.to, e.mac, c.kind, c.body...)); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
	table.config.Gateways = table.config.Gateways[:1]
	if got := admit(table, e, ethernet(mine, e.mac, etherIPv6, packet6("fd00:17::2", "2001:db8::1", protoTCP)...)); got != drop {
		t.Errorf("IPv6 without a gateway: %v", got)
	}
}

// TestPing: the gateway answers, others do not answer in the name of the outside.
func TestPing(t *testing.T) {
	b := newBench(t)
	w := b.wire(2)
	echo4 := func(to string) []byte {
		body := []byte{icmpEcho, 0, 0, 0, 0, 7, 0, 1, 'h', 'i'}
		binary.BigEndian.PutUint16(body[2:], ^sum(body))
		p := packet4("172.17.0.2", to, protoICMP, 0, body...)
		binary.BigEndian.PutUint16(p[10:], ^sum(p[:20]))
		return ethernet(gatewayMAC, macOf(2), etherIPv4, p...)
	}
	answer := func(to string) (kind, code byte, from netip.Addr, id uint16) {
		t.Helper()
		w.send(echo4(to))
		p := w.next()[frames.HeaderLen:]
		if sum(p[:20]) != 0xffff || sum(p[20:]) != 0xffff || addr(p[16:20]) != ip("172.17.0.2") {
			t.Errorf("a packet with wrong sums: %x", p)
		}
		return p[20], p[21], addr(p[12:16]), binary.BigEndian.Uint16(p[24:])
	}
	if kind, _, from, id := answer("172.17.0.1"); kind != icmpEchoReply || from != gateway4 || id != 7 {
		t.Errorf("the gateway: %d from %v", kind, from)
	}
	for _, to := range []string{"127.0.0.1", "169.254.169.254", "172.17.0.99"} {
		if kind, code, from, _ := answer(to); kind != icmpUnreachable || code != 13 || from != gateway4 {
			t.Errorf("%s: %d, %d from %v", to, kind, code, from)
		}
	}
	// Where the host allows it, through a socket of the host's.
	own := ownAddress(t)
	b.outside.unicast = func(netip.Addr) bool { return true }
	kind, _, from, id := answer(own.String())
	if c, err := icmp.ListenPacket("udp4", "0.0.0.0"); err != nil {
		if kind != icmpUnreachable {
			t.Errorf("without a socket: %d", kind)
		}
		t.Log("this host allows no ping sockets: ", err)
	} else if c.Close(); kind != icmpEchoReply || from != own || id != 7 {
		t.Errorf("the outside: %d from %v, id %d", kind, from, id)
	}
}

// ownAddress is an address of this host beside loopback.
func ownAddress(t *testing.T) netip.Addr {
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addresses {
		if own, _ := netip.AddrFromSlice(a.(*net.IPNet).IP); own.Unmap().Is4() && !own.Unmap().IsLoopback() {
			return own.Unmap()
		}
	}
	t.Skip("this host has no network")
	return netip.Addr{}
}

func sum(b []byte) uint16 {
	var s uint32
	for i, x := range b {
		s += uint32(x) << (8 * (1 - i%2))
	}
	for s>>16 != 0 {
		s = s&0xffff + s>>16
	}
	return uint16(s)
}

// FuzzInput: whatever frame a guest sends, what the gateway takes is from the guest's own address, and nothing breaks.
func FuzzInput(f *testing.F) {
	f.Add(ethernet(gatewayMAC, macOf(2), etherIPv4, packet4("172.17.0.2", "1.1.1.1", protoTCP, 0, make([]byte, 20)...)...))
	f.Add(ethernet(gatewayMAC, macOf(2), etherIPv4, packet4("172.17.0.2", "172.17.0.1", protoUDP, 0, 0, 1, 0, 53, 0, 8, 0, 0)...))
	f.Add(ethernet(gatewayMAC, macOf(2), etherIPv4, packet4("172.17.0.2", "127.0.0.1", protoICMP, 0, 8, 0, 0, 0, 0, 1, 0, 1)...))
	f.Add(ethernet(gatewayMAC, macOf(2), etherIPv6, packet6("fd00:17::2", "fd00:17::1", protoICMP6, icmpv6Echo, 0, 0, 0, 0, 0, 0, 0)...))
	f.Add(ethernet(frames.Broadcast, macOf(2), etherARP, arpPacket(1, macOf(2), ip("172.17.0.2"), gateway4)...))
	f.Add(ethernet(frames.Address{0x33, 0x33}, macOf(2), etherIPv6, packet6("fe80::2", "ff02::1:ff00:1", protoICMP6, solicit("fd00:17::1")...)...))
	dir := f.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "resolv.conf"), nil, 0o600); err != nil {
		f.Fatal(err)
	}
	b := newBench(f, func(_ *netswitch.Config, o *outside) { o.unicast = func(netip.Addr) bool { return false } })
	b.config.Endpoints = []netswitch.Endpoint{endpoint(2), endpoint(3)}
	b.apply()
	f.Fuzz(func(t *testing.T, frame []byte) {
		if len(frame) < frames.HeaderLen || len(frame) > frames.Max {
			return
		}
		table := b.table.Load()
		e := table.order[0]
		if admit(table, e, frame) == deliver {
			p := frame[frames.HeaderLen:]
			switch etherType(frame) {
			case etherIPv4:
				if !e.has(addr(p[12:16])) {
					t.Errorf("%v is not its address", addr(p[12:16]))
				}
			case etherIPv6:
				if from := addr(p[8:24]); !e.has(from) && !from.IsLinkLocalUnicast() && !from.IsUnspecified() {
					t.Errorf("%v is not its address", from)
				}
			}
		}
		b.pass(table, e, frames.Append(nil, frame))
		if dialed := b.wasDialed(); dialed != nil {
			t.Errorf("it has dialled %v", dialed)
		}
	})
}
