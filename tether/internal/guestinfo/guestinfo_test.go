package guestinfo

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/containervm/containervm/tether/link"
)

// answer is a host in miniature.
func answer(text string) string {
	c, err := link.ParseCommand(text)
	switch {
	case err != nil:
		return link.ReplyError(err.Error())
	case c.Name == link.CommandInfoGet && c.Key == "guestinfo.a":
		return link.ReplyOK("value of a")
	case c.Name == link.CommandInfoGet:
		return link.ReplyError("No value found")
	case c.Name == link.CommandTime:
		return link.ReplyOK("1700000000000000001")
	default:
		return link.ReplyOK("")
	}
}

// exercise is one suite over both transports.
func exercise(t *testing.T, c *Client) {
	t.Helper()
	ctx := t.Context()
	if v, err := c.Get(ctx, "guestinfo.a"); v != "value of a" || err != nil {
		t.Errorf("Get: %q, %v", v, err)
	}
	if _, err := c.Get(ctx, "guestinfo.b"); !errors.Is(err, link.ErrNoValue) {
		t.Errorf("Get of an unset key: %v", err)
	}
	if err := c.Set(ctx, "guestinfo.c", strings.Repeat("x", 10001)); err != nil {
		t.Errorf("Set: %v", err)
	}
	if now, err := c.Time(ctx); err != nil || now.UnixNano() != 1700000000000000001 {
		t.Errorf("Time: %v, %v", now, err)
	}
}

// dialer serves connections that each end after limit commands, the last of them unanswered if torn.
func dialer(limit int) func(context.Context) (net.Conn, error) {
	return func(context.Context) (net.Conn, error) {
		ours, theirs := net.Pipe()
		go func() {
			defer theirs.Close()
			for range limit {
				text, err := link.ReadMessage(theirs)
				if err != nil {
					return
				}
				if err := link.WriteMessage(theirs, answer(text)); err != nil {
					return
				}
			}
			_, _ = link.ReadMessage(theirs) // taken, not answered
		}()
		return ours, nil
	}
}

func sameCID() (uint32, error) { return 3, nil }

func TestStream(t *testing.T) { exercise(t, New(NewStream(dialer(1000), sameCID, new(Token)))) }

func TestStreamReconnects(t *testing.T) { exercise(t, New(NewStream(dialer(1), sameCID, new(Token)))) }

// TestStreamToken: the first connection says hello and takes the token, each later one begins with it, in the write of its first command:
// that costs no packet.
func TestStreamToken(t *testing.T) {
	token := strings.Repeat("0f", link.TokenLength/2)
	var heard []string
	dial := func(context.Context) (net.Conn, error) {
		ours, theirs := net.Pipe()
		go func() {
			defer theirs.Close()
			for range 2 {
				text, err := link.ReadMessage(theirs)
				if err != nil {
					return
				}
				heard = append(heard, text)
				reply := link.ReplyOK("v")
				switch c, _ := link.ParseCommand(text); c.Name {
				case link.CommandToken:
					continue
				case link.CommandHello:
					reply = link.ReplyOK(token + " the spec")
				}
				_ = link.WriteMessage(theirs, reply)
				if strings.HasPrefix(text, link.CommandHello) {
					return // the connection is lost behind it
				}
			}
		}()
		return ours, nil
	}
	c := New(NewStream(dial, sameCID, new(Token)))
	if v, err := c.Hello(t.Context(), link.KeySpec); v != "the spec" || err != nil {
		t.Fatalf("%q, %v", v, err)
	}
	if v, err := c.Get(t.Context(), "guestinfo.a"); v != "v" || err != nil {
		t.Fatalf("%q, %v", v, err)
	}
	if want := []string{"cvm.hello " + link.KeySpec, "cvm.token " + token, "info-get guestinfo.a"}; !slices.Equal(heard, want) {
		t.Errorf("the host heard %q, want %q", heard, want)
	}
}

// TestHelloAnswers: a host that has no value gives the token all the same; one that gives no token is not one of ours.
func TestHelloAnswers(t *testing.T) {
	for reply, want := range map[string]error{
		link.ReplyOK(strings.Repeat("a", link.TokenLength)): link.ErrNoValue, link.ReplyOK("short"): errMalformedToken, link.ReplyOK(""): errMalformedToken,
		link.ReplyError("why"): &link.RPCIError{Why: "why"},
	} {
		dial := func(context.Context) (net.Conn, error) {
			ours, theirs := net.Pipe()
			go func() {
				defer theirs.Close()
				_, _ = link.ReadMessage(theirs)
				_ = link.WriteMessage(theirs, reply)
			}()
			return ours, nil
		}
		if _, err := New(NewStream(dial, sameCID, new(Token))).Hello(t.Context(), "k"); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", reply, err, want)
		}
	}
}

