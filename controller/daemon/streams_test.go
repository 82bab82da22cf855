package daemon_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"golang.org/x/net/websocket"

	ctr "github.com/containervm/containervm/controller/internal/container"
	"github.com/containervm/containervm/hostd-bridge/daemon/daemontest"
	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/tether/link/linktest"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// dial connects to the API.
func (e *engine) dial() net.Conn {
	e.t.Helper()
	conn, err := net.Dial("unix", e.socket)
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() { conn.Close() })
	return conn
}

// TestStdinBeyondTheEnd: a client that still sends when the process has ended gets all of the output and its end, whichever way it attached.
func TestStdinBeyondTheEnd(t *testing.T) {
	e := start(t, func(_ *daemontest.Machine, tether *linktest.Tether) {
		tether.Program("five", func(p *linktest.Process) *tetherv1.Exit {
			_, _ = io.CopyN(p.Stdout, p.Stdin, 5)
			return linktest.Exited(0)
		})
	})
	for _, tty := range []bool{false, true} {
		for name, head := range map[string]string{
			"upgrade": "Connection: Upgrade\r\nUpgrade: tcp\r\n", "raw": "", "close": "Connection: close\r\n",
		} {
			id := e.create("", container.Config{Cmd: []string{"five"}, OpenStdin: true, StdinOnce: true, AttachStdin: true, Tty: tty}, container.HostConfig{})
			conn := e.dial()
			fmt.Fprintf(conn, "POST /containers/%s/attach?stream=1&stdin=1&stdout=1&stderr=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n%s\r\n", id, head)
			r := bufio.NewReader(conn)
			res, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatal(err)
			}
			if want := map[bool]int{true: 101, false: 200}[name == "upgrade"]; res.StatusCode != want {
				t.Errorf("%s: status %d, want %d", name, res.StatusCode, want)
			}
			e.begin(id)
			sent := make(chan error, 1)
			go func() {
				_, err := conn.Write(bytes.Repeat([]byte("x"), 20<<20))
				sent <- errors.Join(err, conn.(*net.UnixConn).CloseWrite())
			}()
			got, err := io.ReadAll(r)
			want := "xxxxx"
			if !tty {
				want = "\x01\x00\x00\x00\x00\x00\x00\x05" + want
			}
			if err != nil || string(got) != want {
				t.Errorf("%s, tty %v: output %q, %v", name, tty, got, err)
			}
			if err := <-sent; err != nil {
				t.Errorf("%s, tty %v: input: %v", name, tty, err)
			}
		}
	}
}

// TestExecAnswersFirst: the answer to the start of an exec comes before its process does anything: here it cannot be started at all.
func TestExecAnswersFirst(t *testing.T) {
	e := startOn(t, badGuests(t, nil), ctr.Timeouts{})
	id := e.create("c", container.Config{Cmd: []string{"deaf"}}, container.HostConfig{})
	e.begin(id)
	res, err := e.docker.ExecCreate(e.ctx(), id, client.ExecCreateOptions{Cmd: []string{"true"}, AttachStdout: true})
	if err != nil {
		t.Fatal(err)
	}
	for what, upgrade := range map[string]string{"101 UPGRADED": "Connection: Upgrade\r\nUpgrade: tcp\r\n"} {
		conn := e.dial()
		fmt.Fprintf(conn, "POST /exec/%s/start HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n%s\r\n{}", res.ID, upgrade)
		answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || answer.Status != what {
			t.Errorf("%+v, %v", answer, err)
		}
	}
}

