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

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"golang.org/x/net/websocket"

	ctr "github.com/containervm/containervm/controller/internal/container"
	"github.com/containervm/containervm/hostd-bridge/daemon/daemontest"
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
