package core

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/netswitch"
)

const (
	// guestTime is how long a client of a published port waits for a guest that does not answer.
	guestTime = 20 * time.Second
	// ephemeralTries is how often a port that the host chose is tried for a second address, where it has to be free too.
	ephemeralTries = 16
)

// publication is a port of the host that leads to a port of a member.
type publication struct {
	asked hostapi.Publication // as it was told last
	bound hostapi.Publication // with its port
	to    atomic.Pointer[target]
	tcp   *net.TCPListener
	udp   *net.UDPConn
}

// target is where a publication leads, as long as it does.
type target struct {
	member *member
	port   uint16
	life   life
}

// lead has the publication lead to a port of a member. Sessions with where it led before end.
func (p *publication) lead(m *member, port uint16) {
	before := p.to.Load()
	if before != nil && before.member == m && before.port == port {
		return
	}
	p.to.Store(&target{member: m, port: port, life: newLife(m.core.ctx)})
	if before != nil {
		before.life.cancel()
	}
}

var errNoGateway = errors.New("a network without a gateway publishes no ports")

// publish gives the card's member the ports that the card wants, and takes over those that before has already. It binds all or changes
// nothing.
func (e *card) publish(before *member, cfg netswitch.Config) netswitch.Outcome {
	var want []hostapi.Publication
	if !cfg.Internal {
		want = e.Publish
	}
	var have []*publication
	if before != nil {
		have = slices.Clone(before.published)
	}
	if len(want) > 0 && len(cfg.Gateways) == 0 {
		return netswitch.Outcome{Failed: &netswitch.Failure{Publication: want[0], Text: errNoGateway.Error()}}
	}
	all := make([]*publication, len(want))
	for i, w := range want { // what is the same first, so that nothing else takes it
		if at := slices.IndexFunc(have, func(p *publication) bool { return p.same(w) && p.bound.Port == w.Port }); at >= 0 {
			all[i] = have[at]
			have = slices.Delete(have, at, at+1)
		}
	}
	for i, w := range want {
		if at := slices.IndexFunc(have, func(p *publication) bool { return p.same(w) }); all[i] == nil && at >= 0 {
			all[i] = have[at] // leads elsewhere from now on
			have = slices.Delete(have, at, at+1)
		}
	}
	fresh, failed := e.core.bindAll(want, all)
	if failed != nil {
		return netswitch.Outcome{Failed: failed}
	}
	for i, p := range all {
		p.asked, p.bound.Port, p.bound.Network = want[i], want[i].Port, want[i].Network
		p.lead(e.member, want[i].Port)
	}
	for _, p := range have {
		p.close()
	}
	for _, p := range fresh {
		e.core.serve(p)
	}
	if before != nil {
		before.published = nil
	}
	e.published = all
	outcome := netswitch.Outcome{}
	for _, p := range all {
		outcome.Published = append(outcome.Published, p.bound)
	}
	return outcome
}

// same reports whether a publication has the host's side of one that is wanted: it asked for the same, or was given what is asked for.
func (p *publication) same(w hostapi.Publication) bool {
	asked := p.asked.HostPort == w.HostPort && p.asked.HostPortEnd == w.HostPortEnd
	given := p.bound.HostPort == w.HostPort && w.HostPortEnd == 0
	return p.bound.Protocol == w.Protocol && p.bound.HostIP == w.HostIP && (asked || given)
}

// bindAll binds those of want that all has not, and puts them there. It returns them too.
func (c *core) bindAll(want []hostapi.Publication, all []*publication) (fresh []*publication, failed *netswitch.Failure) {
	undo := func() {
		for _, p := range fresh {
			p.close()
		}
		for i := range all {
			if slices.Contains(fresh, all[i]) {
				all[i] = nil
			}
		}
		fresh = nil
	}
	for try := 0; ; try++ {
		failed = nil
		for i, w := range want {
			if all[i] != nil {
				continue
			}
			p, err := c.bind(w, sibling(want, all, i))
			if err != nil {
				failed = failureOf(w, err)
				undo()
				break
			}
			all[i], fresh = p, append(fresh, p)
		}
		if failed == nil || failed.Errno != syscall.EADDRINUSE || failed.Publication.HostPort != 0 || try == ephemeralTries {
			return fresh, failed
		}
	}
}

// sibling returns the port that the same publication was given at another address of the host; 0: none. Who asks for any port at
// 0.0.0.0 and :: means one port.
func sibling(want []hostapi.Publication, all []*publication, i int) uint16 {
	w := want[i]
	if w.HostPort != 0 && w.HostPortEnd == 0 {
		return 0
	}
	for j, o := range want {
		if all[j] != nil && o.Protocol == w.Protocol && o.Port == w.Port && o.HostPort == w.HostPort && o.HostPortEnd == w.HostPortEnd && o.HostIP != w.HostIP {
			return all[j].bound.HostPort
		}
	}
	return 0
}

