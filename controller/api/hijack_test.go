package api

import (
	"bufio"
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
