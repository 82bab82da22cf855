package link_test

import (
	"io"
	"net"
	"sync"
	"testing"

	"github.com/containervm/containervm/tether/link"
	"github.com/containervm/containervm/tether/link/linktest"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// recorder keeps what a host sends.
type recorder struct {
	net.Conn
	mu   sync.Mutex
	sent []byte
}

func (r *recorder) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sent = append(r.sent, p...)
	return r.Conn.Write(p)
}

// FuzzHost has a host send anything: the tether ends its session with the connection, and nothing else ends.
func FuzzHost(f *testing.F) {
	f.Add(wholeSession(f))
	f.Add([]byte("cVM\x00\x00\x01\x00\x01"))
	f.Fuzz(func(t *testing.T, data []byte) {
		conn := linktest.NewTether(t).Dial().(*net.UnixConn)
		read := make(chan struct{})
		go func() {
			defer close(read)
			_, _ = io.Copy(io.Discard, conn)
		}()
		_, _ = conn.Write(data)
		_ = conn.CloseWrite()
		<-read
	})
}

// wholeSession is what a host sends in a session that uses control and streams.
func wholeSession(f *testing.F) []byte {
	tether := linktest.NewTether(f)
	r := &recorder{Conn: tether.Dial()}
	c, err := link.NewClient(f.Context(), r)
	if err != nil {
		f.Fatal(err)
	}
	request := &tetherv1.ExecRequest{Session: "x", Process: &tetherv1.Process{Args: []string{"cat"}, Stdin: true}, AttachStdout: true}
	if _, err := c.Tether().Exec(f.Context(), request); err != nil {
		f.Fatal(err)
	}
	in, err := c.OpenInput(f.Context(), "x")
	if err != nil {
		f.Fatal(err)
	}
	out, err := c.OpenOutput(f.Context(), "x", link.StreamStdout, 0)
	if err != nil {
		f.Fatal(err)
	}
	if _, err := in.Write([]byte("text")); err != nil {
		f.Fatal(err)
	}
	if err := in.CloseWrite(); err != nil {
		f.Fatal(err)
	}
	if text, err := io.ReadAll(out); err != nil || string(text) != "text" {
		f.Fatalf("%q, %v", text, err)
	}
	c.Close()
	<-c.Done()
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.sent
}
