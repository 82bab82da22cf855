package core

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/containervm/containervm/hostd-bridge/internal/netswitch"
)

// ask makes a question.
func question(id uint16, name string, kind dnsmessage.Type) []byte {
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: id, RecursionDesired: true}, Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: kind, Class: dnsmessage.ClassINET}}}
	b, err := m.Pack()
	if err != nil {
		panic(err)
	}
	return b
}

// told is an answer in short.
type told struct {
	code    dnsmessage.RCode
	records []string
	cut     bool
}

func read(t *testing.T, id uint16, reply []byte) told {
	t.Helper()
	var m dnsmessage.Message
	if err := m.Unpack(reply); err != nil || m.ID != id || !m.Response {
		t.Fatalf("the answer is %x, %v", reply, err)
	}
	a := told{code: m.RCode, cut: m.Truncated}
	for _, r := range m.Answers {
		switch body := r.Body.(type) {
		case *dnsmessage.AResource:
			a.records = append(a.records, netip.AddrFrom4(body.A).String())
		case *dnsmessage.AAAAResource:
			a.records = append(a.records, netip.AddrFrom16(body.AAAA).String())
		case *dnsmessage.PTRResource:
			a.records = append(a.records, body.PTR.String())
		}
	}
	slices.Sort(a.records)
	return a
}

// lookup asks a name server as a guest does, by UDP.
func (g *guest) lookup(t *testing.T, server, name string, kind dnsmessage.Type) told {
	t.Helper()
	c := g.dialUDP(net.JoinHostPort(server, "53"))
	defer c.Close()
	id := uint16(len(name))<<8 + uint16(kind)
	say(t, c, string(question(id, name, kind)))
	buf := make([]byte, 4096)
	n, err := c.Read(buf)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return read(t, id, buf[:n])
}

// lookupTCP asks by TCP.
func (g *guest) lookupTCP(t *testing.T, server, name string, kind dnsmessage.Type) told {
	t.Helper()
	c := g.mustDial(net.JoinHostPort(server, "53"))
	q := question(77, name, kind)
	say(t, c, string(append(binary.BigEndian.AppendUint16(nil, uint16(len(q))), q...)))
	reply, err := readQuery(c)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return read(t, 77, reply)
}

func (a told) is(t *testing.T, what string, code dnsmessage.RCode, records ...string) {
	t.Helper()
	if a.code != code || !slices.Equal(a.records, records) {
		t.Errorf("%s: %v %v, want %v %v", what, a.code, a.records, code, records)
	}
}

const (
	noError   = dnsmessage.RCodeSuccess
	nxDomain  = dnsmessage.RCodeNameError
	typeA     = dnsmessage.TypeA
	typeAAAA  = dnsmessage.TypeAAAA
	typePTR   = dnsmessage.TypePTR
	hostsName = "outside.example."
)

// hostResolver answers as a resolver of the host does: hostsName has the address 203.0.113.9, and nothing else is there.
func hostResolver(t *testing.T, b *bench) *atomic.Int64 {
	t.Helper()
	asked := new(atomic.Int64)
	answer := func(query []byte) []byte {
		asked.Add(1)
		var m dnsmessage.Message
		if m.Unpack(query) != nil {
			return nil
		}
		m.Response, m.RecursionAvailable, m.RCode, m.Additionals = true, true, nxDomain, nil
		switch q := m.Questions[0]; q.Name.String() {
		case hostsName:
			m.RCode = noError
			m.Answers = []dnsmessage.Resource{{Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 60}, Body: &dnsmessage.AResource{A: [4]byte{203, 0, 113, 9}}}}
		case "silent.example.":
			return nil
		}
		reply, _ := m.Pack()
		return reply
	}
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	at := c.LocalAddr().(*net.UDPAddr).AddrPort()
	go func() {
		buf := make([]byte, 4096)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			if reply := answer(buf[:n]); reply != nil {
				forged := slices.Clone(reply)
				forged[0]++
				_, _ = c.WriteTo(forged, from) // of another number
				_, _ = c.WriteTo(reply, from)
			}
		}
	}()
	tcp := serveOutside(t, "127.0.0.1", func(c net.Conn) {
		if query, err := readQuery(c); err == nil {
			reply := answer(query)
			say(t, c, string(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...)))
		}
	})
	dial := b.outside.dial
	b.outside.dial = func(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
		if to == netip.MustParseAddrPort("127.0.0.53:53") {
			if to = at; network == "tcp" {
				to = netip.AddrPortFrom(at.Addr(), tcp)
			}
		}
		return dial(ctx, network, to)
	}
	b.resolvConf("nameserver 127.0.0.53\n")
	return asked
}

func (b *bench) resolvConf(text string) {
	b.Helper()
	path := filepath.Join(b.dir, "resolv.conf")
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		b.Fatal(err)
	}
}

