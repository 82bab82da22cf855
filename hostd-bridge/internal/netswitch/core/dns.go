package core

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	dnsPort = 53
	// nameTTL is how long a guest may remember a name of its network, in seconds: names follow renames and connects.
	nameTTL = 5
	// maxDatagram is the longest answer by UDP to who did not say more (RFC 1035, 4.2.1), maxEDNS to who did: what any path carries.
	maxDatagram = 512
	maxEDNS     = 1232
	maxQuery    = 4096 // of a question, in bytes
	// maxQueries bounds the questions that wait for the host's resolvers, of all endpoints and of one. More are dropped, and asked
	// again.
	maxQueries     = 512
	maxCardQueries = 128
	// maxNameConns bounds an endpoint's connections to the name server.
	maxNameConns = 16
)

var errTooMany = errors.New("the endpoint has too many sessions")

// nameKey is what names are compared by: case does not matter (RFC 4343), nor the dot of the root.
func nameKey(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

// lookup finds a name as an endpoint knows it.
func (t *table) lookup(e *card, name string) ([]netip.Addr, bool) {
	key := nameKey(name)
	if found, ok := t.names[key]; ok {
		return found, true
	}
	found, ok := e.others[key]
	return found, ok
}

// lookupAddr finds the name of an address. mine: there is no need to ask others.
func (t *table) lookupAddr(e *card, a netip.Addr) (name string, mine bool) {
	if name := t.reverse[a]; name != "" {
		return name, true
	}
	if name := e.back[a]; name != "" {
		return name, true
	}
	return "", t.inside(a) // the host's resolvers know nothing of its networks' insides, nor do others need to hear of them
}

// reverseName reads the name that asks for an address's name (RFC 1035, 3.5; RFC 3596, 2.5).
func reverseName(name string) (netip.Addr, bool) {
	key := nameKey(name)
	if digits, ok := strings.CutSuffix(key, ".in-addr.arpa"); ok {
		parts := strings.Split(digits, ".")
		slices.Reverse(parts)
		a, err := netip.ParseAddr(strings.Join(parts, "."))
		return a, err == nil && a.Is4()
	}
	digits, ok := strings.CutSuffix(key, ".ip6.arpa")
	if !ok || len(digits) != 63 {
		return netip.Addr{}, false
	}
	var b [16]byte
	for i, d := range strings.Split(digits, ".") {
		nibble, err := strconv.ParseUint(d, 16, 4)
		if err != nil || len(d) != 1 || i > 31 {
			return netip.Addr{}, false
		}
		b[15-i/2] |= byte(nibble) << (4 * (i % 2))
	}
	return netip.AddrFrom16(b), true
}

// answer answers a question from what the switch knows: pure but for the order of addresses. Without an answer and without an error the
// question is for the host's resolvers.
func (t *table) answer(e *card, query []byte, most int) ([]byte, error) {
	var p dnsmessage.Parser
	h, err := p.Start(query)
	if err != nil {
		return nil, err
	}
	if h.Response {
		return nil, errors.New("an answer, not a question")
	}
	q, err := p.Question()
	if err != nil {
		return reject(h, nil, dnsmessage.RCodeFormatError)
	}
	if h.OpCode != 0 {
		return reject(h, &q, dnsmessage.RCodeNotImplemented)
	}
	if _, err := p.Question(); !errors.Is(err, dnsmessage.ErrSectionDone) {
		return reject(h, &q, dnsmessage.RCodeFormatError)
	}
	if q.Class != dnsmessage.ClassINET {
		return t.forward(h, q)
	}
	if a, ok := reverseName(q.Name.String()); ok {
		name, mine := t.lookupAddr(e, a)
		switch {
		case name != "":
			return t.found(h, q, most, nil, name)
		case mine:
			return reject(h, &q, dnsmessage.RCodeNameError)
		}
		return t.forward(h, q)
	}
	if addresses, ok := t.lookup(e, q.Name.String()); ok {
		return t.found(h, q, most, addresses, "")
	}
	return t.forward(h, q)
}

// forward leaves a question to the host's resolvers, which an internal network does not reach: what leaves it as a question leaves it.
// Refused, and not unknown, so that the guest asks its next name server.
func (t *table) forward(h dnsmessage.Header, q dnsmessage.Question) ([]byte, error) {
	if t.config.Internal {
		return reject(h, &q, dnsmessage.RCodeRefused)
	}
	return nil, nil
}

func answerHeader(h dnsmessage.Header, code dnsmessage.RCode) dnsmessage.Header {
	return dnsmessage.Header{ID: h.ID, Response: true, OpCode: h.OpCode, RecursionDesired: h.RecursionDesired, RecursionAvailable: true, RCode: code}
}

// reject answers with a code alone.
func reject(h dnsmessage.Header, q *dnsmessage.Question, code dnsmessage.RCode) ([]byte, error) {
	m := dnsmessage.Message{Header: answerHeader(h, code)}
	if q != nil {
		m.Questions = []dnsmessage.Question{*q}
	}
	return m.Pack()
}

// found answers with what was found: addresses of the asked family, in an order by chance, or a name. A name that is there without what
// is asked for is an answer without records, so that nobody takes it for unknown.
func (t *table) found(h dnsmessage.Header, q dnsmessage.Question, most int, addresses []netip.Addr, name string) ([]byte, error) {
	m := dnsmessage.Message{Header: answerHeader(h, dnsmessage.RCodeSuccess), Questions: []dnsmessage.Question{q}}
	m.Authoritative = true
	record := func(body dnsmessage.ResourceBody) {
		m.Answers = append(m.Answers, dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: nameTTL}, Body: body})
	}
	for _, a := range addresses {
		switch {
		case a.Is4() && (q.Type == dnsmessage.TypeA || q.Type == dnsmessage.TypeALL):
			record(&dnsmessage.AResource{A: a.As4()})
		case a.Is6() && (q.Type == dnsmessage.TypeAAAA || q.Type == dnsmessage.TypeALL):
			record(&dnsmessage.AAAAResource{AAAA: a.As16()})
		}
	}
	if name != "" && (q.Type == dnsmessage.TypePTR || q.Type == dnsmessage.TypeALL) {
		target, err := dnsmessage.NewName(strings.TrimSuffix(name, ".") + ".")
		if err != nil {
			return reject(h, &q, dnsmessage.RCodeServerFailure)
		}
		record(&dnsmessage.PTRResource{PTR: target})
	}
	rand.Shuffle(len(m.Answers), func(i, j int) { m.Answers[i], m.Answers[j] = m.Answers[j], m.Answers[i] })
	b, err := m.Pack()
	if err != nil { // a name of ours that DNS cannot carry
		return reject(h, &q, dnsmessage.RCodeServerFailure)
	}
	if len(b) > most {
		m.Answers, m.Truncated = nil, true // asked again by TCP
		return m.Pack()
	}
	return b, nil
}

