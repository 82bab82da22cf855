// Package guestinfo is the host's side of guestinfo: keys that a guest reads and sets by VMware's RPCI text commands (package
// link, rpci.go).
package guestinfo

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// Bounds on what a guest may set.
const (
	MaxKeys = 256
	// MaxBytes is of keys and values together, as they stand in JSON: in a record of the journal and in what a client reads. A byte that
	// has to be escaped counts as the six that it becomes there.
	MaxBytes = 1 << 20
	// A connection's commands are answered at once up to commandBurst, which a boot does not reach, and then commandRate in a second: a guest
	// that asks in a loop costs its host a bounded part of a CPU.
	commandBurst = 100
	commandRate  = 50
)

// encodedLen is how many bytes a text has as a JSON string.
func encodedLen(text string) int {
	encoded, _ := json.Marshal(text) // cannot fail: a string
	return len(encoded)
}

// Value is a key that the guest has set.
type Value struct{ Key, Value string }

// Hooks are what a machine does beside keeping values. The zero value is a machine that boots and cannot be frozen.
type Hooks struct {
	// Token is that of the machine's source, if it is a fork; empty: the machine's first connection is given a new one.
	Token string
	// Now is the host's clock; nil: time.Now.
	Now func() time.Time
	// Freeze answers instantclone.freeze of a machine whose Spec is that of a template or a fork point. It returns nil when the machine
	// is frozen: then the guest gets no answer.
	Freeze func() error
	// Set sees a key before it is set, and may refuse it; nil: none is.
	Set func(key, value string) error
}

func (h Hooks) withDefaults() Hooks {
	if h.Now == nil {
		h.Now = time.Now
	}
	if h.Freeze == nil {
		h.Freeze = func() error { return errors.New("this machine cannot be a template") }
	}
	if h.Set == nil {
		h.Set = func(string, string) error { return nil }
	}
	return h
}

// Store holds the guestinfo of one machine.
type Store struct {
	hooks Hooks
	gate  *gate
	done  chan struct{} // closed by Close

	mu      sync.Mutex
	values  map[string]string
	spec    string         // the newest Spec; it is in values until the guest has read it
	boots   int            // how many times the machine has booted anew
	guest   map[string]int // key set by the guest -> number of the change
	changes int
	bytes   int
	changed chan struct{} // closed at the guest's next change
	hostSet chan struct{} // closed at the host's next change
}

// New returns a store in which the guest finds values.
func New(values map[string]string, h Hooks) *Store {
	s := &Store{hooks: h.withDefaults(), gate: newGate(h.Token), done: make(chan struct{}), values: map[string]string{}, guest: map[string]int{},
		changed: make(chan struct{}), hostSet: make(chan struct{})}
	maps.Copy(s.values, values)
	s.spec = values[link.KeySpec]
	return s
}

// Token is what the tether's connections begin with; a fork's tether has it, too.
func (s *Store) Token() string {
	s.gate.mu.Lock()
	defer s.gate.mu.Unlock()
	return s.gate.token
}

// Restart is for a machine that boots anew: its tether knows no token, and reads its Spec again.
func (s *Store) Restart() {
	s.gate.renew()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.boots++
	if s.spec != "" {
		s.values[link.KeySpec] = s.spec
	}
}

// Admit reads the first message of a connection to a service that is not guestinfo. The error is ErrStranger when it is not the
// tether's: it is to be ended without a word.
func (s *Store) Admit(conn Conn) error {
	hello, err := s.gate.admit(conn)
	if err == nil && hello != nil {
		err = errEarly
	}
	return err
}

// Close ends every cvm.wait. It is called once.
func (s *Store) Close() { close(s.done) }

// Set changes what the guest reads; an empty value removes the key.
func (s *Store) Set(kv map[string]string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, v := range kv {
		if _, ok := s.guest[k]; ok {
			s.bytes -= encodedLen(k) + encodedLen(s.values[k])
			delete(s.guest, k) // now it is the host's
		}
		if v == "" {
			delete(s.values, k)
		} else {
			s.values[k] = v
		}
		if k == link.KeySpec {
			s.spec = v
		}
	}
	close(s.hostSet)
	s.hostSet = make(chan struct{})
}

