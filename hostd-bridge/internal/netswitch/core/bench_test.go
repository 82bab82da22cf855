package core

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/frames"
	"github.com/containervm/containervm/hostd-bridge/internal/netswitch"
)

// BenchmarkFrames: frames from one card to another, as fast as the second takes them.
func BenchmarkFrames(b *testing.B) {
	for _, size := range []int{60, 1514, 65535 + frames.HeaderLen} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			s := newBench(b)
			one, two := s.wire(2), s.wire(3)
			one.SetDeadline(time.Time{})
			two.SetDeadline(time.Time{})
			const window = 256 << 10 // less than a queue, so that nothing is lost
			f := frames.Append(nil, ethernet(macOf(3), macOf(2), experimental, make([]byte, size-frames.HeaderLen)...))
			burst := max(1, window/2/len(f))
			batch := bytes.Repeat(f, burst)
			credit := make(chan struct{}, 2)
			got := make(chan struct{})
			total := max(1, b.N/burst)
			go func() {
				defer close(got)
				for n := 0; n < total*burst; {
					all, err := two.Batch()
					if err != nil {
						return
					}
					before := n / burst
					for range frames.All(all) {
						n++
					}
					for range n/burst - before {
						<-credit
					}
				}
			}()
			b.SetBytes(int64(size))
			b.ReportAllocs()
			b.ResetTimer()
			for range total {
				credit <- struct{}{}
				if _, err := one.Conn.Write(batch); err != nil {
					b.Fatal(err)
				}
			}
			<-got
		})
	}
}

// BenchmarkRoundTrip: a small frame there and back between two cards.
func BenchmarkRoundTrip(b *testing.B) {
	s := newBench(b)
	one, two := s.wire(2), s.wire(3)
	one.SetDeadline(time.Time{})
	two.SetDeadline(time.Time{})
	go func() {
		for {
			if _, err := two.Batch(); err != nil {
				return
			}
			if _, err := two.Conn.Write(frames.Append(nil, ethernet(macOf(2), macOf(3), experimental, 1))); err != nil {
				return
			}
		}
	}()
	f := frames.Append(nil, ethernet(macOf(3), macOf(2), experimental, 1))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := one.Conn.Write(f); err != nil {
			b.Fatal(err)
		}
		if _, err := one.Batch(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkTCP: 64 KiB pieces of a connection between a guest, which is a netstack too, and a socket of the host.
func BenchmarkTCP(b *testing.B) {
	const piece = 64 << 10
	pump := func(b *testing.B, from, to net.Conn) {
		got := make(chan int64)
		go func() {
			n, _ := io.CopyN(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{to}, int64(b.N)*piece)
			got <- n
		}()
		buf := make([]byte, piece)
		b.SetBytes(piece)
		b.ReportAllocs()
		b.ResetTimer()
		for range b.N {
			if _, err := from.Write(buf); err != nil {
				b.Fatal(err)
			}
		}
		if n := <-got; n != int64(b.N)*piece {
			b.Fatalf("%d bytes of %d", n, int64(b.N)*piece)
		}
	}
	s := newBench(b)
	g := s.add(2, func(e *netswitch.Endpoint) { e.Publish = []hostapi.Publication{publish("tcp", "127.0.0.1", 0, 80)} })
	outside, inside := make(chan net.Conn), make(chan net.Conn)
	hold := func(to chan net.Conn) func(net.Conn) {
		return func(c net.Conn) { to <- c; <-s.ctx.Done() }
	}
	port := serveOutside(b, "127.0.0.1", hold(outside))
	g.listen(80, hold(inside))
	b.Cleanup(s.cancel)
	c := g.mustDial(fmt.Sprintf("198.51.100.7:%d", port))
	c.SetDeadline(time.Time{})
	peer := <-outside
	b.Run("NAT/out", func(b *testing.B) { pump(b, c, peer) })
	b.Run("NAT/in", func(b *testing.B) { pump(b, peer, c) })
	client, err := net.Dial("tcp", published(s.apply(), "vm-2", 0))
	if err != nil {
		b.Fatal(err)
	}
	defer client.Close()
	server := <-inside
	b.Run("published/in", func(b *testing.B) { pump(b, client, server) })
	b.Run("published/out", func(b *testing.B) { pump(b, server, client) })
	b.Logf("%d frames dropped, %d segments sent again", s.stats().Endpoints["vm-2"].Dropped, s.gateway.stack.Stats().TCP.Retransmits.Value())
}
