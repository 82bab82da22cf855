package api

import (
	"context"
	"errors"
	"net/http"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"github.com/containervm/containervm/controller/internal/exec"
	"github.com/containervm/containervm/controller/internal/fields"
	"github.com/containervm/containervm/controller/internal/stream"
	"github.com/containervm/containervm/internal/printable"
	"github.com/containervm/containervm/tether/link"
)

// execAPI runs processes beside a container's own.
type execAPI struct {
	execs *exec.Service
}

func (a *execAPI) routes(r *router) {
	r.handle("POST /containers/{id}/exec", a.create)
	r.handle("POST /exec/{id}/start", a.start)
	r.handle("POST /exec/{id}/resize", a.resize)
	r.handle("GET /exec/{id}/json", a.inspect)
}

func (a *execAPI) create(w http.ResponseWriter, r *http.Request) error {
	var req container.ExecCreateRequest
	if _, err := readRequest(w, r, fields.Exec(), &req); err != nil {
		return err
	}
	keys, err := stream.DetachKeys(req.DetachKeys)
	if err != nil {
		return err
	}
	id, err := a.execs.Create(r.PathValue("id"), exec.Request{Config: req, DetachKeys: keys})
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusCreated, container.ExecCreateResponse{ID: id})
}

func (a *execAPI) start(w http.ResponseWriter, r *http.Request) error {
	var req container.ExecStartRequest
	if err := readOptionalRequest(w, r, fields.ExecStart(), &req); err != nil {
		return err
	}
	id := r.PathValue("id")
	session, err := a.execs.Inspect(r.Context(), id)
	if err != nil {
		return err
	}
	if !session.Config.Tty || !atLeast(r.Context(), "1.42") {
		req.ConsoleSize = nil // as Docker: there is no console, or the client does not know of its size
	}
	if req.Detach {
		if _, err := a.execs.Start(r.Context(), id, false, req.ConsoleSize); err != nil {
			return err
		}
		w.WriteHeader(http.StatusOK)
		return nil
	}
	return a.attach(w, r, session, req.ConsoleSize)
}

// attach starts a session and carries its streams. The answer comes before the start: what a process writes at once must not arrive with
// it. So a command that cannot be started is told of in the stream, as Docker does: the client then asks for the exit code.
func (a *execAPI) attach(w http.ResponseWriter, r *http.Request, session exec.State, consoleSize *[2]uint) error {
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.Context()))
	defer cancel()
	if err := a.execs.Startable(ctx, session.ID); err != nil {
		return err
	}
	conn, err := hijack(w, r, session.Config.Tty)
	if err != nil {
		return err
	}
	defer conn.finish()
	out := stream.NewSink(conn, session.Config.Tty)
	x, err := a.execs.Start(ctx, session.ID, true, consoleSize)
	if err != nil {
		said := out.Write(link.StreamStdout, []byte(printable.Text(err.Error())+"\r\n"))
		if errdefs.IsInvalidArgument(err) { // the client's own
			return said
		}
		return err
	}
	stdin := conn.stdin(cancel)
	if !session.Config.AttachStdin {
		go drain(stdin)
	}
	err = x.Run(ctx, stdin, out)
	if err != nil && ctx.Err() == nil && !errors.Is(err, link.ErrLost) { // which is the end of its machine
		_ = out.Fail(printable.Text(err.Error())) // who has left hears nothing
	}
	return err
}

func (a *execAPI) resize(w http.ResponseWriter, r *http.Request) error {
	rows, columns, err := windowParams(r)
	if err != nil {
		return err
	}
	return a.execs.Resize(r.Context(), r.PathValue("id"), rows, columns)
}

func (a *execAPI) inspect(w http.ResponseWriter, r *http.Request) error {
	e, err := a.execs.Inspect(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	c := e.Config
	process := &container.ExecProcessConfig{Arguments: []string{}, Tty: c.Tty, Privileged: &c.Privileged, User: c.User}
	if len(c.Cmd) > 0 { // not known of a session that an earlier controller made
		process.Entrypoint, process.Arguments = c.Cmd[0], c.Cmd[1:]
	}
	return writeJSON(w, http.StatusOK, container.ExecInspectResponse{
		ID: e.ID, ContainerID: e.ContainerID, Running: e.Running, ExitCode: e.ExitCode, Pid: e.Pid,
		OpenStdin: c.AttachStdin, OpenStdout: c.AttachStdout, OpenStderr: c.AttachStderr, CanRemove: e.ExitCode != nil,
		ProcessConfig: process, DetachKeys: []byte{},
	})
}
