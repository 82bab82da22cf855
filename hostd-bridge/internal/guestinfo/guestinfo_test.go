package guestinfo

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containervm/containervm/tether/link"
)

// ask serves a store over a pipe and returns what a guest would send requests with.
func ask(t *testing.T, s *Store) func(string) (string, error) {
	guest, host := net.Pipe()
	served := make(chan error, 1)
	go func() { served <- s.Serve(host) }()
	t.Cleanup(func() {
		guest.Close()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	if err := link.WriteMessage(guest, link.CommandToken+" "+s.Token()); err != nil {
		t.Fatal(err)
	}
	return func(text string) (string, error) {
		if err := link.WriteMessage(guest, text); err != nil {
			t.Fatal(err)
		}
		reply, err := link.ReadMessage(guest)
		if err != nil {
			t.Fatal(err)
		}
		return link.ParseReply(reply)
	}
}

func at(nanos int64) func() time.Time { return func() time.Time { return time.Unix(0, nanos) } }

func TestCommands(t *testing.T) {
	s := New(map[string]string{"guestinfo.a": "1", "cvm.secret": "x"}, Hooks{Now: at(4711)})
	do := ask(t, s)
	for _, c := range []struct{ command, value, refusal string }{
		{"info-get guestinfo.a", "1", ""},
		{"info-get guestinfo.b", "", "No value found"},
		{"info-get cvm.secret", "", "No value found"},
		{"info-set guestinfo.b two words", "", ""},
		{"info-get guestinfo.b", "two words", ""},
		{"info-set cvm.name me", "", "begins with guestinfo."},
		{"cvm.time", "4711", ""},
		{"instantclone.freeze", "", "neither a template nor a fork point"},
		{"nonsense", "", "unknown name"},
	} {
		value, err := do(c.command)
		var refused *link.RPCIError
		switch {
		case c.refusal != "" && (!errors.As(err, &refused) || !strings.Contains(refused.Why, c.refusal)):
			t.Errorf("%s: %q, %v", c.command, value, err)
		case c.refusal == "" && (err != nil || value != c.value):
			t.Errorf("%s: %q, %v", c.command, value, err)
		}
	}
	if g := s.Guest(); len(g) != 1 || g["guestinfo.b"] != "two words" {
		t.Errorf("the guest set %v", g)
	}
}

func TestHostSetsWhatTheGuestReads(t *testing.T) {
	s := New(map[string]string{"guestinfo.a": "1"}, Hooks{})
	do := ask(t, s)
	if _, err := do("info-set guestinfo.b 2"); err != nil {
		t.Fatal(err)
	}
	s.Set(map[string]string{"guestinfo.a": "", "guestinfo.b": "3"})
	if _, err := do("info-get guestinfo.a"); err == nil {
		t.Error("a removed key is still there")
	}
	if v, err := do("info-get guestinfo.b"); err != nil || v != "3" {
		t.Errorf("%q, %v", v, err)
	}
	if g := s.Guest(); len(g) != 0 {
		t.Errorf("the guest set %v", g)
	}
}

func TestChanges(t *testing.T) {
	s := New(nil, Hooks{})
	do := ask(t, s)
	values, last, changed := s.Since(0)
	if len(values) != 0 {
		t.Fatalf("%v", values)
	}
	for _, set := range []string{"x 1", "y 2", "x 3"} {
		if _, err := do("info-set guestinfo." + set); err != nil {
			t.Fatal(err)
		}
	}
	<-changed
	values, last, _ = s.Since(last)
	if got := fmt.Sprint(values); got != "[{guestinfo.y 2} {guestinfo.x 3}]" {
		t.Errorf("%s", got)
	}
	if values, _, _ := s.Since(last); len(values) != 0 {
		t.Errorf("again: %v", values)
	}
}

func TestGuestCannotFillTheHost(t *testing.T) {
	s := New(nil, Hooks{})
	for i := range MaxKeys {
		if err := s.set(fmt.Sprintf("guestinfo.%d", i), "v"); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.set("guestinfo.more", "v"); err == nil {
		t.Error("one key too many was taken")
	}
	if err := s.set("guestinfo.0", "w"); err != nil {
		t.Errorf("a key that exists: %v", err)
	}
	big := strings.Repeat("x", MaxBytes/4)
	var err error
	for i := range 4 {
		err = s.set(fmt.Sprintf("guestinfo.%d", i), big)
	}
	if err == nil {
		t.Error("too many bytes were taken")
	}
}

// TestEscapedBytesCount: what a guest sets is bounded as it is written down, where a control character has six bytes.
func TestEscapedBytesCount(t *testing.T) {
	s := New(nil, Hooks{})
	set := 0
	for i := range MaxKeys {
		if s.set(fmt.Sprintf("guestinfo.%d", i), strings.Repeat("\x01", 64<<10)) == nil {
			set++
		}
	}
	text, err := json.Marshal(s.Guest())
	if err != nil || set == 0 || len(text) > MaxBytes+8*MaxKeys {
		t.Errorf("%d values were taken, which have %d bytes as JSON: %v", set, len(text), err)
	}
	for i := range MaxKeys { // and all of it is given back
		s.Set(map[string]string{fmt.Sprintf("guestinfo.%d", i): ""})
	}
	if s.bytes != 0 {
		t.Errorf("%d bytes are counted of nothing", s.bytes)
	}
}

// TestCommandsInALoop: a connection that asks without end is slowed down, and its end is not held up.
func TestCommandsInALoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(map[string]string{"guestinfo.a": "1"}, Hooks{})
		guest, host := net.Pipe()
		served := make(chan error, 1)
		go func() { served <- s.Serve(host) }()
		if err := link.WriteMessage(guest, link.CommandToken+" "+s.Token()); err != nil {
			t.Fatal(err)
		}
		begin, asked := time.Now(), 0
		for ; time.Since(begin) < 10*time.Second; asked++ {
			if err := link.WriteMessage(guest, "info-get guestinfo.a"); err != nil {
				t.Fatal(err)
			}
			if _, err := link.ReadMessage(guest); err != nil {
				t.Fatal(err)
			}
		}
		if most := commandBurst + 10*commandRate + 1; asked > most || asked < commandBurst {
			t.Errorf("%d commands in 10 s, want at most %d", asked, most)
		}
		if err := link.WriteMessage(guest, "info-get guestinfo.a"); err != nil {
			t.Fatal(err)
		}
		s.Close() // ends the wait for the answer
		if err := <-served; err != nil {
			t.Error(err)
		}
		guest.Close()
	})
}
