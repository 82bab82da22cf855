package guestinfo

import (
	"crypto/subtle"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/containervm/containervm/tether/link"
)

// Bounds of connections whose sender is not known yet.
const (
	// greetingTime is how long a connection may take to say whose it is. A tether says it with the connection's first bytes.
	greetingTime = 10 * time.Second
	// maxStrangers is how many connections that have not said it are waited for, of all services together. It leaves the tether most of
	// what a port takes (package vsock, maxAccepted).
	maxStrangers = 4
)

// ErrStranger ends a connection that is not the tether's. It is told nothing.
var ErrStranger = errors.New("a process of the guest that is not its tether has connected to the host")

// errEarly answers a guest that asks before it has said hello.
var errEarly = errors.New("the first connection of a machine begins with " + link.CommandHello)

// gate tells the tether's connections from those of other processes in the guest, which reach the same ports. The first connection of
// a machine is made before anything of the user's runs: it is given a token, which stays in the tether's memory, and every later one
// begins with it.
type gate struct {
	mu        sync.Mutex
	token     string
	claimed   bool   // the tether is known to have the token: nobody is given it any more
	strangers []Conn // those that are waited for, oldest first
}

// newGate makes the gate of a machine that boots, or with its source's token that of a fork: whoever has that is the fork's tether.
func newGate(token string) *gate {
	if token == "" {
		return &gate{token: link.NewToken()}
	}
	return &gate{token: token, claimed: true}
}

// renew forgets the tether that was: the machine boots anew.
func (g *gate) renew() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.token, g.claimed = link.NewToken(), false
}

// claim notes that the tether has the token.
func (g *gate) claim() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.claimed = true
}

// admit reads a connection's first message. A nil error is the tether's connection; hello is then the key that the machine's first one
// asks for, which may have none.
func (g *gate) admit(conn Conn) (hello *string, err error) {
	if err := conn.SetReadDeadline(time.Now().Add(greetingTime)); err != nil {
		return nil, err
	}
	g.await(conn)
	text, err := link.ReadGreeting(conn)
	g.arrived(conn)
	if err != nil { // it said nothing, too much, or nothing in time
		return nil, ErrStranger
	}
	c, err := link.ParseCommand(text)
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case err == nil && c.Name == link.CommandToken && subtle.ConstantTimeCompare([]byte(c.Value), []byte(g.token)) == 1:
		g.claimed = true
	case g.claimed:
		return nil, ErrStranger
	case err == nil && c.Name == link.CommandHello:
		hello = &c.Key
	default:
		return nil, errEarly
	}
	return hello, conn.SetReadDeadline(time.Time{})
}

// await counts a connection among the strangers. Where there are too many the one that has waited longest gives way.
func (g *gate) await(conn Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.strangers) == maxStrangers {
		_ = g.strangers[0].SetReadDeadline(time.Unix(1, 0)) // ends its read
		g.strangers = g.strangers[1:]
	}
	g.strangers = append(g.strangers, conn)
}

func (g *gate) arrived(conn Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.strangers = slices.DeleteFunc(g.strangers, func(c Conn) bool { return c == conn })
}
