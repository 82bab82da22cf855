// Package guestinfo is the host's side of the asynchronous plane: what a guest reads and writes by VMware's RPCI text
// commands (package link, rpci.go).
package guestinfo

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containervm/containervm/tether/link"
)

// Prefix begins every key that a guest may read or set.
const Prefix = "guestinfo."

// Bounds on what a guest may set.
const (
	MaxKeys  = 256
	MaxBytes = 4 << 20 // of keys and values together
)

// Value is a key that the guest has set.
type Value struct{ Key, Value string }

// Store holds the guestinfo of one machine.
type Store struct {
	now func() time.Time

	mu      sync.Mutex
	values  map[string]string
	guest   map[string]int // key set by the guest -> number of the change
	changes int
	bytes   int
	changed chan struct{} // closed at the next change
}

// New returns a store in which the guest finds values. now is the host's clock.
func New(values map[string]string, now func() time.Time) *Store {
	s := &Store{now: now, values: map[string]string{}, guest: map[string]int{}, changed: make(chan struct{})}
	maps.Copy(s.values, values)
	return s
}

// Set changes what the guest reads; an empty value removes the key.
func (s *Store) Set(kv map[string]string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, v := range kv {
		if _, ok := s.guest[k]; ok {
			s.bytes -= len(k) + len(s.values[k])
			delete(s.guest, k) // the host's now
		}
		if v == "" {
			delete(s.values, k)
		} else {
			s.values[k] = v
		}
	}
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

// Serve answers one connection's commands until it ends.
func (s *Store) Serve(conn io.ReadWriter) error {
	for {
		text, err := link.ReadMessage(conn)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := link.WriteMessage(conn, s.reply(text)); err != nil {
			return err
		}
	}
}

func (s *Store) reply(text string) string {
	c, err := link.ParseCommand(text)
	if err != nil {
		return link.ReplyError(err.Error())
	}
	value, err := s.execute(c)
	var refusal *link.RPCIError
	switch {
	case errors.As(err, &refusal):
		return link.ReplyError(refusal.Why)
	case err != nil:
		return link.ReplyError(err.Error())
	}
	return link.ReplyOK(value)
}

func (s *Store) execute(c link.Command) (string, error) {
	switch c.Name {
	case link.CommandInfoGet:
		return s.get(c.Key)
	case link.CommandInfoSet:
		return "", s.set(c.Key, c.Value)
	case link.CommandTime:
		return strconv.FormatInt(s.now().UnixNano(), 10), nil
	}
	return "", fmt.Errorf("cannot execute %s: this machine is no template", c.Name)
}

func (s *Store) get(key string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.values[key]
	if !ok || !strings.HasPrefix(key, Prefix) {
		return "", link.ErrNoValue
	}
	return v, nil
}

func (s *Store) set(key, value string) error {
	if !strings.HasPrefix(key, Prefix) {
		return fmt.Errorf("cannot set %s: a key begins with %s", key, Prefix)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	bytes, keys := s.bytes+len(key)+len(value), len(s.guest)+1
	if _, ok := s.guest[key]; ok {
		bytes, keys = bytes-len(key)-len(s.values[key]), keys-1
	}
	if keys > MaxKeys || bytes > MaxBytes {
		return fmt.Errorf("cannot set %s: a guest may set %d keys and %d bytes", key, MaxKeys, MaxBytes)
	}
	s.changes++
	s.values[key], s.guest[key], s.bytes = value, s.changes, bytes
	close(s.changed)
	s.changed = make(chan struct{})
	return nil
}