// room is how long an answer by UDP may be, by what the question says (RFC 6891).
func room(query []byte) int {
	var p dnsmessage.Parser
	if _, err := p.Start(query); err != nil || p.SkipAllQuestions() != nil || p.SkipAllAnswers() != nil || p.SkipAllAuthorities() != nil {
		return maxDatagram
	}
	for {
		h, err := p.AdditionalHeader()
		if err != nil {
			return maxDatagram
		}
		if h.Type == dnsmessage.TypeOPT {
			return min(max(int(h.Class), maxDatagram), maxEDNS)
		}
		if p.SkipAdditional() != nil {
			return maxDatagram
		}
	}
}

// serve answers questions at one of the gateway's addresses until end is called, which returns when nobody answers there any more.
func (r *resolver) serve(s *stack.Stack, a netip.Addr) (end func(), err error) {
	at := tcpip.FullAddress{NIC: theNIC, Addr: toTCPIP(a), Port: dnsPort}
	datagrams, err := gonet.DialUDP(s, &at, nil, family(a))
	if err != nil {
		return nil, fmt.Errorf("cannot resolve names at %v: %w", a, err)
	}
	streams, err := gonet.ListenTCP(s, at, family(a))
	if err != nil {
		datagrams.Close()
		return nil, fmt.Errorf("cannot resolve names at %v: %w", a, err)
	}
	done := make(chan struct{}, 2)
	go func() { r.serveDatagrams(datagrams); done <- struct{}{} }()
	go func() { r.serveStreams(streams); done <- struct{}{} }()
	return func() {
		datagrams.Close()
		streams.Shutdown()
		streams.Close()
		<-done
		<-done
	}, nil
}

// serveDatagrams answers questions by UDP. What is known is answered at once, the rest in a goroutine of its own.
func (r *resolver) serveDatagrams(c *gonet.UDPConn) {
	buf := make([]byte, maxQuery)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			if r.core.ctx.Err() != nil || isClosed(err) {
				return
			}
			continue // of one datagram
		}
		e := r.asker(from)
		if e == nil {
			continue
		}
		reply, err := r.core.table.Load().answer(e, buf[:n], room(buf[:n]))
		if err != nil {
			continue
		}
		r.core.totals.queries.Add(1)
		if reply != nil {
			_, _ = c.WriteTo(reply, from) // datagrams may be lost
			continue
		}
		if !r.begin(e) {
			continue
		}
		query := slices.Clone(buf[:n])
		go func() {
			defer r.end(e)
			if reply := r.ask(e.life(), query, "udp"); reply != nil {
				_, _ = c.WriteTo(reply, from) // datagrams may be lost
			}
		}()
	}
}

// serveStreams answers questions by TCP.
func (r *resolver) serveStreams(l *gonet.TCPListener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		e := r.asker(c.RemoteAddr())
		if e == nil || e.nameConns.Add(1) > maxNameConns || !r.core.enter() {
			if e != nil {
				e.nameConns.Add(-1)
			}
			c.Close()
			continue
		}
		go func() {
			defer r.core.running.Done()
			defer e.nameConns.Add(-1)
			defer c.Close()
			r.serveStream(c, e)
		}()
	}
}

// readQuery reads a question with its length (RFC 1035, 4.2.2).
func readQuery(r io.Reader) ([]byte, error) {
	var length [2]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(length[:]))
	if n > maxQuery {
		return nil, fmt.Errorf("a question of %d bytes", n)
	}
	query := make([]byte, n)
	_, err := io.ReadFull(r, query)
	return query, err
}
