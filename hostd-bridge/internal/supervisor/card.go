package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/containervm/containervm/hostd-bridge/internal/frames"
)

const (
	// rejoinMin and rejoinMax are how long a card waits before it tries again to join its switch; the wait doubles in between.
	rejoinMin = 20 * time.Millisecond
	rejoinMax = time.Second
	// sendTimeout is how long a switch may take none of a card's frames. The guest's frames wait meanwhile; a switch that stands still
	// is left after it.
	sendTimeout = time.Second
	// drainMax is more than a socket holds, in bytes: a guest that sends all the time does not keep its receipt from being answered.
	drainMax = 4 << 20
)

// card passes frames between QEMU's end of a network card and the switch of the card's network. It has two goroutines from when
// it is first connected until QEMU ends: outward always reads, so QEMU never waits for a switch that is not there; inward owns
// the connection with the switch, and only ever writes whole frames to QEMU.
type card struct {
	slot int
	qemu *os.File // our end of the socket pair
	log  *slog.Logger
	// dial makes a connection with the switch, whatever time it takes.
	dial func(ctx context.Context, slot int, want Card) (*net.UnixConn, error)

	ctx   context.Context // of the goroutines; ends when QEMU does
	end   context.CancelFunc
	tasks sync.WaitGroup

	mu       sync.Mutex
	want     Card
	changes  int                // of want
	started  bool               // the goroutines run
	admitted bool               // frames may pass; false: a child before its receipt
	stopDial context.CancelFunc // nil: no connection is being made

	conn    atomic.Pointer[net.UnixConn] // joined with the switch; inward sets it, with mu held
	passing atomic.Bool                  // outward has seen that frames may pass
	opened  chan struct{}                // closed when passing is true, or nothing will pass any more
	again   chan struct{}                // holds one: want has changed, or it is time to try again
}

// newCard returns a card that is spare. It owns qemu.
func newCard(slot int, qemu *os.File, admitted bool, dial func(context.Context, int, Card) (*net.UnixConn, error), log *slog.Logger) *card {
	c := &card{
		slot: slot, qemu: qemu, admitted: admitted, dial: dial, log: log.With("slot", slot), opened: make(chan struct{}), again: make(chan struct{}, 1),
	}
	c.ctx, c.end = context.WithCancel(context.Background())
	return c
}

// set says what the card is from now on. What it is already cuts nothing: a daemon that was started again says it to every card.
func (c *card) set(want Card) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if want == c.want && (c.started || !want.Connected) {
		return
	}
	c.want = want
	c.changes++
	if c.stopDial != nil {
		c.stopDial()
	}
	if conn := c.conn.Load(); conn != nil {
		conn.Close()
	}
	if want.Connected && !c.started {
		c.started = true
		if c.admitted {
			c.open()
		}
		c.tasks.Go(c.outward)
		c.tasks.Go(c.inward)
	}
	c.tryAgain()
}

// admit lets frames pass. Nothing passes that QEMU sent before it was called.
func (c *card) admit() {
	c.mu.Lock()
	begins := c.started && !c.admitted
	c.admitted = true
	c.mu.Unlock()
	if !begins {
		return
	}
	if err := c.qemu.SetReadDeadline(time.Unix(1, 0)); err != nil { // wakes outward
		return // QEMU is gone
	}
	<-c.opened
	c.tryAgain()
}

// isStarted reports whether the card was ever connected.
func (c *card) isStarted() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.started
}

func (c *card) open() {
	c.passing.Store(true)
	close(c.opened)
}

func (c *card) tryAgain() {
	select {
	case c.again <- struct{}{}:
	default:
	}
}

// close ends the card of a QEMU that is gone.
func (c *card) close() {
	c.qemu.Close()
	c.finish()
	c.tasks.Wait()
}

// finish ends the goroutines.
func (c *card) finish() {
	c.end()
	c.mu.Lock()
	defer c.mu.Unlock()
	if conn := c.conn.Load(); conn != nil {
		conn.Close()
	}
}

// outward passes frames from QEMU to the switch, or drops them, until QEMU closes its end.
func (c *card) outward() {
	defer c.finish()
	err := c.sendAll(frames.NewReader(c.qemu))
	if !c.passing.Load() {
		close(c.opened) // admit may wait for it
	}
	if errors.Is(err, frames.ErrLength) { // a guest with a driver of its own can send what is no frame
		c.log.Warn("the card sends what is no frame; it is not heard any more", "err", err)
		c.discard()
	}
}

