package link_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"

	"github.com/containervm/containervm/tether/link"
	"github.com/containervm/containervm/tether/link/linktest"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// TestVersionMismatch has a peer of another time on either side.
func TestVersionMismatch(t *testing.T) {
	future := []byte("cVM\x00\x00\x02\x00\x03") // versions 2 to 3
	const words = "link version 1 spoken here, versions 2 to 3 by the peer: upgrade this program"
	for side, open := range sides() {
		t.Run(side, func(t *testing.T) {
			ours, peer := net.Pipe()
			go func() { // reads ours, sends theirs, then sees the end
				_, _ = io.CopyN(io.Discard, peer, 8)
				_, _ = peer.Write(future)
			}()
			err := open(testContext(t), ours)
			var mismatch *link.VersionError
			if !errors.As(err, &mismatch) || !strings.Contains(err.Error(), words) {
				t.Errorf("error %v, want %q", err, words)
			}
			if _, err := peer.Read(make([]byte, 1)); err == nil {
				t.Error("the connection is open still")
			}
		})
	}
}

// sides opens a session as host and as tether.
func sides() map[string]func(context.Context, net.Conn) error {
	return map[string]func(context.Context, net.Conn) error{
		"host": func(ctx context.Context, conn net.Conn) error {
			_, err := link.NewClient(ctx, conn)
			return err
		},
		"tether": func(ctx context.Context, conn net.Conn) error {
			return link.Serve(ctx, conn, nil, slog.New(slog.DiscardHandler))
		},
	}
}

// TestStrangePeers has peers that speak something else, hang up, or say nothing.
func TestStrangePeers(t *testing.T) {
	for side, open := range sides() {
		t.Run(side, func(t *testing.T) {
			for first, words := range map[string]string{
				"GET / HTTP/1.1\r\n\r\n":  `not a link peer: it began with "GET "`,
				"cVM\x00\x00\x00\x00\x00": "impossible versions 0 to 0",
				"cVM\x00\x00\x02\x00\x01": "impossible versions 2 to 1",
				"cVM":                     "unexpected EOF",
			} {
				ours, peer := linktest.SocketPair(t)
				_, _ = io.WriteString(peer, first)
				_ = peer.(*net.UnixConn).CloseWrite()
				if err := open(testContext(t), ours); err == nil || !strings.Contains(err.Error(), words) {
					t.Errorf("peer that says %q: %v, want %q", first, err, words)
				}
			}
			ctx, cancel := context.WithCancel(t.Context())
			ours, peer := net.Pipe()
			defer peer.Close()
			ended := make(chan error, 1)
			go func() { ended <- open(ctx, ours) }()
			_, _ = io.CopyN(io.Discard, peer, 8)
			cancel()
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Errorf("silent peer: %v", err)
			}
		})
	}
}

// TestGarbage follows a good preface with bytes that are no yamux frame.
func TestGarbage(t *testing.T) {
	ours, peer := linktest.SocketPair(t)
	_, _ = io.WriteString(peer, "cVM\x00\x00\x01\x00\x01"+strings.Repeat("\xff", 100))
	if err := link.Serve(testContext(t), ours, nil, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("the tether took garbage for an orderly end")
	}
}

// TestServeEndsWithContext shows that nothing keeps a tether's Serve when its context ends.
func TestServeEndsWithContext(t *testing.T) {
	f := linktest.NewTether(t)
	f.Start(&tetherv1.Process{Args: []string{"sleep"}, Stdin: true})
	host, tether := linktest.SocketPair(t)
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- link.Serve(ctx, tether, f, slog.New(slog.DiscardHandler)) }()
	c, err := link.NewClient(testContext(t), host)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	out := openOutput(t, c, link.MainSession, link.StreamStdout, 0)
	in, err := c.OpenInput(testContext(t), link.MainSession)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if _, err := in.Write([]byte("nobody reads this")); err != nil {
		t.Fatal(err)
	}
	waited := make(chan error, 1)
	go func() {
		_, err := c.Tether().Wait(testContext(t), &tetherv1.WaitRequest{Session: link.MainSession})
		waited <- err
	}()
	cancel()
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
	}
	if _, err := out.Read(make([]byte, 1)); !errors.Is(err, link.ErrLost) {
		t.Errorf("read: %v", err)
	}
	if err := <-waited; err == nil {
		t.Error("the wait succeeded")
	}
}

// TestUpload sends a layer, whole and cut, before and after its Unpack.
func TestUpload(t *testing.T) {
	f := linktest.NewTether(t)
	c := f.Client()
	layer := make([]byte, 100*512) // a tar of nothing but its end
	for id, whole := range map[string]bool{"whole": true, "cut": false} {
		unpacked := make(chan error, 1)
		go func() {
			_, err := c.Tether().Unpack(testContext(t), &tetherv1.UnpackRequest{Upload: id})
			unpacked <- err
		}()
		up, err := c.Upload(testContext(t), id)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := up.Write(layer); err != nil {
			t.Fatal(err)
		}
		if whole {
			if err := up.CloseWrite(); err != nil {
				t.Fatal(err)
			}
		} else {
			up.Close()
		}
		if err := <-unpacked; (err == nil) != whole {
			t.Errorf("%s: %v", id, err)
		}
		up.Close()
	}
	if got := f.Unpacked(); len(got) != 1 || !bytes.Equal(got[0].Tar, layer) {
		t.Errorf("%d layers arrived", len(got))
	}
}
