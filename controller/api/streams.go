package api

import (
	"context"
	"io"
	"net/http"
	"time"

	"github.com/containervm/containervm/controller/internal/stream"
	"github.com/containervm/containervm/internal/printable"
)

// streamAPI carries the streams of containers' main processes.
type streamAPI struct {
	streams *stream.Service
}

func (a *streamAPI) routes(r *router) {
	r.handle("POST /containers/{id}/attach", a.attach)
	r.handle("GET /containers/{id}/attach/ws", a.attachWebSocket)
	r.handle("GET /containers/{id}/logs", a.logs)
}

func (a *streamAPI) attach(w http.ResponseWriter, r *http.Request) error {
	return a.attached(r, func(ctx context.Context, gone func(), at *stream.Attachment) error {
		tty := at.Container.Config.Tty
		conn, err := hijack(w, r, tty)
		if err != nil {
			return err
		}
		defer conn.finish()
		return carry(ctx, at, conn.stdin(gone), stream.NewSink(conn, tty))
	})
}

// attached attaches a request's client, and calls serve for as long as it is. gone says that the client is not there any more.
func (a *streamAPI) attached(r *http.Request, serve func(ctx context.Context, gone func(), at *stream.Attachment) error) error {
	opt, err := attachOptions(r)
	if err != nil {
		return err
	}
	// The attachment outlives the request's context, which ends when the connection is taken over.
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.Context()))
	defer cancel()
	at, err := a.streams.Attach(ctx, r.PathValue("id"), opt)
	if err != nil {
		return err
	}
	defer at.Close()
	return serve(ctx, cancel, at)
}

// carry carries an attachment's streams. What goes wrong is said in the stream: there is no other way to say it.
func carry(ctx context.Context, at *stream.Attachment, stdin io.Reader, out stream.Sink) error {
	if !at.TakesStdin() {
		go drain(stdin)
	}
	err := at.Run(ctx, stdin, out)
	if err != nil && ctx.Err() == nil {
		_ = out.Fail(printable.Text(err.Error())) // who has left hears nothing
	}
	return err
}

func attachOptions(r *http.Request) (stream.AttachOptions, error) {
	keys, err := stream.DetachKeys(param(r, "detachKeys"))
	return stream.AttachOptions{
		Stdin: boolParam(r, "stdin"), Stdout: boolParam(r, "stdout"), Stderr: boolParam(r, "stderr"),
		Stream: boolParam(r, "stream"), Logs: boolParam(r, "logs"), DetachKeys: keys,
	}, err
}

func (a *streamAPI) logs(w http.ResponseWriter, r *http.Request) error {
	opt, err := logOptions(r, time.Now())
	if err != nil {
		return err
	}
	c, write, err := a.streams.Logs(r.Context(), r.PathValue("id"), opt)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", streamType(r.Context(), c.Config.Tty))
	w.WriteHeader(http.StatusOK)
	flush := http.NewResponseController(w)
	if err := flush.Flush(); err != nil {
		return err
	}
	return write(stream.NewSink(flushWriter{w, flush, opt.Follow}, c.Config.Tty))
}

// flushWriter sends each write at once when someone waits for it.
type flushWriter struct {
	http.ResponseWriter
	c  *http.ResponseController
	on bool
}

func (f flushWriter) Write(p []byte) (int, error) {
	n, err := f.ResponseWriter.Write(p)
	if err == nil && f.on {
		err = f.c.Flush()
	}
	return n, err
}

func logOptions(r *http.Request, now time.Time) (opt stream.LogOptions, err error) {
	opt = stream.LogOptions{
		Stdout: boolParam(r, "stdout"), Stderr: boolParam(r, "stderr"),
		Follow: boolParam(r, "follow"), Timestamps: boolParam(r, "timestamps"), Details: boolParam(r, "details"), Tail: -1,
	}
	if opt.Since, err = parseTime(param(r, "since"), now); err != nil {
		return opt, err
	}
	if opt.Until, err = parseTime(param(r, "until"), now); err != nil {
		return opt, err
	}
	if t := param(r, "tail"); t != "" && t != "all" {
		if opt.Tail, err = intParam(r, "tail", -1); err != nil {
			opt.Tail = -1 // Docker takes what is no number for "all"
		}
	}
	return opt, nil
}