// sendAll returns when nothing more can be read.
func (c *card) sendAll(from *frames.Reader) error {
	passing := c.passing.Load()
	for {
		batch, err := from.Batch()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			if err := c.drain(from); err != nil {
				return err
			}
			c.open()
			passing = true
		case err != nil:
			return err
		case passing:
			c.send(batch)
		}
	}
}

// drain drops what QEMU has sent so far.
func (c *card) drain(from *frames.Reader) error {
	if err := c.qemu.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	for dropped := 0; dropped < drainMax; {
		n, err := unread(c.qemu)
		if n == 0 || err != nil {
			return err
		}
		batch, err := from.Batch()
		if err != nil {
			return err
		}
		dropped += len(batch)
	}
	return nil
}

// unread is how many bytes a socket holds for its reader (SIOCINQ of unix(7)).
func unread(f *os.File) (n int, err error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	ctl := raw.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.SIOCINQ) })
	return n, errors.Join(ctl, err)
}

// send passes whole frames to the switch, if there is one.
func (c *card) send(batch []byte) {
	conn := c.conn.Load()
	if conn == nil {
		return
	}
	_ = conn.SetWriteDeadline(time.Now().Add(sendTimeout)) // fails when the write does
	if _, err := conn.Write(batch); err != nil {
		conn.Close() // inward sees it
	}
}

// discard reads until QEMU closes its end.
func (c *card) discard() {
	for {
		_, err := io.Copy(io.Discard, c.qemu)
		if !errors.Is(err, os.ErrDeadlineExceeded) || c.qemu.SetReadDeadline(time.Time{}) != nil {
			return
		}
	}
}

// inward joins the switch, passes its frames to QEMU, and joins again when the switch comes back or the card leads elsewhere.
func (c *card) inward() {
	for wait := rejoinMin; c.ctx.Err() == nil; {
		want, changes := c.current()
		if !want.Connected || want.Frames == "" {
			c.sleep(nil)
			wait = rejoinMin
			continue
		}
		began := time.Now()
		err := c.join(want, changes)
		if errors.Is(err, errChanged) || time.Since(began) > rejoinMax { // the switch has taken the card before it closed
			wait = rejoinMin
		}
		c.log.Debug("not joined with the network", "err", err, "again", wait)
		timer := time.NewTimer(wait)
		wait = min(2*wait, rejoinMax)
		if c.sleep(timer.C) {
			wait = rejoinMin
		}
		timer.Stop()
	}
}

func (c *card) current() (Card, int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.want, c.changes
}

// sleep waits until the time is over, and reports whether it was woken before.
func (c *card) sleep(over <-chan time.Time) bool {
	select {
	case <-over:
		return false
	case <-c.again:
		return true
	case <-c.ctx.Done():
		return false
	}
}

// errChanged says that the card leads elsewhere.
var errChanged = errors.New("the card has changed")

// join is a connection with the switch, from its beginning to its end.
func (c *card) join(want Card, changes int) error {
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	c.mu.Lock()
	stale := c.changes != changes
	c.stopDial = cancel
	c.mu.Unlock()
	if stale {
		return errChanged
	}
	conn, err := c.dial(ctx, c.slot, want)
	if c.changedSince(changes) {
		err = errors.Join(errChanged, err)
	}
	if err != nil {
		if conn != nil {
			conn.Close()
		}
		return err
	}
	defer conn.Close()
	if !c.publish(conn, changes) {
		return errChanged
	}
	defer c.conn.Store(nil)
	c.log.Debug("joined with the network", "mac", want.MAC)
	for from := frames.NewReader(conn); ; {
		batch, err := from.Batch()
		if err != nil {
			return fmt.Errorf("the network's switch has left: %w", err)
		}
		if !c.passing.Load() {
			continue
		}
		if _, err := c.qemu.Write(batch); err != nil {
			c.end()
			return err
		}
	}
}

// changedSince ends the making of a connection, and reports whether the card has changed meanwhile.
func (c *card) changedSince(changes int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopDial = nil
	return c.changes != changes
}

// publish has outward use a connection, unless the card has changed since it was wanted.
func (c *card) publish(conn *net.UnixConn, changes int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.changes != changes || c.ctx.Err() != nil {
		return false
	}
	c.conn.Store(conn)
	return true
}
