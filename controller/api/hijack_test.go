package api

import (
	"bufio"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
)

// unixPair returns the two ends of a connection.
func unixPair(t *testing.T) (server, client *net.UnixConn) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); s.Close() })
	return s.(*net.UnixConn), c.(*net.UnixConn)
}

func emptyReader() *bufio.Reader { return bufio.NewReader(strings.NewReader("")) }

func mustPoll(t *testing.T, c *net.UnixConn) (hung bool) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { hung = hungUp(int(fd)) })
	}
	if err != nil {
		t.Fatal(err)
	}
	return hung
}

// tcpPair returns the two ends of a connection.
func tcpPair(t *testing.T) (server, client *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); s.Close() })
	return s.(*net.TCPConn), c.(*net.TCPConn)
}

// TestFinish: a client that still sends when its output is complete reads all of that and its end, not of a reset; the connection is closed
// when the client closes its side.
func TestFinish(t *testing.T) {
	unixServer, unixClient := unixPair(t)
	tcpServer, tcpClient := tcpPair(t)
	for name, c := range map[string]struct{ server, client net.Conn }{"unix": {unixServer, unixClient}, "tcp": {tcpServer, tcpClient}} {
		h := &hijacked{Conn: c.server, early: bufio.NewReader(strings.NewReader("early"))}
		sent := make(chan error, 1)
		go func() {
			_, err := c.client.Write(make([]byte, 20<<20)) // more than any buffer holds
			sent <- errors.Join(err, c.client.(interface{ CloseWrite() error }).CloseWrite())
		}()
		if _, err := io.ReadFull(h, make([]byte, 5)); err != nil {
			t.Fatal(err)
		}
		if _, err := h.Write([]byte("output")); err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			h.finish()
		}()
		if got, err := io.ReadAll(c.client); err != nil || string(got) != "output" {
			t.Errorf("%s: the client reads %q, %v", name, got, err)
		}
		if err := <-sent; err != nil {
			t.Errorf("%s: the client's side: %v", name, err)
		}
		<-done
		if _, err := c.server.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: the connection is open: %v", name, err)
		}
	}
}