// Guest is all that the guest has set.
func (s *Store) Guest() map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := map[string]string{}
	for k := range s.guest {
		m[k] = s.values[k]
	}
	return m
}

// Since returns what the guest has set after the change numbered last (0: all), in order, the number of the last
// change, and a channel that is closed at the next one. Of a key that was set twice only the newest value is left.
func (s *Store) Since(last int) ([]Value, int, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var keys []string
	for k, n := range s.guest {
		if n > last {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, func(a, b string) int { return s.guest[a] - s.guest[b] })
	values := make([]Value, len(keys))
	for i, k := range keys {
		values[i] = Value{k, s.values[k]}
	}
	return values, s.changes, s.changed
}

// Conn is a connection of the guest.
type Conn interface {
	io.ReadWriter
	SetReadDeadline(time.Time) error
}

// errNoFreeze refuses a freeze that the host does not wait for.
var errNoFreeze = errors.New("cannot freeze: this machine is neither a template nor a fork point")

// errNoAnswer ends a connection without an answer.
var errNoAnswer = errors.New("no answer")

// Serve answers one connection's commands until it ends. The error is ErrStranger when it is not the tether's.
func (s *Store) Serve(conn Conn) error {
	hello, err := s.gate.admit(conn)
	switch {
	case errors.Is(err, errEarly):
		return errors.Join(err, link.WriteMessage(conn, link.ReplyError(err.Error())))
	case err != nil:
		return err
	case hello != nil:
		err = s.serveFirst(conn, *hello)
	default:
		err = s.serve(conn, newPace())
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// serveFirst is Serve for the machine's first connection.
func (s *Store) serveFirst(conn Conn, key string) error {
	boot, answer := s.boot(), s.Token()
	value, err := s.get(key)
	if err == nil {
		answer += " " + value
	}
	if err := link.WriteMessage(conn, link.ReplyOK(answer)); err != nil {
		return err
	}
	text, err := link.ReadMessage(conn)
	if err != nil {
		return err // who has not read the answer comes again, and is told again
	}
	s.gate.claim()
	s.handedOut(key, value, boot)
	pace := newPace()
	if err := s.answer(conn, text, pace); err != nil {
		return err
	}
	return s.serve(conn, pace)
}

// serve answers commands at a pace.
func (s *Store) serve(conn Conn, pace *rate.Limiter) error {
	for {
		text, err := link.ReadMessage(conn)
		if err == nil {
			err = s.answer(conn, text, pace)
		}
		if err != nil {
			return err
		}
	}
}

func newPace() *rate.Limiter { return rate.NewLimiter(commandRate, commandBurst) }

// answer answers one command. The error is io.EOF where none is to follow.
func (s *Store) answer(conn Conn, text string, pace *rate.Limiter) error {
	if !s.rest(pace.Reserve().Delay()) {
		return io.EOF
	}
	boot := s.boot()
	reply, err := s.reply(conn, text)
	if err != nil {
		return io.EOF
	}
	if err := link.WriteMessage(conn, reply); err != nil {
		return err
	}
	if c, err := link.ParseCommand(text); err == nil && (c.Name == link.CommandInfoGet || c.Name == link.CommandWait) {
		s.handedOut(c.Key, strings.TrimPrefix(reply, link.ReplyOK("")), boot)
	}
	return nil
}

// boot is the number of the machine's present boot.
func (s *Store) boot() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.boots
}

// handedOut notes that the guest has read a key in a boot. A Spec is handed out once: it holds secrets of the process that it describes.
func (s *Store) handedOut(key, value string, boot int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if key == link.KeySpec && s.values[key] == value && s.boots == boot { // else it is a newer one, or that of a later boot
		delete(s.values, key)
	}
}

// mayFreeze reports whether the machine is to be a template or a fork point.
func (s *Store) mayFreeze() bool {
	s.mu.Lock()
	text := s.spec
	s.mu.Unlock()
	spec, err := link.DecodeSpec(text)
	return text != "" && err == nil && (spec.ForkPoint || spec.Mode == tetherv1.Mode_TEMPLATE)
}

// rest waits, at most until Close, and reports whether it has waited to the end.
func (s *Store) rest(d time.Duration) bool {
	if d == 0 {
		return true
	}
	select {
	case <-time.After(d):
		return true
	case <-s.done:
		return false
	}
}

// reply returns errNoAnswer when there is none to give.
func (s *Store) reply(conn Conn, text string) (string, error) {
	c, err := link.ParseCommand(text)
	if err != nil {
		return link.ReplyError(err.Error()), nil
	}
	value, err := s.execute(conn, c)
	var refusal *link.RPCIError
	switch {
	case errors.Is(err, errNoAnswer):
		return "", err
	case errors.As(err, &refusal):
		return link.ReplyError(refusal.Why), nil
	case err != nil:
		return link.ReplyError(err.Error()), nil
	}
	return link.ReplyOK(value), nil
}

func (s *Store) execute(conn Conn, c link.Command) (string, error) {
	switch c.Name {
	case link.CommandInfoGet:
		return s.get(c.Key)
	case link.CommandInfoSet:
		return "", s.set(c.Key, c.Value)
	case link.CommandTime:
		return strconv.FormatInt(s.hooks.Now().UnixNano(), 10), nil
	case link.CommandSeed:
		seed := make([]byte, link.SeedBytes)
		rand.Read(seed)
		return base64.StdEncoding.EncodeToString(seed), nil
	case link.CommandWait:
		return s.await(conn, c.Key)
	case link.CommandHello, link.CommandToken:
		return "", errors.New("it is only a connection's first message")
	default: // freeze
		if !s.mayFreeze() {
			return "", errNoFreeze
		}
		if err := s.hooks.Freeze(); err != nil {
			return "", fmt.Errorf("cannot freeze: %w", err)
		}
		return "", errNoAnswer
	}
}

// await waits until a key has a value, or the guest ends the connection. It may send nothing meanwhile.
func (s *Store) await(conn Conn, key string) (string, error) {
	if value, err := s.get(key); err == nil {
		return value, nil
	}
	hungUp := make(chan struct{})
	go func() {
		defer close(hungUp)
		_, _ = conn.Read(make([]byte, 1)) // a byte is as wrong as an end
	}()
	for {
		s.mu.Lock()
		hostSet := s.hostSet
		s.mu.Unlock()
		value, err := s.get(key)
		if err == nil {
			_ = conn.SetReadDeadline(time.Unix(1, 0))
			<-hungUp
			return value, conn.SetReadDeadline(time.Time{})
		}
		select {
		case <-hostSet:
		case <-hungUp:
			return "", errNoAnswer
		case <-s.done:
			_ = conn.SetReadDeadline(time.Unix(1, 0))
			<-hungUp
			return "", errNoAnswer
		}
	}
}

func (s *Store) get(key string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.values[key]
	if !ok || !strings.HasPrefix(key, hostapi.GuestPrefix) {
		return "", link.ErrNoValue
	}
	return v, nil
}

func (s *Store) set(key, value string) error {
	if !strings.HasPrefix(key, hostapi.GuestPrefix) {
		return fmt.Errorf("cannot set %s: a key begins with %s", key, hostapi.GuestPrefix)
	}
	if err := s.hooks.Set(key, value); err != nil {
		return fmt.Errorf("cannot set %s: %w", key, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	bytes, keys := s.bytes+encodedLen(key)+encodedLen(value), len(s.guest)+1
	if _, ok := s.guest[key]; ok {
		bytes, keys = bytes-encodedLen(key)-encodedLen(s.values[key]), keys-1
	}
	if keys > MaxKeys || bytes > MaxBytes {
		return fmt.Errorf("cannot set %s: a guest may set %d keys and %d bytes as JSON", key, MaxKeys, MaxBytes)
	}
	s.changes++
	s.values[key], s.guest[key], s.bytes = value, s.changes, bytes
	close(s.changed)
	s.changed = make(chan struct{})
	return nil
}