// TestExecNotStarted: what cannot be started is told in the stream of who is attached, by the status of who is not, and by the exit code.
func TestExecNotStarted(t *testing.T) {
	e := start(t, nil)
	id := e.create("c", container.Config{Cmd: []string{"sleep"}}, container.HostConfig{})
	e.begin(id)
	session, err := e.execIn(id, "nosuch")
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if _, err := stdcopy.StdCopy(&out, &out, session.Reader); err != nil || !strings.Contains(out.String(), "executable file not found in $PATH") {
		t.Errorf("%q, %v", out.String(), err)
	}
	if res := e.execEnd(session.id); res.ExitCode != 127 {
		t.Errorf("%+v", res)
	}
	res, err := e.docker.ExecCreate(e.ctx(), id, client.ExecCreateOptions{Cmd: []string{"nosuch"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.docker.ExecStart(e.ctx(), res.ID, client.ExecStartOptions{Detach: true}); err == nil || !strings.Contains(err.Error(), "executable file not found in $PATH") {
		t.Errorf("detached: %v", err)
	}
}

// TestWebSocket: a container's streams by WebSocket, both ways, as bytes; the client's close is the end of its input.
func TestWebSocket(t *testing.T) {
	e := start(t, nil)
	attach := func(id, query string) (*websocket.Conn, error) {
		config, err := websocket.NewConfig("ws://docker/containers/"+id+"/attach/ws?"+query, "http://docker")
		if err != nil {
			t.Fatal(err)
		}
		return websocket.NewClient(config, e.dial())
	}
	id := e.create("c", container.Config{Cmd: []string{"cat"}, OpenStdin: true, StdinOnce: true}, container.HostConfig{})
	conn, err := attach(id, "stream=1&stdin=1&stdout=1&stderr=1")
	if err != nil {
		t.Fatal(err)
	}
	e.begin(id)
	end := e.docker.ContainerWait(e.ctx(), id, client.ContainerWaitOptions{})
	conn.PayloadType = websocket.BinaryFrame
	said := linktest.Pattern(0, 300_000)
	go func() { _, _ = conn.Write(said) }() // its loss shows in what is read
	got := make([]byte, len(said))
	if _, err := io.ReadFull(conn, got); err != nil || !bytes.Equal(got, said) {
		t.Errorf("what came back is not what was sent: %v", err)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	if code := e.exitOf(end); code != 0 {
		t.Errorf("exit code %d", code)
	}
	conn, err = attach(id, "logs=1&stdout=1")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(conn); err != nil || !bytes.Equal(got, said) {
		t.Errorf("the log: %d bytes, %v", len(got), err)
	}
	if _, err := attach("none", "logs=1"); err == nil {
		t.Error("no such container, and it is attached")
	}
	ended := e.create("e", container.Config{Cmd: []string{"echo", "hi"}}, container.HostConfig{})
	if conn, err = attach(ended, "stream=1&stdout=1"); err != nil {
		t.Fatal(err)
	}
	e.begin(ended)
	if got, err := io.ReadAll(conn); err != nil || string(got) != "hi\n" {
		t.Errorf("%q, %v", got, err)
	}
}

// TestLogDrivers: drivers and options are done or refused, in Docker's words; inspect shows what is in force, and a container whose log is not
// stored can be attached to.
func TestLogDrivers(t *testing.T) {
	e := start(t, nil)
	host := e.connect()
	run := func(log container.LogConfig) string {
		t.Helper()
		id := e.create("", container.Config{Cmd: []string{"echo", "hi"}, Env: []string{"A=b"}}, container.HostConfig{LogConfig: log})
		end := e.docker.ContainerWait(e.ctx(), id, client.ContainerWaitOptions{Condition: container.WaitConditionNextExit})
		at, err := e.docker.ContainerAttach(e.ctx(), id, client.ContainerAttachOptions{Stream: true, Stdout: true})
		if err != nil {
			t.Fatal(err)
		}
		defer at.Close()
		e.begin(id)
		var out bytes.Buffer
		if _, err := stdcopy.StdCopy(&out, &out, at.Reader); err != nil || out.String() != "hi\n" {
			t.Errorf("%+v: attached to %q, %v", log, out.String(), err)
		}
		e.exitOf(end)
		return id
	}
	config := func(id string) container.LogConfig {
		t.Helper()
		res, err := e.docker.ContainerInspect(e.ctx(), id, client.ContainerInspectOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return res.Container.HostConfig.LogConfig
	}
	key := func(id string) string {
		vm, _ := host.Get(id)
		return vm.Extra[hostapi.KeyLog]
	}
	usual := run(container.LogConfig{})
	if c := config(usual); c.Type != "json-file" || c.Config == nil || key(usual) != "" {
		t.Errorf("by default %+v, %q", c, key(usual))
	}
	bounded := run(container.LogConfig{Type: "local", Config: map[string]string{"max-size": "1m", "max-file": "2"}})
	if c := config(bounded); c.Type != "local" || key(bounded) != `{"fileBytes":1000000,"files":2}` {
		t.Errorf("bounded: %+v, %q", c, key(bounded))
	}
	if got := e.logs(bounded, client.ContainerLogsOptions{}); got != "hi\n" {
		t.Errorf("%q", got)
	}
	none := run(container.LogConfig{Type: "none"})
	if key(none) != `{"discard":true}` {
		t.Errorf("none: %q", key(none))
	}
	if _, err := e.docker.ContainerLogs(e.ctx(), none, client.ContainerLogsOptions{ShowStdout: true}); !errdefs.IsNotImplemented(err) ||
		!strings.Contains(err.Error(), "configured logging driver does not support reading") {
		t.Errorf("the log of a container without one: %v", err)
	}
	detailed := run(container.LogConfig{Config: map[string]string{"env": "A", "tag": "{{.ImageName}}"}})
	if got := e.logs(detailed, client.ContainerLogsOptions{Details: true}); got != "A=b,tag=base hi\n" {
		t.Errorf("details: %q", got)
	}
	for _, log := range []container.LogConfig{{Type: "foo"}, {Type: "syslog"}, {Config: map[string]string{"max-size": "x"}}, {Config: map[string]string{"mode": "non-blocking"}}} {
		_, err := e.docker.ContainerCreate(e.ctx(), client.ContainerCreateOptions{Config: &container.Config{Image: "base", Cmd: []string{"true"}}, HostConfig: &container.HostConfig{LogConfig: log}})
		if !errdefs.IsInvalidArgument(err) && !errdefs.IsNotImplemented(err) {
			t.Errorf("%+v: %v", log, err)
		}
	}
}
