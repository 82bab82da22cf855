package core

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	// askTime is how long one of the host's resolvers may take to answer, before the next is asked: guests ask again after 5 s
	// (resolv.conf(5)).
	askTime = 2 * time.Second
	// maxResolvers is how many of them are asked: MAXNS of resolv.conf(5).
	maxResolvers = 3
	// maxResolvConf bounds what is read of the host's file, in bytes.
	maxResolvConf = 64 << 10
	// streamIdle is how long a guest's connection to the name server may rest (RFC 7766, 6.2.3).
	streamIdle = 10 * time.Second
)

// resolver answers guests' questions: from the table, or from the host's resolvers.
type resolver struct {
	core *core

	mu      sync.Mutex
	servers []netip.AddrPort
	read    os.FileInfo // of the file that servers are from
}

func newResolver(c *core) *resolver { return &resolver{core: c} }

// asker is the endpoint that a question is from.
func (r *resolver) asker(a net.Addr) *card {
	var ip net.IP
	switch a := a.(type) {
	case *net.UDPAddr:
		ip = a.IP
	case *net.TCPAddr:
		ip = a.IP
	}
	from, _ := netip.AddrFromSlice(ip)
	return r.core.table.Load().byAddr[from.Unmap()]
}

// begin counts a question to the host's resolvers, or refuses it. The asker calls end.
func (r *resolver) begin(e *card) bool {
	total := r.core.totals.asking.Add(1)
	if e.queries.Add(1) <= maxCardQueries && total <= maxQueries && r.core.enter() {
		return true
	}
	e.queries.Add(-1)
	r.core.totals.asking.Add(-1)
	return false
}

func (r *resolver) end(e *card) {
	e.queries.Add(-1)
	r.core.totals.asking.Add(-1)
	r.core.running.Done()
}

// serveStream answers one connection's questions, one after the other.
func (r *resolver) serveStream(c net.Conn, e *card) {
	defer context.AfterFunc(e.life(), func() { c.SetDeadline(time.Unix(1, 0)) })()
	for {
		c.SetDeadline(time.Now().Add(streamIdle))
		if e.life().Err() != nil {
			return
		}
		query, err := readQuery(c)
		if err != nil {
			return
		}
		reply, err := r.core.table.Load().answer(e, query, 1<<16-1)
		if err != nil {
			return
		}
		r.core.totals.queries.Add(1)
		if reply == nil && r.begin(e) {
			reply = r.ask(e.life(), query, "tcp")
			r.end(e)
		}
		if reply == nil || len(reply) > 1<<16-1 {
			return
		}
		if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...)); err != nil {
			return
		}
	}
}

// ask passes a question to the host's resolvers, one after the other, and returns what the first has to say; that it failed, when all
// do; nil when the question makes no sense.
func (r *resolver) ask(ctx context.Context, query []byte, network string) []byte {
	for _, server := range r.resolvers() {
		reply, err := r.askOne(ctx, query, network, server)
		if err == nil {
			return reply
		}
		if ctx.Err() != nil {
			return nil
		}
	}
	var p dnsmessage.Parser
	h, err := p.Start(query)
	if err != nil {
		return nil
	}
	q, err := p.Question()
	if err != nil {
		return nil
	}
	reply, _ := reject(h, &q, dnsmessage.RCodeServerFailure) // it was parsed just now
	return reply
}

// askOne asks with a number and from a port by chance, so that nobody else can answer.
func (r *resolver) askOne(ctx context.Context, query []byte, network string, server netip.AddrPort) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	conn, err := r.core.outside.dial(ctx, network, server)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	id := uint16(rand.Uint32())
	sent := bytes.Clone(query)
	binary.BigEndian.PutUint16(sent, id)
	message := sent
	if network == "tcp" {
		message = append(binary.BigEndian.AppendUint16(nil, uint16(len(sent))), sent...)
	}
	if _, err := conn.Write(message); err != nil {
		return nil, err
	}
	buf := takeBuffer()
	defer giveBuffer(buf)
	for {
		n, err := readReply(conn, *buf, network)
		if err != nil {
			return nil, err
		}
		reply := bytes.Clone((*buf)[:n])
		if !answers(reply, sent) {
			continue // an old one, or a forgery
		}
		copy(reply, query[:2])
		return reply, nil
	}
}

func readReply(conn net.Conn, buf []byte, network string) (int, error) {
	if network == "udp" {
		return conn.Read(buf)
	}
	var length [2]byte
	if _, err := io.ReadFull(conn, length[:]); err != nil {
		return 0, err
	}
	return io.ReadFull(conn, buf[:binary.BigEndian.Uint16(length[:])])
}

// answers reports whether a message is the answer to a question: same number, same name and type. A server that does not repeat the
// question is one that failed to read it.
func answers(reply, query []byte) bool {
	var r, q dnsmessage.Parser
	rh, err := r.Start(reply)
	if err != nil || !rh.Response {
		return false
	}
	qh, err := q.Start(query)
	if err != nil || rh.ID != qh.ID {
		return false
	}
	asked, err := q.Question()
	if err != nil {
		return false
	}
	repeated, err := r.Question()
	if errors.Is(err, dnsmessage.ErrSectionDone) {
		return rh.RCode != dnsmessage.RCodeSuccess
	}
	return err == nil && repeated.Type == asked.Type && repeated.Class == asked.Class && strings.EqualFold(repeated.Name.String(), asked.Name.String())
}

// resolvers returns the addresses of the host's resolvers, as its file names them now.
func (r *resolver) resolvers() []netip.AddrPort {
	r.mu.Lock()
	defer r.mu.Unlock()
	file := r.core.outside.resolvConf
	info, err := os.Stat(file)
	if err != nil {
		return r.servers // it may be about to be replaced
	}
	if r.read != nil && os.SameFile(info, r.read) && info.ModTime().Equal(r.read.ModTime()) && info.Size() == r.read.Size() {
		return r.servers
	}
	f, err := os.Open(file)
	if err != nil {
		return r.servers
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxResolvConf))
	if err != nil {
		return r.servers
	}
	r.servers, r.read = parseResolvConf(text), info
	return r.servers
}

// parseResolvConf returns the name servers of a resolv.conf(5); this host, if there is none.
func parseResolvConf(text []byte) (servers []netip.AddrPort) {
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan() && len(servers) < maxResolvers; {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(fields[1]); err == nil {
			servers = append(servers, netip.AddrPortFrom(a, dnsPort))
		}
	}
	if servers == nil {
		servers = []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), dnsPort)}
	}
	return servers
}

// isClosed reports whether an endpoint of the netstack is closed, which its library says by words alone.
func isClosed(err error) bool {
	var op *net.OpError
	return errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.As(err, &op) && op.Op == "read" && strings.Contains(op.Error(), "closed")
}
