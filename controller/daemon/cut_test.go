package daemon_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/containervm/containervm/hostd-bridge/daemon/daemontest"
	"github.com/containervm/containervm/internal/vmtest"
	"github.com/containervm/containervm/tether/link/linktest"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// counter is a program "count" that writes the next number, a line each, for each token, and ends with the channel.
func counter(tokens <-chan struct{}) func(*daemontest.Machine, *linktest.Tether) {
	return func(_ *daemontest.Machine, tether *linktest.Tether) {
		tether.Program("count", func(p *linktest.Process) *tetherv1.Exit {
			for n := 0; ; n++ {
				select {
				case _, more := <-tokens:
					if !more {
						return linktest.Exited(0)
					}
					fmt.Fprintln(p.Stdout, n)
				case <-p.Killed:
					return nil
				}
			}
		})
	}
}

// numbers reads the output of count: each number once, in order.
type numbers struct {
	t     *testing.T
	what  string
	lines *bufio.Scanner
	next  int
}

func numbersOf(t *testing.T, what string, framed io.Reader) *numbers {
	plain, w := io.Pipe()
	go func() {
		_, err := stdcopy.StdCopy(w, w, framed)
		w.CloseWithError(err)
	}()
	return &numbers{t: t, what: what, lines: bufio.NewScanner(plain)}
}

func (n *numbers) upTo(end int) {
	n.t.Helper()
	for ; n.next < end; n.next++ {
		if !n.lines.Scan() || n.lines.Text() != strconv.Itoa(n.next) {
			n.t.Fatalf("%s: %q in the place of %d, %v", n.what, n.lines.Text(), n.next, n.lines.Err())
		}
	}
}

func (n *numbers) end() {
	n.t.Helper()
	if n.lines.Scan() || n.lines.Err() != nil {
		n.t.Errorf("%s: %q in the place of the end, %v", n.what, n.lines.Text(), n.lines.Err())
	}
}