func TestStreamGivesUp(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	tried := make(chan struct{})
	var once sync.Once
	c := New(NewStream(func(context.Context) (net.Conn, error) {
		once.Do(func() { close(tried) })
		return nil, errors.New("nobody there")
	}, sameCID, new(Token)))
	why := errors.New("enough")
	go func() { <-tried; cancel(why) }()
	if _, err := c.Get(ctx, "guestinfo.a"); !errors.Is(err, why) || !strings.Contains(err.Error(), "nobody there") {
		t.Errorf("Get: %v", err)
	}
}

// fakePort is VMware's side of the backdoor's messages.
type fakePort struct {
	t           *testing.T
	open        bool
	in, out     []byte
	want        int
	checkpoints int
}

func (f *fakePort) port(r *registers) {
	if r.ax != backdoorMagic || r.dx&0xffff != backdoorPort || r.cx&0xffff != commandMessage {
		f.t.Errorf("not a message: %+v", *r)
	}
	step := r.cx >> 16
	if step != stepOpen && (!f.open || r.dx>>16 != 3 || r.si != 0x1234 || r.di != 0x5678) {
		f.t.Errorf("step %d without its channel: %+v", step, *r)
	}
	status := uint32(statusSuccess)
	switch step {
	case stepOpen:
		if r.bx != 0xc9435052 {
			f.t.Errorf("opened protocol %#x", r.bx)
		}
		f.open, f.in, f.out = true, nil, nil
		r.dx, r.si, r.di = 3<<16|backdoorPort, 0x1234, 0x5678
	case stepSendSize:
		f.want = int(r.bx)
	case stepSendPayload:
		f.in = binary.LittleEndian.AppendUint32(f.in, r.bx)
	case stepRecvSize:
		if f.checkpoints > 0 {
			f.checkpoints--
			status = statusCheckpoint
			break
		}
		f.out = []byte(answer(string(f.in[:f.want])))
		r.bx, status = uint32(len(f.out)), statusSuccess|statusDoRecv
	case stepRecvPayload:
		var word [4]byte
		f.out = f.out[copy(word[:], f.out):]
		r.bx = binary.LittleEndian.Uint32(word[:])
	case stepClose:
		f.open = false
	}
	r.cx = status<<16 | r.cx&0xffff
}

func TestBackdoor(t *testing.T) {
	f := &fakePort{t: t}
	exercise(t, New(NewBackdoor(f.port)))
	if f.open {
		t.Error("a channel was left open")
	}
}

func TestBackdoorCheckpoint(t *testing.T) {
	exercise(t, New(NewBackdoor((&fakePort{t: t, checkpoints: 2}).port)))
	f := &fakePort{t: t, checkpoints: 1000}
	if _, err := New(NewBackdoor(f.port)).Get(t.Context(), "guestinfo.a"); !errors.Is(err, errCheckpoint) {
		t.Errorf("endless checkpoints: %v", err)
	}
}

func TestCPUID(t *testing.T) {
	if ax, _, _, _ := cpuid(0); ax == 0 {
		t.Error("CPUID leaf 0 says that there is no other leaf")
	}
}

func TestReporterSendsTheNewest(t *testing.T) {
	type set struct{ key, value string }
	var sent []set
	first, goOn := make(chan struct{}), make(chan struct{})
	r := NewReporter(func(_ context.Context, key, value string) error {
		if len(sent) == 0 {
			close(first)
			<-goOn
		}
		sent = append(sent, set{key, value})
		return nil
	})
	go r.Run(t.Context())
	r.Set("phase", "1")
	<-first
	r.Set("phase", "2")
	r.Set("status", "up")
	r.Set("phase", "3")
	close(goOn)
	if err := r.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(sent) != 3 || sent[0].value != "1" || sent[1].value != "3" || sent[2].value != "up" {
		t.Errorf("sent %v", sent)
	}
}

// A fork that happened while nobody waited for one is noticed at once: the machine has another CID than its caller knows.
func TestAwaitForkThatHasHappened(t *testing.T) {
	s := NewStream(func(context.Context) (net.Conn, error) { return nil, errors.New("nobody there") }, func() (uint32, error) { return 8, nil }, new(Token))
	if err := s.AwaitFork(t.Context(), 7); err != nil {
		t.Error(err)
	}
}

// A fork that happens between two tries to reach the host is noticed by the next.
func TestAwaitForkBetweenTries(t *testing.T) {
	var cid atomic.Uint32
	cid.Store(7)
	lost := make(chan struct{})
	var once sync.Once
	s := NewStream(func(context.Context) (net.Conn, error) {
		once.Do(func() { close(lost) })
		return nil, errors.New("nobody there")
	}, func() (uint32, error) { return cid.Load(), nil }, new(Token))
	go func() { <-lost; cid.Store(8) }()
	if err := s.AwaitFork(t.Context(), 7); err != nil {
		t.Error(err)
	}
}