func TestNames(t *testing.T) {
	b := newBench(t)
	asked := hostResolver(t, b)
	g := b.add(2, func(e *netswitch.Endpoint) {
		e.Names = []string{"web", "0123456789ab", "Alias"}
		e.Others = []netswitch.Name{{Name: "db", Addresses: []netip.Addr{ip("172.18.0.5")}}, {Name: "c3", Addresses: []netip.Addr{ip("172.18.0.6")}}}
	})
	other := b.add(3, func(e *netswitch.Endpoint) {
		e.Names = []string{"c3", "alias", "only-four.example"}
		e.Addresses = e.Addresses[:1]
	})
	for _, server := range []string{"172.17.0.1"} {
		g.lookup(t, server, "web.", typeA).is(t, "its own name", noError, "172.17.0.2")
		g.lookup(t, server, "WEB.", typeAAAA).is(t, "AAAA", noError, "fd00:17::2")
		g.lookup(t, server, "0123456789ab.", typeA).is(t, "short ID", noError, "172.17.0.2")
		g.lookup(t, server, "alias.", typeA).is(t, "an alias of two", noError, "172.17.0.2", "172.17.0.3")
		g.lookup(t, server, "only-four.example.", typeA).is(t, "a name with a dot", noError, "172.17.0.3")
		g.lookup(t, server, "only-four.example.", typeAAAA).is(t, "a family that a name has not", noError)
		g.lookup(t, server, "web.", dnsmessage.TypeMX).is(t, "another type", noError)
		g.lookup(t, server, "web.", dnsmessage.TypeALL).is(t, "all", noError, "172.17.0.2", "fd00:17::2")
		g.lookup(t, server, "2.0.17.172.in-addr.arpa.", typePTR).is(t, "PTR", noError, "web.")
		g.lookup(t, server, "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.7.1.0.0.0.0.d.f.ip6.arpa.", typePTR).is(t, "PTR of IPv6", noError, "web.")
		g.lookup(t, server, "99.0.17.172.in-addr.arpa.", typePTR).is(t, "PTR of nobody", nxDomain)
		g.lookup(t, server, "5.0.18.172.in-addr.arpa.", typePTR).is(t, "PTR of its other network", noError, "db.")
		g.lookup(t, server, "db.", typeA).is(t, "a name of its other network", noError, "172.18.0.5")
		g.lookup(t, server, "db.", typeAAAA).is(t, "and of another family", noError)
		g.lookup(t, server, "c3.", typeA).is(t, "a name of both", noError, "172.17.0.3")
		if n := asked.Load(); n != 0 {
			t.Errorf("the host's resolver was asked %d times", n)
		}
		other.lookup(t, server, "db.", typeA).is(t, "a name of another's other network", nxDomain)
	}
	(&guest{bench: b, stack: g.stack}).lookup(t, "fd00:17::1", "web.", typeA).is(t, "by IPv6", noError, "172.17.0.2")
	g.lookup(t, "172.17.0.1", hostsName, typeA).is(t, "a name of the outside", noError, "203.0.113.9")
	g.lookup(t, "172.17.0.1", "nowhere.example.", typeA).is(t, "no name", nxDomain)
	g.lookup(t, "172.17.0.1", "9.113.0.203.in-addr.arpa.", typePTR).is(t, "PTR of the outside", nxDomain)
	g.lookupTCP(t, "172.17.0.1", "web.", typeA).is(t, "by TCP", noError, "172.17.0.2")
	g.lookupTCP(t, "172.17.0.1", hostsName, typeA).is(t, "the outside by TCP", noError, "203.0.113.9")
	// Names follow renames, connects and removals.
	b.config.Endpoints[1].Names = []string{"renamed"}
	b.apply()
	g.lookup(t, "172.17.0.1", "renamed.", typeA).is(t, "a new name", noError, "172.17.0.3")
	g.lookup(t, "172.17.0.1", "only-four.example.", typeA).is(t, "an old name", nxDomain)
}

// TestManyAddressesOfAName are answered by TCP when a datagram is too short for them.
func TestManyAddressesOfAName(t *testing.T) {
	b := newBench(t)
	g := b.add(2)
	for n := byte(3); n < 90; n++ {
		e := endpoint(n)
		e.Names = []string{"all"}
		b.config.Endpoints = append(b.config.Endpoints, e)
	}
	b.apply()
	if a := g.lookup(t, "172.17.0.1", "all.", typeA); !a.cut || a.records != nil {
		t.Errorf("by UDP: %+v", a)
	}
	if a := g.lookupTCP(t, "172.17.0.1", "all.", typeA); a.cut || len(a.records) != 87 {
		t.Errorf("by TCP: %d", len(a.records))
	}
}

