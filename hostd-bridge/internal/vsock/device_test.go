package vsock

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/net/nettest"
)

// pair returns the two ends of a connection between two hosts joined by a null modem.
func pair(t testing.TB) (Conn, Conn, *driver) {
	t.Helper()
	a, b, da, _ := nullModem(t)
	x, y := connect(t, a, b, 5)
	return x, y, da
}

func connect(t testing.TB, a, b *Device, port uint32) (Conn, Conn) {
	t.Helper()
	l, err := b.Listen(port)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	x, err := a.Dial(t.Context(), port)
	if err != nil {
		t.Fatal(err)
	}
	y, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return x, y.(Conn)
}

func TestConnConformance(t *testing.T) {
	nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
		x, y, _ := pair(t)
		return x, y, func() { x.Close(); y.Close() }, nil
	})
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

func TestManyConnectionsAtOnce(t *testing.T) {
	a, b, _, _ := nullModem(t)
	l, err := b.Listen(9)
	if err != nil {
		t.Fatal(err)
	}
	go func() { // echo
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				io.Copy(c, c)
				c.(Conn).CloseWrite()
			}()
		}
	}()
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			c, err := a.Dial(t.Context(), 9)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			sent := randomBytes(100_000)
			go func() {
				c.Write(sent)
				c.CloseWrite()
			}()
			got, err := io.ReadAll(c)
			if err != nil || !bytes.Equal(got, sent) {
				t.Errorf("echo of %d bytes: got %d, %v", len(sent), len(got), err)
			}
		})
	}
	all.Wait()
}

// A paused machine stops the device and starts it again on the same rings; no byte may be lost or doubled.
func TestStopAndStartUnderLoad(t *testing.T) {
	x, y, d := pair(t)
	sent := randomBytes(4 << 20)
	go func() {
		x.Write(sent)
		x.CloseWrite()
	}()
	finished := make(chan struct{})
	var cycles sync.WaitGroup
	cycles.Go(func() {
		for {
			select {
			case <-finished:
				return
			default:
			}
			bases, ok := d.dev.stop()
			if !ok {
				return
			}
			if err := d.start(bases); err != nil {
				t.Error(err)
				return
			}
		}
	})
	got, err := io.ReadAll(y)
	close(finished)
	cycles.Wait()
	if err != nil || !bytes.Equal(got, sent) {
		t.Fatalf("got %d of %d bytes, %v", len(got), len(sent), err)
	}
}

func TestHalfClose(t *testing.T) {
	x, y, _ := pair(t)
	if err := x.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(y); err != nil || len(b) != 0 {
		t.Fatalf("read %q, %v after the peer's end", b, err)
	}
	if _, err := y.Write([]byte("still here")); err != nil {
		t.Fatal(err)
	}
	y.Close()
	if b, err := io.ReadAll(x); err != nil || string(b) != "still here" {
		t.Fatalf("read %q, %v", b, err)
	}
	if _, err := x.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
		t.Fatalf("write after CloseWrite: %v", err)
	}
}

func TestCloseReadFailsTheWriter(t *testing.T) {
	x, y, _ := pair(t)
	x.CloseRead()
	if _, err := x.Read(make([]byte, 1)); err != io.EOF {
		t.Fatalf("read after CloseRead: %v", err)
	}
	_, err := io.Copy(y, zeroes{})
	if !errors.Is(err, syscall.EPIPE) {
		t.Fatalf("endless write to a peer that reads no more: %v", err)
	}
}

type zeroes struct{}

func (zeroes) Read(p []byte) (int, error) { return len(p), nil }

// A writer whose peer does not read must stop at the peer's buffer.
func TestBackPressure(t *testing.T) {
	x, y, _ := pair(t)
	written := make(chan int)
	go func() {
		n, _ := x.Write(make([]byte, 4*bufAlloc))
		written <- n
	}()
	s := y.(*stream)
	s.dev.mu.Lock()
	for s.in.n < bufAlloc { // all of its credit
		s.readable.Wait()
	}
	s.dev.mu.Unlock()
	x.Close()
	if n := <-written; n != bufAlloc {
		t.Fatalf("wrote %d bytes to a peer that takes none and buffers %d", n, bufAlloc)
	}
}

