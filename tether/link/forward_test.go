package link_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/containervm/containervm/tether/link"
	"github.com/containervm/containervm/tether/link/linktest"
)

// netDial dials for real: the container's loopback is the test's.
func netDial(ctx context.Context, network string, address netip.AddrPort) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, network, address.String())
}

// listenTCP has serve answer the only connection to the address.
func listenTCP(t *testing.T, serve func(*net.TCPConn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var served sync.WaitGroup
	served.Go(func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		serve(conn.(*net.TCPConn))
	})
	t.Cleanup(func() { l.Close(); served.Wait() })
	return l.Addr().String()
}

func forward(t *testing.T, c *link.Client, network, address string) *link.ForwardStream {
	t.Helper()
	s, err := c.Forward(testContext(t), network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// TestForwardHalfClose sends all, shuts down, and gets all of it back: the server answers only at the end.
func TestForwardHalfClose(t *testing.T) {
	overEach(t, func(t *testing.T, f *linktest.Tether, c *link.Client) {
		f.OnConnect(netDial)
		address := listenTCP(t, func(conn *net.TCPConn) {
			all, err := io.ReadAll(conn)
			if err != nil {
				t.Errorf("server: %v", err)
			}
			_, _ = conn.Write(all)
		})
		s := forward(t, c, "tcp", address)
		want := string(linktest.Pattern(0, 3<<20+5))
		if _, err := io.Copy(onlyWriter{s}, strings.NewReader(want)); err != nil {
			t.Fatal(err)
		}
		if err := s.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(s)
		if err != nil || string(got) != want {
			t.Errorf("%d bytes of %d came back, %v", len(got), len(want), err)
		}
		if _, err := s.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("write after the end: %v", err)
		}
	})
}

type onlyWriter struct{ io.Writer }

// TestForwardServerEnds: the server shuts down first, and still reads what the host says.
func TestForwardServerEnds(t *testing.T) {
	overEach(t, func(t *testing.T, f *linktest.Tether, c *link.Client) {
		f.OnConnect(netDial)
		heard := make(chan string, 1)
		address := listenTCP(t, func(conn *net.TCPConn) {
			_, _ = conn.Write([]byte("hello"))
			_ = conn.CloseWrite()
			all, _ := io.ReadAll(conn)
			heard <- string(all)
		})
		s := forward(t, c, "tcp", address)
		if got, err := io.ReadAll(s); err != nil || string(got) != "hello" {
			t.Errorf("%q, %v", got, err)
		}
		if _, err := s.Write([]byte("bye")); err != nil {
			t.Error(err)
		}
		if err := s.CloseWrite(); err != nil {
			t.Error(err)
		}
		if got := <-heard; got != "bye" {
			t.Errorf("server heard %q", got)
		}
	})
}

// TestForwardBreaks: a reset reaches the host as a refusal, the host's Close the server as an end, and both end waiting writes.
func TestForwardBreaks(t *testing.T) {
	overEach(t, func(t *testing.T, f *linktest.Tether, c *link.Client) {
		f.OnConnect(netDial)
		reset := listenTCP(t, func(conn *net.TCPConn) {
			_, _ = conn.Read(make([]byte, 1)) // the connection stands
			_ = conn.SetLinger(0)             // the close is a reset
		})
		s := forward(t, c, "tcp", reset)
		if _, err := s.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		var refusal *link.Refusal
		if _, err := io.ReadAll(s); !errors.As(err, &refusal) {
			t.Errorf("read after a reset: %v", err)
		}
		for { // what is in flight may be taken
			if _, err := s.Write(make([]byte, 1<<16)); err != nil {
				break
			}
		}
		ended := make(chan struct{})
		closed := listenTCP(t, func(conn *net.TCPConn) {
			_, _ = io.Copy(io.Discard, conn)
			close(ended)
		})
		s = forward(t, c, "tcp", closed)
		s.Close()
		<-ended
		if _, err := s.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("read after close: %v", err)
		}
	})
}

// TestForwardStalls: a host that does not read, then closes, ends the server's writing.
func TestForwardStalls(t *testing.T) {
	overEach(t, func(t *testing.T, f *linktest.Tether, c *link.Client) {
		f.OnConnect(netDial)
		ended := make(chan struct{})
		address := listenTCP(t, func(conn *net.TCPConn) {
			defer close(ended)
			for {
				if _, err := conn.Write(make([]byte, 1<<16)); err != nil {
					return
				}
			}
		})
		s := forward(t, c, "tcp", address)
		if _, err := s.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		s.Close()
		<-ended
	})
}

// TestForwardDatagrams keeps the borders of datagrams, also of empty ones.
func TestForwardDatagrams(t *testing.T) {
	overEach(t, func(t *testing.T, f *linktest.Tether, c *link.Client) {
		f.OnConnect(netDial)
		server, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		var echoed sync.WaitGroup
		echoed.Go(func() {
			buf := make([]byte, 1<<16)
			for {
				n, from, err := server.ReadFrom(buf)
				if err != nil {
					return
				}
				_, _ = server.WriteTo(buf[:n], from)
			}
		})
		defer echoed.Wait()
		defer server.Close()
		s := forward(t, c, "udp", server.LocalAddr().String())
		buf := make([]byte, 1<<16)
		for _, n := range []int{5, 0, 1, 60000} {
			want := string(linktest.Pattern(0, n))
			if _, err := s.Write([]byte(want)); err != nil {
				t.Fatal(err)
			}
			if got, err := s.Read(buf); err != nil || string(buf[:got]) != want {
				t.Errorf("%d bytes of %d, %v", got, n, err)
			}
		}
		if _, err := s.Write(make([]byte, 1<<16)); !errors.Is(err, syscall.EMSGSIZE) {
			t.Errorf("a datagram that is too long: %v", err)
		}
	})
}

func TestForwardRefused(t *testing.T) {
	f := linktest.NewTether(t)
	c := f.Client()
	if _, err := c.Forward(testContext(t), "tcp", "127.0.0.1:1"); !errdefs.IsUnavailable(err) {
		t.Errorf("nobody listens: %v", err)
	}
	for _, bad := range []string{"localhost:80", "127.0.0.1", "127.0.0.1:0", "[fe80::1%eth0]:80", "", ":80"} {
		if _, err := c.Forward(testContext(t), "tcp", bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	if _, err := c.Forward(testContext(t), "sctp", "127.0.0.1:1"); err == nil {
		t.Error("sctp was taken")
	}
}

// TestForwardLost: the link's end is told from the connection's.
func TestForwardLost(t *testing.T) {
	f := linktest.NewTether(t)
	f.OnConnect(netDial)
	ended := make(chan struct{})
	address := listenTCP(t, func(conn *net.TCPConn) {
		_, _ = io.Copy(io.Discard, conn)
		close(ended)
	})
	s := forward(t, f.Client(), "tcp", address)
	f.Lose()
	if _, err := s.Read(make([]byte, 1)); !errors.Is(err, link.ErrLost) {
		t.Errorf("read: %v", err)
	}
	<-ended
}