// TestHostResolversFail: one that does not answer is passed over; when none does the guest hears that it failed.
func TestHostResolversFail(t *testing.T) {
	b := newBench(t)
	hostResolver(t, b)
	g := b.add(2)
	b.resolvConf("# two\nnameserver 127.0.0.54\nsearch example\nnameserver 127.0.0.53\n") // the first refuses
	g.lookup(t, "172.17.0.1", hostsName, typeA).is(t, "by the second", noError, "203.0.113.9")
	b.resolvConf("nameserver 127.0.0.54\n")
	g.lookup(t, "172.17.0.1", hostsName, typeA).is(t, "by none", dnsmessage.RCodeServerFailure)
	b.resolvConf("nameserver 127.0.0.53\n")
	g.lookup(t, "172.17.0.1", hostsName, typeA).is(t, "by the one that the file names now", noError, "203.0.113.9")
	g.lookup(t, "172.17.0.1", "silent.example.", typeA).is(t, "without an answer", dnsmessage.RCodeServerFailure)
	if n := b.totals.asking.Load(); n != 0 {
		t.Errorf("%d questions are open", n)
	}
}

func TestNamesOfAnInternalNetwork(t *testing.T) {
	b := newBench(t, func(c *netswitch.Config, _ *outside) { c.Internal = true })
	asked := hostResolver(t, b)
	g := b.add(2)
	g.lookup(t, "172.17.0.1", "c2.", typeA).is(t, "its own", noError, "172.17.0.2")
	g.lookup(t, "172.17.0.1", "secret.example.", typeA).is(t, "the outside", dnsmessage.RCodeRefused)
	if asked.Load() != 0 {
		t.Error("the question has left the network")
	}
}

// TestQuestionsAreBounded: a guest that asks more than it may does not keep others from asking.
func TestQuestionsAreBounded(t *testing.T) {
	b := newBench(t)
	hostResolver(t, b)
	g, other := b.add(2), b.add(3)
	c := g.dialUDP("172.17.0.1:53")
	for i := range 3 * maxCardQueries {
		say(t, c, string(question(uint16(i), "silent.example.", typeA)))
	}
	other.lookup(t, "172.17.0.1", hostsName, typeA).is(t, "another", noError, "203.0.113.9")
	if n := b.totals.asking.Load(); n > maxCardQueries+1 {
		t.Errorf("%d questions are open", n)
	}
}

func TestGarbageQuestions(t *testing.T) {
	b := newBench(t)
	asked := hostResolver(t, b)
	g := b.add(2)
	c := g.dialUDP("172.17.0.1:53")
	good := question(1, "c2.", typeA)
	two := slices.Clone(good)
	two[5] = 2
	for _, q := range [][]byte{{}, {0}, good[:11], good[:len(good)-1], make([]byte, 12), two, append(slices.Clone(good[:2]), append([]byte{0x80}, good[3:]...)...), make([]byte, 9000)} {
		if _, err := c.Write(q); err != nil {
			t.Fatal(err)
		}
	}
	g.lookup(t, "172.17.0.1", "c2.", typeA).is(t, "a good one behind it", noError, "172.17.0.2")
	s := g.mustDial("172.17.0.1:53")
	say(t, s, "\xff\xff")
	if _, err := io.ReadAll(s); err != nil && !strings.Contains(err.Error(), "reset") {
		t.Errorf("a question of 65535 bytes: %v", err)
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("the host's resolver was asked %d times", n)
	}
}

// FuzzQuestion: whatever a guest asks, an answer can be read and has its number, and what goes to the host's resolvers is a question.
func FuzzQuestion(f *testing.F) {
	f.Add(question(1, "c2.", typeA))
	f.Add(question(2, "2.0.17.172.in-addr.arpa.", typePTR))
	f.Add(question(3, "outside.example.", typeAAAA))
	f.Add(question(4, "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.7.1.0.0.0.0.d.f.ip6.arpa.", typePTR))
	f.Add([]byte("\x00\x05\x01\x00\x00\x01\x00\x00\x00\x00\x00\x01\x00\x00\x01\x00\x01\x00\x00\x29\x10\x00\x00\x00\x00\x00\x00\x00"))
	t := testTable()
	f.Fuzz(func(tt *testing.T, query []byte) {
		most := room(query)
		reply, err := t.answer(t.order[0], query, most)
		if most < maxDatagram || most > maxEDNS {
			tt.Errorf("an answer has room for %d bytes", most)
		}
		if err != nil {
			return
		}
		if reply == nil {
			var p dnsmessage.Parser
			if h, err := p.Start(query); err != nil || h.Response {
				tt.Errorf("no question is passed on: %v", err)
			}
			return
		}
		var m dnsmessage.Message
		if err := m.Unpack(reply); err != nil || !m.Response || m.ID != binary.BigEndian.Uint16(query) || len(reply) > max(most, 12+256+5) {
			tt.Errorf("the answer %x: %v", reply, err)
		}
	})
}