func TestDialErrors(t *testing.T) {
	a, _, _, _ := nullModem(t)
	if _, err := a.Dial(t.Context(), 99); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial of a closed port: %v", err)
	}
	off := NewDevice(false, silent())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := off.Dial(ctx, 99); !errors.Is(err, context.Canceled) {
		t.Errorf("dial of a guest that is not up: %v", err)
	}
	if n := len(off.out.pending); n != 0 {
		t.Errorf("%d packets left of a dial given up", n)
	}
	off.Close()
	if _, err := off.Dial(t.Context(), 99); !errors.Is(err, net.ErrClosed) {
		t.Errorf("dial after Close: %v", err)
	}
}

func TestListenTwice(t *testing.T) {
	d := NewDevice(false, silent())
	l, err := d.Listen(1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Listen(1); !errors.Is(err, ErrPortInUse) {
		t.Errorf("second listener: %v", err)
	}
	l.Close()
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept after Close: %v", err)
	}
	if _, err := d.Listen(1); err != nil {
		t.Errorf("listen after Close: %v", err)
	}
}

func TestMalformedRings(t *testing.T) {
	for name, spoil := range map[string]func(d *driver, r *driverRing){
		"index too far":      func(d *driver, r *driverRing) { le.PutUint16(d.b[r.addrs.avail+2:], testQueue+1) },
		"index going back":   func(d *driver, r *driverRing) { le.PutUint16(d.b[r.addrs.avail+2:], 0xffff) },
		"no such descriptor": func(d *driver, r *driverRing) { d.offer(r, 0, 0, 0); le.PutUint16(d.b[r.addrs.avail+4:], testQueue) },
		"indirect":           func(d *driver, r *driverRing) { d.offer(r, 0, 0, descIndirect) },
		"wrong direction":    func(d *driver, r *driverRing) { d.offer(r, 0, 0, descWrite) },
		"outside of memory": func(d *driver, r *driverRing) {
			d.offer(r, 0, 0, 0)
			le.PutUint64(d.b[r.addrs.desc:], 1<<40)
		},
		"address overflow": func(d *driver, r *driverRing) {
			d.offer(r, 0, 0, 0)
			le.PutUint64(d.b[r.addrs.desc:], 1<<64-1)
		},
		"too long": func(d *driver, r *driverRing) {
			d.offer(r, 0, 0, 0)
			le.PutUint32(d.b[r.addrs.desc+8:], 1<<31)
		},
		"endless chain": func(d *driver, r *driverRing) {
			d.offer(r, 0, 1, 0)
			le.PutUint16(d.b[r.addrs.desc+16+12:], descNext)
			le.PutUint16(d.b[r.addrs.desc+16+14:], 0)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScript(t)
			c := s.accepted(51)
			s.says(opData, 51, "kept")
			b := make([]byte, 4)
			if _, err := io.ReadFull(c, b); err != nil {
				t.Fatal(err)
			}
			s.dev.stop() // the guest restarts its driver, with a spoilt ring
			r := &s.rings[queueIn]
			s.mu.Lock()
			clear(s.b[r.addrs.desc : r.addrs.used+4096-2048])
			r.avail, r.used = 0, 0
			spoil(s.driver, r)
			s.mu.Unlock()
			if err := s.start([2]uint16{s.rings[queueOut].used, 0}); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Read(b); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("read after the guest spoilt its ring: %v", err)
			}
			if s.dev.out.ring != nil {
				t.Error("the device still uses the rings")
			}
		})
	}
}

func TestUnusableRingsAreRefused(t *testing.T) {
	mem := &arena{b: make([]byte, 1<<16)}
	good := ringAddrs{arenaBase, arenaBase + 4096, arenaBase + 8192}
	for name, q := range map[string]queue{
		"no entries":       {num: 0, addrs: good},
		"not a power of 2": {num: 24, addrs: good},
		"too many":         {num: 2048, addrs: good},
		"unaligned":        {num: 16, addrs: ringAddrs{good.desc, good.avail + 2, good.used}},
		"no memory":        {num: 16, addrs: ringAddrs{0, 0, 0}},
	} {
		if _, err := newRing(mem, q); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
