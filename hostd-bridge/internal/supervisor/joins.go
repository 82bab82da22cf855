package supervisor

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
)

// errNotAwaited says that a card does not wait for the connection that came.
var errNotAwaited = errors.New("the card does not wait for a connection with its switch")

// joins are the connections of a machine's cards with their switches. The daemon makes them: it knows where switches are, and it alone says to them
// whose card it is.
type joins struct {
	mu      sync.Mutex
	last    int           // how often cards have begun to wait
	waiting map[int]join  // by slot
	given   map[int]given // by slot, for cards that do not wait yet
	changed chan struct{} // closed when a card begins to wait
}

type join struct {
	seq  int // of joins.last
	want Card
	conn chan *net.UnixConn // holds one
}

type given struct {
	want Card
	conn *net.UnixConn
}

func newJoins() *joins {
	return &joins{waiting: map[int]join{}, given: map[int]given{}, changed: make(chan struct{})}
}

// dial waits for the connection of the card in a slot.
func (j *joins) dial(ctx context.Context, slot int, want Card) (*net.UnixConn, error) {
	j.mu.Lock()
	if g, ok := j.given[slot]; ok {
		delete(j.given, slot)
		if g.want == want {
			j.mu.Unlock()
			return g.conn, nil
		}
		g.conn.Close()
	}
	j.last++
	w := join{j.last, want, make(chan *net.UnixConn, 1)}
	j.waiting[slot] = w
	close(j.changed)
	j.changed = make(chan struct{})
	j.mu.Unlock()
	select {
	case conn := <-w.conn:
		return conn, nil
	case <-ctx.Done():
	}
	j.mu.Lock()
	delete(j.waiting, slot) // before a look at what came: nothing comes any more
	j.mu.Unlock()
	select {
	case conn := <-w.conn:
		conn.Close()
	default:
	}
	return nil, context.Cause(ctx)
}

// give takes over the connection that a card waits for.
func (j *joins) give(slot int, want Card, conn *net.UnixConn) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	w, ok := j.waiting[slot]
	if !ok || w.want != want {
		conn.Close()
		return errNotAwaited
	}
	delete(j.waiting, slot)
	w.conn <- conn
	return nil
}

// keep takes over a connection for a card that will want it.
func (j *joins) keep(slot int, want Card, conn *net.UnixConn) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if g, ok := j.given[slot]; ok {
		g.conn.Close()
	}
	j.given[slot] = given{want, conn}
}

// close closes what no card has taken. None waits any more.
func (j *joins) close() {
	j.mu.Lock()
	defer j.mu.Unlock()
	for slot, g := range j.given {
		g.conn.Close()
		delete(j.given, slot)
	}
}

// unjoined are the slots of cards that have begun to wait after a number of others had, and wait still; changed is closed when another one does. Who
// is told of one twice would connect it twice, and the switch closes the older connection.
func (j *joins) unjoined(after int) (slots []int, last int, changed <-chan struct{}) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for slot, w := range j.waiting {
		if w.seq > after {
			slots = append(slots, slot)
		}
	}
	slices.Sort(slots)
	return slots, j.last, j.changed
}
