package guestinfo

import (
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containervm/containervm/tether/link"
)

// dial connects a guest with the store, and says text first if there is one. served gets what became of the connection, which is then
// closed as the supervisor does.
func dial(t *testing.T, s *Store, text string) (guest net.Conn, served <-chan error) {
	t.Helper()
	guest, host := net.Pipe()
	done := make(chan error, 1)
	go func() {
		err := s.Serve(host)
		host.Close()
		done <- err
	}()
	t.Cleanup(func() { guest.Close() })
	if text != "" {
		say(t, guest, text)
	}
	return guest, done
}

func say(t *testing.T, guest net.Conn, text string) {
	t.Helper()
	if err := link.WriteMessage(guest, text); err != nil {
		t.Fatal(err)
	}
}

func hear(t *testing.T, guest net.Conn) string {
	t.Helper()
	text, err := link.ReadMessage(guest)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

const hello = link.CommandHello + " " + link.KeySpec

// TestGate: the first connection gets token and Spec, once; each later one needs the token, and no other is told anything.
func TestGate(t *testing.T) {
	s := New(map[string]string{link.KeySpec: `{"hostname":"secret"}`, "guestinfo.a": "1"}, Hooks{})
	if guest, served := dial(t, s, "info-get "+link.KeySpec); !strings.Contains(hear(t, guest), link.CommandHello) || <-served == nil {
		t.Error("the Spec was asked for without a hello")
	}
	lost, _ := dial(t, s, hello) // its answer is never read
	lost.Close()
	first, _ := dial(t, s, hello)
	if got, want := hear(t, first), `1 `+s.Token()+` {"hostname":"secret"}`; got != want {
		t.Fatalf("%q, want %q", got, want)
	}
	say(t, first, "cvm.time")
	hear(t, first)
	for _, text := range []string{
		hello, "info-get guestinfo.a", "info-set guestinfo.cvm.status {}", "instantclone.freeze", "cvm.seed", "cvm.wait guestinfo.a",
		link.CommandToken + " " + strings.Repeat("0", link.TokenLength), link.CommandToken + " ", link.CommandToken + " " + s.Token() + "0", "nonsense",
	} {
		guest, served := dial(t, s, text)
		if b, err := io.ReadAll(guest); len(b) != 0 || err != nil {
			t.Errorf("%.30q is answered: %q, %v", text, b, err)
		}
		if err := <-served; !errors.Is(err, ErrStranger) {
			t.Errorf("%.30q: %v", text, err)
		}
	}
	later, _ := dial(t, s, link.CommandToken+" "+s.Token())
	say(t, later, "info-get guestinfo.a")
	if got := hear(t, later); got != "1 1" {
		t.Errorf("with the token: %q", got)
	}
	say(t, later, "info-get "+link.KeySpec)
	if got := hear(t, later); got != link.ReplyError("No value found") {
		t.Errorf("the Spec is read twice: %q", got)
	}
	if len(s.Guest()) != 0 {
		t.Errorf("the guest has set %v", s.Guest())
	}
}

// TestGateOfAFork: a fork's tether has its source's token, and nobody in it is given one.
func TestGateOfAFork(t *testing.T) {
	token := link.NewToken()
	s := New(map[string]string{link.KeySpec: "{}"}, Hooks{Token: token})
	if _, served := dial(t, s, hello); !errors.Is(<-served, ErrStranger) {
		t.Error("a fork says hello to whoever asks")
	}
	guest, _ := dial(t, s, link.CommandToken+" "+token)
	say(t, guest, "cvm.wait "+link.KeySpec)
	if got := hear(t, guest); got != "1 {}" {
		t.Errorf("%q", got)
	}
	one, other := New(nil, Hooks{}), New(nil, Hooks{})
	if s.Token() != token || one.Token() == other.Token() {
		t.Error("tokens are mixed up")
	}
}

// TestSpecIsReadOnce: a Spec that the host sets anew is read anew, and one that was set while the older one was read is not lost.
func TestSpecIsReadOnce(t *testing.T) {
	s := New(map[string]string{link.KeySpec: "1"}, Hooks{})
	do := ask(t, s)
	for _, want := range []string{"1", "2"} {
		if v, err := do("info-get " + link.KeySpec); v != want || err != nil {
			t.Errorf("%q, %v, want %q", v, err, want)
		}
		if v, err := do("info-get " + link.KeySpec); !errors.Is(err, link.ErrNoValue) {
			t.Errorf("again: %q, %v", v, err)
		}
		s.Set(map[string]string{link.KeySpec: "2"})
	}
	s.handedOut(link.KeySpec, "an older one", 0)
	if v, err := do("cvm.wait " + link.KeySpec); v != "2" || err != nil {
		t.Errorf("the newer Spec: %q, %v", v, err)
	}
	old := s.Token()
	s.Restart()
	if guest, _ := dial(t, s, hello); hear(t, guest) != "1 "+s.Token()+" 2" || s.Token() == old {
		t.Error("a machine that boots anew has no Spec, or its old token")
	}
}

// TestFreezeIsExpected: only a machine whose Spec says so becomes a template or a fork point.
func TestFreezeIsExpected(t *testing.T) {
	for spec, allowed := range map[string]bool{`{"mode":"TEMPLATE"}`: true, `{"forkPoint":true}`: true, `{}`: false, ``: false, `{"mode":"FILES"}`: false, `{`: false} {
		frozen := 0
		s := New(map[string]string{link.KeySpec: spec}, Hooks{Freeze: func() error { frozen++; return errors.New("not now") }})
		do := ask(t, s)
		_, _ = do("info-get " + link.KeySpec) // which must not matter
		_, err := do(link.CommandFreeze)
		if (frozen == 1) != allowed || err == nil || !allowed && !strings.Contains(err.Error(), "neither a template nor a fork point") {
			t.Errorf("%s: frozen %d times, %v", spec, frozen, err)
		}
	}
}

// TestStrangersGiveWay: connections that say nothing are ended in time, and before that by newer ones; the tether comes through.
func TestStrangersGiveWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(map[string]string{"guestinfo.a": "1"}, Hooks{Token: link.NewToken()})
		var mute []<-chan error
		for range 2 * maxStrangers {
			_, served := dial(t, s, "")
			mute = append(mute, served)
			synctest.Wait()
		}
		for i, served := range mute {
			select {
			case err := <-served:
				if i >= maxStrangers || !errors.Is(err, ErrStranger) {
					t.Errorf("connection %d has ended: %v", i, err)
				}
			default:
				if i < maxStrangers {
					t.Errorf("connection %d is waited for, beside %d others", i, maxStrangers)
				}
			}
		}
		guest, _ := dial(t, s, link.CommandToken+" "+s.Token())
		time.Sleep(2 * greetingTime) // an admitted one has all the time
		say(t, guest, "info-get guestinfo.a")
		if got := hear(t, guest); got != "1 1" {
			t.Errorf("%q", got)
		}
		for i, served := range mute[maxStrangers:] {
			if err := <-served; !errors.Is(err, ErrStranger) {
				t.Errorf("mute connection %d: %v", i, err)
			}
		}
		guest.Close()
	})
}