// bind opens the host's side. prefer is a port that it shall have if the host may choose.
func (c *core) bind(w hostapi.Publication, prefer uint16) (*publication, error) {
	if prefer != 0 {
		if p, err := c.open(w, prefer); err == nil || w.HostPort == 0 { // then all of them are tried with another one
			return p, err
		}
	}
	var p *publication
	var err error
	for port := int(w.HostPort); port <= int(max(w.HostPort, w.HostPortEnd)); port++ {
		if p, err = c.open(w, uint16(port)); err == nil || !errors.Is(err, syscall.EADDRINUSE) {
			break
		}
	}
	return p, err
}

func (c *core) open(w hostapi.Publication, port uint16) (*publication, error) {
	p := &publication{asked: w, bound: w}
	at := netip.AddrPortFrom(w.HostIP, port)
	suffix := "6" // alone: it does not take IPv4's port too
	if w.HostIP.Is4() {
		suffix = "4"
	}
	var err error
	switch w.Protocol {
	case hostapi.TCP:
		if p.tcp, err = net.ListenTCP("tcp"+suffix, net.TCPAddrFromAddrPort(at)); err == nil {
			port = p.tcp.Addr().(*net.TCPAddr).AddrPort().Port()
		}
	case hostapi.UDP:
		if p.udp, err = net.ListenUDP("udp"+suffix, net.UDPAddrFromAddrPort(at)); err == nil {
			port = p.udp.LocalAddr().(*net.UDPAddr).AddrPort().Port()
		}
	default:
		err = fmt.Errorf("protocol %q is neither %s nor %s", w.Protocol, hostapi.TCP, hostapi.UDP)
	}
	if err != nil {
		return nil, err
	}
	p.bound.HostPort, p.bound.HostPortEnd = port, 0
	return p, nil
}

func failureOf(w hostapi.Publication, err error) *netswitch.Failure {
	f := &netswitch.Failure{Publication: w, Text: fmt.Sprintf("cannot bind %s port %d of %v: %v", w.Protocol, w.HostPort, w.HostIP, err)}
	errors.As(err, &f.Errno)
	return f
}

// close ends the publication and its sessions.
func (p *publication) close() {
	if to := p.to.Load(); to != nil {
		to.life.cancel()
	}
	if p.tcp != nil {
		p.tcp.Close()
	} else {
		p.udp.Close()
	}
}

// unpublish ends all ports of the member.
func (m *member) unpublish() {
	for _, p := range m.published {
		p.close()
	}
	m.published = nil
}

// serve lets clients in until the publication is closed.
func (c *core) serve(p *publication) {
	if p.udp != nil {
		c.running.Go(func() { c.serveDatagrams(p) })
		return
	}
	c.running.Go(func() {
		for {
			client, err := p.tcp.AcceptTCP()
			switch {
			case err == nil:
				c.running.Go(func() { c.admitClient(p, client) })
			case outOfFiles(err):
				time.Sleep(outOfFilesPause)
			default:
				return
			}
		}
	})
}

// admitClient connects a client with the guest.
func (c *core) admitClient(p *publication, client *net.TCPConn) {
	to := p.to.Load()
	life := to.member.life()
	guest, err := c.reach(life, to, client.RemoteAddr().(*net.TCPAddr).AddrPort().Addr())
	if err != nil {
		client.SetLinger(0) // it is refused, as far as that is possible after an accept
		client.Close()
		return
	}
	defer to.member.end()
	splice(guest, client, to.life, life)
}

// reach connects to the guest behind a publication. Without an error it has begun a session of the member.
func (c *core) reach(life context.Context, to *target, client netip.Addr) (*guestConn, error) {
	e := to.member.card.Load()
	if e == nil || e.port.Load() == nil {
		return nil, errors.New("the guest is not there")
	}
	a, err := c.table.Load().reach(e, client.Unmap().Is4())
	if err != nil {
		return nil, err
	}
	if !e.begin() {
		return nil, errors.New("the endpoint has too many sessions")
	}
	ctx, cancel := context.WithTimeout(to.life, guestTime)
	defer cancel()
	defer context.AfterFunc(life, cancel)()
	guest, err := dialGuest(ctx, c.gateway.stack, tcp.ProtocolNumber, netip.AddrPortFrom(a, to.port))
	if err != nil {
		e.end()
	}
	return guest, err
}
