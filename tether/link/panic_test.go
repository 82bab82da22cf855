package link_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/containervm/containervm/tether/link"
	"github.com/containervm/containervm/tether/link/linktest"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// broken is a tether with mistakes.
type broken struct{ *linktest.Tether }

func (broken) Info(context.Context, *tetherv1.InfoRequest) (*tetherv1.InfoResponse, error) {
	panic("broken Info")
}

func (broken) OpenInput(context.Context, string) (io.WriteCloser, error) { panic("broken OpenInput") }

// TestPanic has a handler panic: the call and the stream fail, the session goes on, and the log tells.
func TestPanic(t *testing.T) {
	ours, peer := linktest.SocketPair(t)
	var log bytes.Buffer
	served := make(chan error, 1)
	go func() {
		served <- link.Serve(t.Context(), ours, broken{linktest.NewTether(t)}, slog.New(slog.NewTextHandler(&log, nil)))
	}()
	c, err := link.NewClient(testContext(t), peer)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Tether().Info(t.Context(), &tetherv1.InfoRequest{}); status.Code(err) != codes.Internal || !strings.Contains(err.Error(), "broken Info") {
		t.Errorf("call: %v", err)
	}
	if _, err := c.OpenInput(testContext(t), link.MainSession); err == nil {
		t.Error("the stream opened")
	}
	if _, err := c.Tether().Processes(t.Context(), &tetherv1.ProcessesRequest{}); err != nil {
		t.Errorf("the next call: %v", err)
	}
	c.Close()
	if err := <-served; err != nil {
		t.Errorf("serve: %v", err)
	}
	if text := log.String(); !strings.Contains(text, "broken Info") || !strings.Contains(text, "broken OpenInput") {
		t.Errorf("the log does not tell: %s", text)
	}
}
