package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/containervm/containervm/tether/internal/process"
	"github.com/containervm/containervm/tether/link"
)

const (
	// logPatience is how long the main process's output waits for a host that does not take its log.
	logPatience = 10 * time.Second
	// logPause is between two tries to connect.
	logPause = 50 * time.Millisecond
	// logPayload makes a record fill one packet of virtio-vsock (Linux, VIRTIO_VSOCK_MAX_PKT_BUF_SIZE).
	logPayload = link.MaxRecord - link.RecordHeader
)

// HostLog sends output to the host's log. Its methods may be called by several goroutines.
type HostLog struct {
	dial func(ctx context.Context) (net.Conn, error)
	log  *slog.Logger

	patience time.Duration // see logPatience

	mu   sync.Mutex
	conn net.Conn
}

// NewHostLog returns a log that connects by dial.
func NewHostLog(dial func(ctx context.Context) (net.Conn, error), log *slog.Logger) *HostLog {
	return &HostLog{dial: dial, log: log, patience: logPatience}
}

// Copy sends what r reads until the stream ends, and then nil is returned, or ctx does. A lost connection is made again
// and the record that it lost is sent again; when that takes too long the process goes on, and its ring may drop bytes.
func (h *HostLog) Copy(ctx context.Context, stream link.RecordStream, r *process.RingReader) error {
	stop := context.AfterFunc(ctx, func() { _ = r.Close() })
	defer stop()
	defer r.Close()
	if err := h.Connect(ctx); err != nil {
		h.log.Warn("host takes no log yet", "err", err)
	}
	buf := make([]byte, link.RecordHeader+logPayload)
	for {
		n, err := r.Read(buf[link.RecordHeader:])
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		// The payload is in its place already.
		record := link.AppendRecord(buf[:0], link.Record{Stream: stream, Payload: buf[link.RecordHeader:][:n]})
		if err := h.send(ctx, record, r); err != nil {
			return err
		}
	}
}

// Send copies the rings to the host and returns once it has confirmed that it has all of them. Once the process has ended the
// host may take limit for the rest; a host that takes longer, or confirms nothing, is the error.
func (h *HostLog) Send(ctx context.Context, rings map[link.RecordStream]*process.Ring, ended <-chan struct{}, limit time.Duration) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var copies errgroup.Group
	for stream, ring := range rings {
		copies.Go(func() error {
			reader, err := ring.Reader(0, true)
			if err != nil {
				return err
			}
			return h.Copy(ctx, stream, reader)
		})
	}
	select {
	case <-ended:
		late := time.AfterFunc(limit, func() { cancel(fmt.Errorf("the host has not confirmed the log within %v", limit)) })
		defer late.Stop()
	case <-ctx.Done():
	}
	if err := copies.Wait(); err != nil {
		return err
	}
	return h.Finish(ctx)
}

func (h *HostLog) send(ctx context.Context, record []byte, r *process.RingReader) error {
	var patience *time.Timer
	for {
		err := h.try(ctx, record)
		if err == nil {
			if patience != nil && !patience.Stop() {
				r.Hold()
				h.log.Warn("the host takes the log again", "dropped", r.Dropped())
			}
			return nil
		}
		if patience == nil {
			h.log.Warn("connection of the host's log is lost", "err", err)
			patience = time.AfterFunc(h.patience, r.Release)
		}
		select {
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		case <-time.After(logPause):
		}
	}
}

// Connect connects with the host unless there is a connection. Copy does so too.
func (h *HostLog) Connect(ctx context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.conn != nil {
		return nil
	}
	conn, err := h.dial(ctx)
	if err == nil {
		h.conn = conn
	}
	return err
}

func (h *HostLog) try(ctx context.Context, record []byte) error {
	if err := h.Connect(ctx); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.conn == nil {
		return net.ErrClosed
	}
	conn := h.conn
	stop := context.AfterFunc(ctx, func() { _ = conn.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := conn.Write(record); err != nil {
		_ = conn.Close() // the host cuts the torn record
		h.conn = nil
		return err
	}
	return nil
}

// Finish ends the log by shutting down the sending side, and returns once the host has confirmed, by ending the connection, that it
// has stored all of it.
func (h *HostLog) Finish(ctx context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.conn == nil {
		return nil
	}
	conn := h.conn
	h.conn = nil
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		if err := half.CloseWrite(); err != nil {
			return err
		}
	}
	_, err := io.Copy(io.Discard, conn)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
