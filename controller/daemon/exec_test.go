package daemon_test

import (
	"bufio"
	"io"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/containervm/containervm/hostd-bridge/daemon/daemontest"
	"github.com/containervm/containervm/tether/link/linktest"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// execution is an exec session to whose output the test is attached.
type execution struct {
	id     string
	Reader *bufio.Reader
	client.HijackedResponse
}

// execIn runs a command in a container and attaches to it.
func (e *engine) execIn(container string, cmd ...string) (*execution, error) {
	e.t.Helper()
	res, err := e.docker.ExecCreate(e.ctx(), container, client.ExecCreateOptions{Cmd: cmd, AttachStdout: true, AttachStderr: true})
	if err != nil {
		return nil, err
	}
	at, err := e.docker.ExecAttach(e.ctx(), res.ID, client.ExecAttachOptions{})
	if err != nil {
		return nil, err
	}
	return &execution{res.ID, at.Reader, at.HijackedResponse}, nil
}

// execDetached runs a command in a container and leaves it alone.
func (e *engine) execDetached(container string, tty bool, cmd ...string) (id string) {
	e.t.Helper()
	res, err := e.docker.ExecCreate(e.ctx(), container, client.ExecCreateOptions{Cmd: cmd, TTY: tty, AttachStdin: tty})
	if err != nil {
		e.t.Fatal(err)
	}
	if _, err := e.docker.ExecStart(e.ctx(), res.ID, client.ExecStartOptions{Detach: true, TTY: tty}); err != nil {
		e.t.Fatal(err)
	}
	return res.ID
}

// execBegun waits until a session's process runs: the answer to its start comes before.
func (e *engine) execBegun(id string) {
	e.t.Helper()
	for ctx := e.ctx(); ; {
		res, err := e.docker.ExecInspect(ctx, id, client.ExecInspectOptions{})
		if err != nil {
			e.t.Fatal(err)
		}
		if res.Running && res.PID > 0 {
			return
		}
		select {
		case <-time.After(5 * time.Millisecond): // the API has no wait for it
		case <-ctx.Done():
			e.t.Fatal("the session does not begin")
		}
	}
}

// execEnd waits for the end of a session that nobody is attached to.
func (e *engine) execEnd(id string) client.ExecInspectResult {
	e.t.Helper()
	for ctx := e.ctx(); ; {
		res, err := e.docker.ExecInspect(ctx, id, client.ExecInspectOptions{})
		if err != nil {
			e.t.Fatal(err)
		}
		if !res.Running {
			return res
		}
		select {
		case <-time.After(5 * time.Millisecond): // the API has no wait for it
		case <-ctx.Done():
			e.t.Fatal("the session does not end")
		}
	}
}

func TestExecDetachAndResize(t *testing.T) {
	tethers := make(chan *linktest.Tether, 2)
	e := start(t, func(_ *daemontest.Machine, tether *linktest.Tether) { tethers <- tether })
	<-tethers // the unpacker's
	id := e.create("c", container.Config{Cmd: []string{"sleep"}}, container.HostConfig{})
	e.begin(id)
	session := e.execDetached(id, true, "sleep")
	if res, err := e.docker.ExecInspect(e.ctx(), session, client.ExecInspectOptions{}); err != nil || !res.Running || res.ContainerID != id {
		t.Errorf("a detached session: %+v, %v", res, err)
	}
	if _, err := e.docker.ExecResize(e.ctx(), session, client.ExecResizeOptions{Height: 33, Width: 77}); err != nil {
		t.Error(err)
	}
	p := (<-tethers).Process(session)
	if w := p.Windows(); len(w) == 0 || w[len(w)-1].Rows != 33 || w[len(w)-1].Columns != 77 {
		t.Errorf("the terminal's sizes %v", w)
	}
	if _, err := e.docker.ExecStart(e.ctx(), session, client.ExecStartOptions{Detach: true}); !errdefs.IsConflict(err) {
		t.Errorf("a second start: %v", err)
	}
	if res := e.execEnd(e.execDetached(id, false, "exit", "5")); res.ExitCode != 5 {
		t.Errorf("the end of a detached session: %+v", res)
	}
}

// TestExecEvents: a session is told of in Docker's order and words.
func TestExecEvents(t *testing.T) {
	e := start(t, nil)
	id := e.create("c", container.Config{Cmd: []string{"sleep"}}, container.HostConfig{})
	e.begin(id)
	told := e.docker.Events(e.ctx(), client.EventsListOptions{Since: "1m", Filters: client.Filters{}.Add("event", "exec_create", "exec_start", "exec_die")})
	session := e.execDetached(id, false, "exit", "5")
	for _, want := range []string{"exec_create: exit 5", "exec_start: exit 5", "exec_die"} {
		select {
		case m := <-told.Messages:
			if string(m.Action) != want || m.Actor.Attributes["execID"] != session || want == "exec_die" && m.Actor.Attributes["exitCode"] != "5" {
				t.Errorf("told %s %v, want %s of %s", m.Action, m.Actor.Attributes, want, session)
			}
		case err := <-told.Err:
			t.Fatal(err)
		}
	}
	if _, err := e.docker.ContainerRename(e.ctx(), "c", client.ContainerRenameOptions{NewName: "c"}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a new name that is the old one: %v", err)
	}
}

// TestExecSurvivesController: the next controller finds the sessions of the one before, those that run and those that
// ended lately, with their exit codes.
func TestExecSurvivesController(t *testing.T) {
	stop := make(chan struct{})
	e := start(t, func(_ *daemontest.Machine, tether *linktest.Tether) {
		tether.Program("work", func(p *linktest.Process) *tetherv1.Exit {
			select {
			case <-stop:
				return linktest.Exited(4)
			case <-p.Killed:
				return nil
			}
		})
	})
	id := e.create("c", container.Config{Cmd: []string{"sleep"}}, container.HostConfig{})
	e.begin(id)
	works, ended := e.execDetached(id, false, "work"), e.execDetached(id, false, "exit", "9")
	e.execEnd(ended)
	made, err := e.docker.ExecCreate(e.ctx(), id, client.ExecCreateOptions{Cmd: []string{"true"}})
	if err != nil {
		t.Fatal(err)
	}
	e.stop()
	e.run()
	if res, err := e.docker.ExecInspect(e.ctx(), works, client.ExecInspectOptions{}); err != nil || !res.Running || res.ContainerID != id {
		t.Errorf("the running session: %+v, %v", res, err)
	}
	if res, err := e.docker.ExecInspect(e.ctx(), ended, client.ExecInspectOptions{}); err != nil || res.Running || res.ExitCode != 9 {
		t.Errorf("the ended session: %+v, %v", res, err)
	}
	if _, err := e.docker.ExecInspect(e.ctx(), made.ID, client.ExecInspectOptions{}); !errdefs.IsNotFound(err) {
		t.Errorf("the session that was not started: %v", err)
	}
	close(stop)
	if res := e.execEnd(works); res.ExitCode != 4 {
		t.Errorf("the end of the session that went on: %+v", res)
	}
}

// TestExecSurvivesHost: a session goes on while the host's daemon is away, and its end is seen.
func TestExecSurvivesHost(t *testing.T) {
	stop := make(chan struct{})
	e := start(t, func(_ *daemontest.Machine, tether *linktest.Tether) {
		tether.Program("work", func(p *linktest.Process) *tetherv1.Exit {
			select {
			case <-stop:
				return linktest.Exited(4)
			case <-p.Killed:
				return nil
			}
		})
	})
	id := e.create("c", container.Config{Cmd: []string{"sleep"}}, container.HostConfig{})
	e.begin(id)
	works := e.execDetached(id, false, "work")
	e.host.Stop()
	e.host.Run()
	close(stop)
	if res := e.execEnd(works); res.ExitCode != 4 {
		t.Errorf("the end of the session that went on: %+v", res)
	}
}

// TestExecGoesWithContainer: the client of a session whose container is removed gets its end and its exit code.
func TestExecGoesWithContainer(t *testing.T) {
	e := start(t, nil)
	id := e.create("c", container.Config{Cmd: []string{"sleep"}}, container.HostConfig{})
	e.begin(id)
	session, err := e.execIn(id, "sleep")
	if err != nil {
		t.Fatal(err)
	}
	e.execBegun(session.id)
	defer session.Close()
	if _, err := e.docker.ContainerRemove(e.ctx(), id, client.ContainerRemoveOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, session.Reader); err != nil {
		t.Error(err)
	}
	if res, err := e.docker.ExecInspect(e.ctx(), session.id, client.ExecInspectOptions{}); err != nil || res.Running || res.ExitCode != 137 {
		t.Errorf("%+v, %v; want the exit code of a kill", res, err)
	}
}

// TestAttachEvents: who attaches, resizes a terminal and detaches is told, of a container and of a session.
func TestAttachEvents(t *testing.T) {
	e := start(t, nil)
	id := e.create("c", container.Config{Cmd: []string{"cat"}, Tty: true, OpenStdin: true}, container.HostConfig{})
	e.begin(id)
	told := e.docker.Events(e.ctx(), client.EventsListOptions{Since: "1m", Filters: client.Filters{}.Add("event", "attach", "resize", "detach", "exec_detach")})
	const keys = "\x10\x11"
	attached, err := e.docker.ContainerAttach(e.ctx(), id, client.ContainerAttachOptions{Stream: true, Stdin: true, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	defer attached.Close()
	if _, err := e.docker.ContainerResize(e.ctx(), id, client.ContainerResizeOptions{Height: 33, Width: 77}); err != nil {
		t.Fatal(err)
	}
	if _, err := attached.Conn.Write([]byte(keys)); err != nil {
		t.Fatal(err)
	}
	made, err := e.docker.ExecCreate(e.ctx(), id, client.ExecCreateOptions{Cmd: []string{"cat"}, TTY: true, AttachStdin: true, AttachStdout: true})
	if err != nil {
		t.Fatal(err)
	}
	next := func(want string, has map[string]string) {
		t.Helper()
		select {
		case m := <-told.Messages:
			for key, value := range has {
				if m.Actor.Attributes[key] != value {
					t.Errorf("%s: %s is %q, want %q", m.Action, key, m.Actor.Attributes[key], value)
				}
			}
			if string(m.Action) != want || m.Actor.ID != id {
				t.Errorf("told %s of %s, want %s", m.Action, m.Actor.ID, want)
			}
		case err := <-told.Err:
			t.Fatal(err)
		}
	}
	next("attach", nil)
	next("resize", map[string]string{"height": "33", "width": "77"})
	next("detach", nil)
	session, err := e.docker.ExecAttach(e.ctx(), made.ID, client.ExecAttachOptions{TTY: true})
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	if _, err := session.Conn.Write([]byte(keys)); err != nil {
		t.Fatal(err)
	}
	next("exec_detach", map[string]string{"execID": made.ID})
}