// FuzzGreeting: whatever a connection says first, nobody but the tether is told anything or sets anything, and little is read.
func FuzzGreeting(f *testing.F) {
	for _, seed := range []string{hello, link.CommandToken + " x", "info-set guestinfo.a b", "", strings.Repeat("x", link.MaxGreeting+1)} {
		f.Add([]byte(seed), uint32(len(seed)))
	}
	f.Fuzz(func(t *testing.T, text []byte, length uint32) {
		s := New(map[string]string{link.KeySpec: "secret"}, Hooks{Token: link.NewToken()})
		c := &script{in: append([]byte{byte(length >> 24), byte(length >> 16), byte(length >> 8), byte(length)}, text...)}
		if err := s.Serve(c); !errors.Is(err, ErrStranger) || len(c.out) != 0 || len(s.Guest()) != 0 || c.read > 4+link.MaxGreeting {
			t.Errorf("%v, told %q, set %v, read %d bytes", err, c.out, s.Guest(), c.read)
		}
	})
}

// script is a connection on which all is said already.
type script struct {
	in, out []byte
	read    int
}

func (c *script) Read(b []byte) (int, error) {
	if c.read == len(c.in) {
		return 0, io.EOF
	}
	n := copy(b, c.in[c.read:])
	c.read += n
	return n, nil
}

func (c *script) Write(b []byte) (int, error) {
	c.out = append(c.out, b...)
	return len(b), nil
}

func (c *script) SetReadDeadline(time.Time) error { return nil }
