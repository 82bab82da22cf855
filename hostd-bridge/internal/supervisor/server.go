package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/containervm/containervm/hostd-bridge/internal/vmlog"
	"github.com/containervm/containervm/hostd-bridge/internal/vsock"
)

// lingerTimeout is how long the supervisor of an ended machine waits for its clients to read the rest.
const lingerTimeout = 10 * time.Second

// server answers the daemon.
type server struct {
	m     *machine
	conns sync.WaitGroup
}

// serve answers clients until the machine has ended and they have read the rest.
func (s *server) serve(l *net.UnixListener) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		<-s.m.ended
		l.Close()
		time.AfterFunc(lingerTimeout, cancel)
	}()
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			break
		}
		s.conns.Go(func() { s.handle(ctx, c) })
	}
	<-s.m.ended
	s.conns.Wait()
}

// handle answers one connection.
func (s *server) handle(ctx context.Context, c *net.UnixConn) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	var r request
	received, err := receiveFrame(c, &r)
	if err != nil {
		s.m.log.Debug("no request", "err", err)
		return
	}
	defer closeAll(received) // what is needed is QEMU's then
	if err := r.receive(received); err != nil {
		s.answer(c, replyTo(err))
		return
	}
	s.m.log.Debug("request", "op", r.Op)
	switch r.Op {
	case opEvents:
		s.events(ctx, c)
	case opDial:
		s.dial(ctx, c, r.Port)
	case opTemplate:
		s.template(ctx, c, r.To)
	case opLog:
		s.log(ctx, c, r)
	case opMemory:
		s.memory(c)
	case opQEMU:
		if s.answer(c, reply{}) {
			_ = writeFrame(c, s.m.qemu.cmd.Process.Pid) // who has left needs it no more
		}
	default:
		s.answer(c, s.do(ctx, r))
	}
}

// do executes the operations that are over with their reply.
func (s *server) do(ctx context.Context, r request) reply {
	m := s.m
	var op func() error
	switch r.Op {
	case opWho:
		return reply{}
	case opSet:
		m.info.Set(r.Set)
		return reply{}
	case opSetLog:
		return replyTo(m.out.SetLimits(r.Log, time.Now()))
	case opKill:
		m.kill()
		return reply{}
	case opAttach:
		op = func() error { return m.attach(ctx, r.Image) }
	case opDetach:
		op = func() error { return m.detach(ctx) }
	case opPlug:
		op = func() error { return m.plug(ctx, r.Disk) }
	case opUnplug:
		op = func() error { return m.unplug(ctx, r.Disk.Unit) }
	case opSetNIC:
		op = func() error { return m.setNIC(ctx, r.Slot, r.Card) }
	case opJoin:
		conn, err := unixConn(r.conn)
		if err == nil {
			err = m.joins.give(r.Slot, r.Card, conn)
		}
		return replyTo(err)
	case opPause:
		op = func() error { return m.pause(ctx) }
	case opResume:
		op = func() error { return m.resume(ctx) }
	case opReset:
		op = func() error { return m.restart(ctx) }
	default:
		return replyTo(fmt.Errorf("unknown operation %q: daemon and supervisor are of different versions", r.Op))
	}
	return replyTo(m.exec(m.ended, op))
}

func (s *server) answer(c *net.UnixConn, r reply) bool {
	if err := writeFrame(c, r); err != nil {
		s.m.log.Debug("client went away", "err", err)
		return false
	}
	return true
}

// events sends what the guest has set and sets, the marks and the freeze, then the Exit.
func (s *server) events(ctx context.Context, c *net.UnixConn) {
	if !s.answer(c, reply{}) {
		return
	}
	ctx, stop := hangup(ctx, c)
	defer stop()
	var sent sent
	frozen := s.m.frozen
	for {
		changed, marked, err := s.sendNew(c, &sent)
		if err != nil {
			return
		}
		unjoined, joins, waits := s.m.joins.unjoined(sent.joins)
		sent.joins = joins
		if len(unjoined) > 0 && writeFrame(c, Event{Unjoined: unjoined}) != nil {
			return
		}
		select {
		case <-waits:
		case <-changed:
		case <-marked:
		case <-frozen:
			if writeFrame(c, Event{Frozen: true}) != nil {
				return
			}
			frozen = nil
		case <-s.m.ended:
			s.sendLast(c, &sent)
			return
		case <-ctx.Done():
			return
		}
	}
}

