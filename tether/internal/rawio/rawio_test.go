package rawio

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

func of(t *testing.T, f *os.File) File {
	t.Helper()
	raw, err := New(f)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// A write larger than the pipe waits for its reader, in parts that begin anywhere.
func TestWriteArrivesWhole(t *testing.T) {
	r, w := pipe(t)
	head, body := bytes.Repeat([]byte("head"), 3), bytes.Repeat([]byte("0123456789"), 100_000)
	wrote := make(chan error, 1)
	go func() {
		n, err := of(t, w).Write(head, nil, body)
		if err == nil && n != len(head)+len(body) {
			err = io.ErrShortWrite
		}
		w.Close()
		wrote <- err
	}()
	got, err := io.ReadAll(of(t, r))
	if err != nil || !bytes.Equal(got, append(head, body...)) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if err := <-wrote; err != nil {
		t.Error(err)
	}
}

func TestReadEndsWithTheDeadline(t *testing.T) {
	r, _ := pipe(t)
	if err := r.SetReadDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if _, err := of(t, r).Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(err)
	}
}

func TestWriteToNobodyFails(t *testing.T) {
	r, w := pipe(t)
	r.Close()
	if _, err := of(t, w).Write([]byte("x")); !errors.Is(err, unix.EPIPE) {
		t.Error(err)
	}
}

func TestConn(t *testing.T) {
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	if NewConn(near) != near {
		t.Error("a pipe without descriptors became a Conn")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			return // Accept's peer tells
		}
		_, _ = NewConn(c).(*Conn).WriteParts([]byte("head"), []byte("body"))
		_ = c.Close()
	}()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got, err := io.ReadAll(NewConn(c)); string(got) != "headbody" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}
