package daemon_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
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

// cuts are the ways in which a client leaves in the middle. On a Unix socket a connection is reset when it is closed with something unread in it.
func cuts() map[string]func(*net.UnixConn) {
	return map[string]func(*net.UnixConn){
		"half": func(c *net.UnixConn) {
			_ = c.CloseWrite() // what is not sent is missing: the call goes on or ends
			_ = c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
			_, _ = io.Copy(io.Discard, c)
		},
		"both":  func(c *net.UnixConn) { _ = errors.Join(c.CloseWrite(), c.CloseRead()) },
		"reset": func(*net.UnixConn) {},
	}
}

// heldRegistry is a registry that never ends a layer of its repository "held", and takes nothing for "cut". It tells of each call that it holds.
func heldRegistry(t *testing.T) (host string, holds <-chan struct{}) {
	inner, held := registry.New(registry.Logger(log.New(io.Discard, "", 0))), make(chan struct{}, 16)
	var full atomic.Bool // the repository "held" is complete
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/full" {
			full.Store(true)
			return
		}
		blob := strings.HasPrefix(r.URL.Path, "/v2/held/blobs/") && r.Method == http.MethodGet && full.Load()
		if !blob && (r.Method == http.MethodGet || r.Method == http.MethodHead || !strings.HasPrefix(r.URL.Path, "/v2/cut/")) {
			inner.ServeHTTP(w, r)
			return
		}
		if blob {
			answer := httptest.NewRecorder()
			inner.ServeHTTP(answer, r)
			if json.Valid(answer.Body.Bytes()) { // the configuration
				_, _ = w.Write(answer.Body.Bytes())
				return
			}
			w.Header().Set("Content-Length", strconv.Itoa(answer.Body.Len()))
			_, _ = w.Write(answer.Body.Bytes()[:answer.Body.Len()/2])
			_ = http.NewResponseController(w).Flush()
		}
		held <- struct{}{}
		<-r.Context().Done()
	}))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://"), held
}

// stored are the files of the host's datastore.
func (e *engine) stored() (all []string) {
	root := filepath.Join(e.host.Config().StateDir, "hostd", "datastore")
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			all = append(all, strings.TrimPrefix(path, root))
		}
		if errors.Is(err, fs.ErrNotExist) { // it goes meanwhile
			err = nil
		}
		return err
	})
	if err != nil {
		e.t.Fatal(err)
	}
	return all
}

// progress runs an operation on images to its end.
func (e *engine) progress(r io.ReadCloser, err error) {
	e.t.Helper()
	if err != nil {
		e.t.Fatal(err)
	}
	defer r.Close()
	if out, err := io.ReadAll(r); err != nil || strings.Contains(string(out), "\"error\"") {
		e.t.Fatalf("%s, %v", out, err)
	}
}

// TestCallsAreCut: each call that streams, cut by its client in the middle, one way or both, leaves nothing: no goroutine, no descriptor, no
// temporary file, no image or part of one, no pause.
func TestCallsAreCut(t *testing.T) {
	spools := t.TempDir()
	t.Setenv("TMPDIR", spools)
	made := make(fakes, 16)
	e := start(t, made.add)
	<-made
	host, held := heldRegistry(t)
	e.progress(e.docker.ImageImport(e.ctx(), client.ImageImportSource{Source: bytes.NewReader(tarOf(t, "a", strings.Repeat("held", 5000))), SourceName: "-"}, host+"/held", client.ImageImportOptions{}))
	e.progress(e.docker.ImagePush(e.ctx(), host+"/held:latest", client.ImagePushOptions{RegistryAuth: "e30="}))
	if _, err := e.docker.ImageRemove(e.ctx(), host+"/held", client.ImageRemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	full, err := http.Get("http://" + host + "/full")
	if err != nil {
		t.Fatal(err)
	}
	full.Body.Close()
	if _, err := e.docker.ImageTag(e.ctx(), client.ImageTagOptions{Source: "base", Target: host + "/cut"}); err != nil {
		t.Fatal(err)
	}
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
	none := noBody
	calls := map[string]string{
		"POST /images/create?fromImage=" + host + "/held&tag=latest": none,
		"POST /images/" + host + "/cut/push":                         none,
		"GET /containers/c/attach/ws?stream=1&stdin=1&stdout=1":      upgradeWebSocket + none,
		"POST /containers/c/attach?stream=1&stdin=1&stdout=1":        none,
		"GET /containers/c/logs?follow=1&stdout=1":                   none,
		"GET /containers/c/stats":                                    none,
		"GET /containers/c/export":                                   none,
		"GET /containers/c/archive?path=/":                           none,
		"PUT /containers/c/archive?path=/":                           half,
		"POST /containers/c/wait":                                    none,
		"POST /commit?container=c&repo=cut":                          none,
		"GET /events":                                                none,
		"GET /images/base/get":                                       none,
		"POST /images/load":                                          half,
		"POST /images/create?fromSrc=-&repo=cut":                     half,
		"GET /containers/c/top":                                      none,
		"GET /containers/c/logs?follow=1&stdout=1&until=999999":      none,
	}
	round := func() {
		for call, rest := range calls {
			for how, cut := range cuts() {
				conn := e.send(call, rest).(*net.UnixConn)
				switch {
				case strings.Contains(call, host):
					<-held // it transfers
				case rest != half && !strings.HasPrefix(call, "POST /commit") && !strings.HasSuffix(call, "/wait"):
					if _, err := conn.Read(make([]byte, 1)); err != nil && !strings.HasSuffix(call, "/events") {
						t.Errorf("%s, %s: %v", call, how, err)
					}
				}
				cut(conn)
				conn.Close()
			}
		}
	}
	round()
	before := settled(t, census{})
	files, stored := descriptors(t), e.stored()
	for range 3 {
		round()
	}
	settled(t, before)
	if now := descriptors(t); now > files+10 { // idle connections come and go
		t.Errorf("%d open descriptors, %d before", now, files)
	}
	e.until(id, "goes on", func(c container.InspectResponse) bool { return c.State.Running && !c.State.Paused })
	if list, err := e.docker.ImageList(e.ctx(), client.ImageListOptions{All: true}); err != nil || len(list.Items) != 1 { // base
		t.Errorf("images %+v, %v", list.Items, err)
	}
	vmtest.Eventually(t, testTime/4, "the host has the files of before", func() bool { return slices.Equal(e.stored(), stored) })
	if left, err := os.ReadDir(spools); err != nil || len(left) > 0 {
		t.Errorf("temporary files %v, %v", left, err)
	}
}