// sent is how much a client has been sent.
type sent struct{ values, marks, joins int }

// sendNew sends what is new. The channels are closed when there is more.
func (s *server) sendNew(c *net.UnixConn, t *sent) (changed, marked <-chan struct{}, err error) {
	marks, marked := s.m.marks.since(t.marks)
	t.marks += len(marks)
	for _, mark := range marks {
		if err := writeFrame(c, Event{Mark: &mark}); err != nil {
			return nil, nil, err
		}
	}
	values, n, changed := s.m.info.Since(t.values)
	t.values = n
	for _, v := range values {
		if err := writeFrame(c, Event{Key: v.Key, Value: v.Value}); err != nil {
			return nil, nil, err
		}
	}
	return changed, marked, nil
}

// sendLast sends what is left of an ended machine, and the Exit.
func (s *server) sendLast(c *net.UnixConn, t *sent) {
	_, _, err := s.sendNew(c, t)
	if err == nil {
		err = writeFrame(c, Event{Exit: &s.m.exit})
	}
	if err != nil {
		s.m.log.Debug("client went away", "err", err)
	}
}

// log sends the log's records.
func (s *server) log(ctx context.Context, c *net.UnixConn, r request) {
	place := s.m.out.Place(vmlog.Reader{From: r.From, Follow: r.Follow, Hold: r.Hold})
	ctx, stop := hangup(ctx, c)
	defer stop()
	err := writeFrame(c, reply{At: place.Offset})
	if errs := s.m.out.Copy(ctx, c, place); err == nil { // which gives the place up
		err = errs
	}
	if err != nil {
		s.m.log.Debug("follower of the log went away", "err", err)
	}
}

// template sends the files of the machine's fork point.
func (s *server) template(ctx context.Context, c *net.UnixConn, to NewDisks) {
	point, release, err := s.m.forkPoint(ctx, to)
	if err == nil {
		defer release()
	}
	if !s.answer(c, replyTo(err)) || err != nil {
		return
	}
	if err := sendFrame(c, point.Hardware, point.RAM, point.State); err != nil {
		s.m.log.Debug("client went away", "err", err)
	}
}

// memory sends what the machine takes now.
func (s *server) memory(c *net.UnixConn) {
	taken, err := s.m.memory()
	if !s.answer(c, replyTo(err)) || err != nil {
		return
	}
	if err := writeFrame(c, taken); err != nil {
		s.m.log.Debug("client went away", "err", err)
	}
}

// dial connects the client with a port of the guest.
func (s *server) dial(ctx context.Context, c *net.UnixConn, port uint32) {
	if s.m.isFrozen() {
		s.answer(c, replyTo(errFrozen))
		return
	}
	dialing, stop := hangup(ctx, c)
	guest, err := s.m.vsock.Dial(dialing, port)
	stop()
	if !s.answer(c, replyTo(err)) || err != nil {
		if guest != nil {
			guest.Close()
		}
		return
	}
	splice(c, guest)
}

// hangup returns a context that ends when the client closes its connection; it may send nothing meanwhile. After stop the
// connection can be read again.
func hangup(parent context.Context, c *net.UnixConn) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancel(parent)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		_, err := c.Read(make([]byte, 1))
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			cancel()
		}
	}()
	return ctx, func() {
		c.SetReadDeadline(time.Unix(1, 0))
		<-watched
		c.SetReadDeadline(time.Time{})
		cancel()
	}
}

// splice copies both ways, half-closes included, until both are over or one fails.
func splice(c *net.UnixConn, guest vsock.Conn) {
	defer guest.Close()
	defer c.Close()
	var both sync.WaitGroup
	both.Go(func() { forward(guest, c, guest.CloseWrite, c, guest) })
	both.Go(func() { forward(c, guest, c.CloseWrite, c, guest) })
	both.Wait()
}

// forward copies one way; after an error both connections are closed.
func forward(dst io.Writer, src io.Reader, closeWrite func() error, both ...io.Closer) {
	_, err := io.Copy(struct{ io.Writer }{dst}, src)
	if err == nil {
		err = closeWrite()
	}
	if err != nil {
		for _, c := range both {
			c.Close()
		}
	}
}