// TestStreamsGoOn: who is attached, or follows the log, reads on when the host's daemon was away, and reads the end that came meanwhile.
func TestStreamsGoOn(t *testing.T) {
	tokens := make(chan struct{})
	e := start(t, counter(tokens))
	id := e.create("c", container.Config{Cmd: []string{"count"}}, container.HostConfig{})
	attached, err := e.docker.ContainerAttach(e.ctx(), id, client.ContainerAttachOptions{Stream: true, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	defer attached.Close()
	e.host.Stop() // also before the container is started
	e.host.Run()
	e.begin(id)
	end := e.docker.ContainerWait(context.WithoutCancel(e.ctx()), id, client.ContainerWaitOptions{})
	logs, err := e.docker.ContainerLogs(e.ctx(), id, client.ContainerLogsOptions{ShowStdout: true, Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	defer logs.Close()
	all := []*numbers{numbersOf(t, "attach", attached.Reader), numbersOf(t, "logs", logs)}
	said := 0
	say := func() {
		tokens <- struct{}{}
		said++
	}
	for range 3 {
		say()
		for _, n := range all {
			n.upTo(said)
		}
		e.host.Stop()
		say()
		e.host.Run()
	}
	e.host.Stop()
	say()
	close(tokens)
	e.host.Run()
	for _, n := range all {
		n.upTo(said)
		n.end()
	}
	if code := e.exitOf(end); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// TestExecGoesOn: who is attached to an exec session reads on when the host's daemon was away.
func TestExecGoesOn(t *testing.T) {
	tokens := make(chan struct{})
	e := start(t, counter(tokens))
	id := e.create("c", container.Config{Cmd: []string{"sleep"}}, container.HostConfig{})
	e.begin(id)
	session, err := e.execIn(id, "count")
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	n := numbersOf(t, "exec", session.Reader)
	for said := 1; said < 6; said += 2 {
		tokens <- struct{}{}
		n.upTo(said)
		e.host.Stop()
		tokens <- struct{}{}
		e.host.Run()
		n.upTo(said + 1)
	}
	close(tokens)
	n.end()
	if res := e.execEnd(session.id); res.ExitCode != 0 {
		t.Errorf("%+v", res)
	}
}

// TestInputBreaksOff: standard input whose end the process has not taken when the host's daemon goes away ends the client's streams, with why,
// and the process goes on.
func TestInputBreaksOff(t *testing.T) {
	e := start(t, nil)
	id := e.create("c", container.Config{Cmd: []string{"cat"}, OpenStdin: true, StdinOnce: true}, container.HostConfig{})
	attached, err := e.docker.ContainerAttach(e.ctx(), id, client.ContainerAttachOptions{Stream: true, Stdin: true, Stdout: true, Stderr: true})
	if err != nil {
		t.Fatal(err)
	}
	defer attached.Close()
	e.begin(id)
	made, err := e.docker.ExecCreate(e.ctx(), id, client.ExecCreateOptions{Cmd: []string{"cat"}, AttachStdin: true, AttachStdout: true, AttachStderr: true})
	if err != nil {
		t.Fatal(err)
	}
	session, err := e.docker.ExecAttach(e.ctx(), made.ID, client.ExecAttachOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	for what, at := range map[string]client.HijackedResponse{"attach": attached.HijackedResponse, "exec": session.HijackedResponse} {
		if _, err := at.Conn.Write([]byte("hello\n")); err != nil {
			t.Fatal(err)
		}
		head := make([]byte, 8+len("hello\n"))
		if _, err := io.ReadFull(at.Reader, head); err != nil || string(head[8:]) != "hello\n" {
			t.Fatalf("%s: %q, %v", what, head, err)
		}
	}
	e.host.Stop()
	e.host.Run()
	for what, at := range map[string]client.HijackedResponse{"attach": attached.HijackedResponse, "exec": session.HijackedResponse} {
		var out, errs bytes.Buffer
		_, err := stdcopy.StdCopy(&out, &errs, at.Reader)
		if err == nil || !strings.Contains(err.Error(), "standard input broke off") || !strings.Contains(errs.String(), "attach again") || out.Len() > 0 {
			t.Errorf("%s: %q, %q, %v", what, out.String(), errs.String(), err)
		}
	}
	if !e.state(id).Running {
		t.Error("the container went with the daemon")
	}
}

// TestCallsAreCut: each call that streams, cut by its client in the middle, one way or both, leaves nothing: no goroutine, no descriptor, no
// image, no pause.
func TestCallsAreCut(t *testing.T) {
	made := make(fakes, 16)
	e := start(t, made.add)
	<-made
	id := e.create("c", container.Config{Cmd: []string{"sleep"}, OpenStdin: true}, container.HostConfig{})
	e.begin(id)
	(<-made).OnExport(func(w io.Writer) error { // without an end: until the host wants no more
		for {
			if _, err := w.Write(make([]byte, 64<<10)); err != nil {
				return err
			}
		}
	})
	half := "\r\nContent-Type: application/x-tar\r\nContent-Length: 1000000\r\n\r\n" + string(tarOf(t, "a", strings.Repeat("x", 5000)))[:3000]
	none := "\r\nContent-Length: 0\r\n\r\n"
	calls := map[string]string{
		"POST /containers/c/attach?stream=1&stdin=1&stdout=1":   none,
		"GET /containers/c/logs?follow=1&stdout=1":              none,
		"GET /containers/c/stats":                               none,
		"GET /containers/c/export":                              none,
		"GET /containers/c/archive?path=/":                      none,
		"PUT /containers/c/archive?path=/":                      half,
		"POST /containers/c/wait":                               none,
		"POST /commit?container=c&repo=cut":                     none,
		"GET /events":                                           none,
		"GET /images/base/get":                                  none,
		"POST /images/load":                                     half,
		"POST /images/create?fromSrc=-&repo=cut":                half,
		"GET /containers/c/top":                                 none,
		"GET /containers/c/logs?follow=1&stdout=1&until=999999": none,
	}
	round := func() {
		for call, rest := range calls {
			for _, halved := range []bool{true, false} {
				conn := e.dial().(*net.UnixConn)
				if _, err := fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: x%s", call, rest); err != nil {
					t.Fatal(err)
				}
				if rest == none && !strings.HasPrefix(call, "POST /commit") && !strings.HasSuffix(call, "/wait") {
					if _, err := conn.Read(make([]byte, 1)); err != nil && !strings.HasSuffix(call, "/events") {
						t.Errorf("%s: %v", call, err)
					}
				}
				if halved {
					_ = conn.CloseWrite() // what is not sent is missing: the call goes on or ends
				}
				conn.Close()
			}
		}
	}
	round()
	before := settled(t, census{})
	files := descriptors(t)
	for range 3 {
		round()
	}
	settled(t, before)
	// Idle connections come and go, and those that were cut are closed by goroutines of the libraries.
	vmtest.Eventually(t, testTime/4, "as many descriptors are open as before", func() bool { return descriptors(t) <= files+10 })
	e.until(id, "goes on", func(c container.InspectResponse) bool { return c.State.Running && !c.State.Paused })
	if list, err := e.docker.ImageList(e.ctx(), client.ImageListOptions{All: true}); err != nil || len(list.Items) != 1 {
		t.Errorf("images %+v, %v", list.Items, err)
	}
}
