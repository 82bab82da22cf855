package daemon_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/containervm/containervm/hostd-bridge/daemon/daemontest"
	"github.com/containervm/containervm/internal/vmtest"
	"github.com/containervm/containervm/tether/link"
	"github.com/containervm/containervm/tether/link/linktest"
)

const (
	upgradeTCP       = "\r\nConnection: Upgrade\r\nUpgrade: tcp"
	upgradeWebSocket = "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nOrigin: http://x\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
	noBody           = "\r\nContent-Length: 0\r\n\r\n"
)

// send sends a request, and reads nothing of the answer.
func (e *engine) send(call, rest string) net.Conn {
	e.t.Helper()
	conn := e.dial()
	if _, err := fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: x%s", call, rest); err != nil {
		e.t.Fatal(err)
	}
	return conn
}

// stalled opens each call that streams out, by clients that read nothing of it.
func (e *engine) stalled() (close func()) {
	e.t.Helper()
	var conns []net.Conn
	for _, call := range []string{"GET /containers/c/attach/ws?stream=1&stdout=1", "POST /containers/c/attach?stream=1&stdin=1&stdout=1", "GET /containers/c/logs?follow=1&stdout=1", "GET /containers/c/stats",
		"GET /containers/c/export", "GET /containers/c/archive?path=/", "GET /containers/off/export", "GET /containers/off/archive?path=/", "GET /events", "GET /images/big/get", "GET /images/get?names=big"} {
		rest := noBody
		switch {
		case strings.Contains(call, "/ws"):
			rest = upgradeWebSocket + noBody
		case strings.Contains(call, "/attach"):
			rest = upgradeTCP + noBody
		}
		conns = append(conns, e.send(call, rest))
	}
	res, err := e.docker.ExecCreate(e.ctx(), "c", client.ExecCreateOptions{Cmd: []string{"yes", "4000000"}, AttachStdout: true})
	if err != nil {
		e.t.Fatal(err)
	}
	conns = append(conns, e.send("POST /exec/"+res.ID+"/start", "\r\nContent-Type: application/json"+upgradeTCP+"\r\nContent-Length: 2\r\n\r\n{}"))
	return func() {
		for _, conn := range conns {
			conn.Close()
		}
	}
}

// logged is how much the container of TestSlowClients writes: much more than sockets and windows hold.
const logged = 64 << 20

// heap is what is in use of this process's memory, in bytes: controller, host and the guests' fakes.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestSlowClients: clients that read nothing of what streams to them cost bounded memory, nobody waits for them, neither the container's other
// readers, nor its end, nor the daemon's, and when they leave nothing of them is left. One that begins to read late has all.
func TestSlowClients(t *testing.T) {
	machines := make(chan *daemontest.Machine, 64)
	e := start(t, func(m *daemontest.Machine, tether *linktest.Tether) {
		tether.SetFile("/etc/", "")
		tether.OnExport(func(w io.Writer) error { // without an end: until the host wants no more
			for {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					return err
				}
			}
		})
		machines <- m
	})
	<-machines
	noise := make([]byte, 4<<20)
	rand.New(rand.NewSource(1)).Read(noise) // does not get small
	res, err := e.docker.ImageImport(e.ctx(), client.ImageImportSource{Source: bytes.NewReader(tarOf(t, "noise", string(noise))), SourceName: "-"}, "big", client.ImageImportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if out, err := io.ReadAll(res); err != nil || strings.Contains(string(out), "error") {
		t.Fatalf("import: %s, %v", out, err)
	}
	res.Close()
	e.create("off", container.Config{Cmd: []string{"sleep"}}, container.HostConfig{})
	logs := container.LogConfig{Type: "json-file", Config: map[string]string{"max-size": "1g"}}
	id := e.create("c", container.Config{Cmd: []string{"sleep"}, OpenStdin: true}, container.HostConfig{LogConfig: logs})
	for len(machines) > 0 {
		<-machines
	}
	e.begin(id)
	m := <-machines
	var before census
	files := 0
	for range 2 {
		e.stalled()()
		before, files = settled(t, census{}), descriptors(t)
	}
	began := heap()

	leave := e.stalled()
	late, err := e.docker.ContainerLogs(e.ctx(), id, client.ContainerLogsOptions{ShowStdout: true, Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	reader, err := e.docker.ContainerLogs(e.ctx(), id, client.ContainerLogsOptions{ShowStdout: true, Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	block := link.AppendRecord(nil, link.Record{Stream: link.StreamStdout, Time: time.Now(), Payload: bytes.Repeat([]byte(strings.Repeat("x", 63)+"\n"), 1<<9)})
	for range logged >> 15 {
		if err := m.Log(block); err != nil {
			t.Fatal(err)
		}
	}
	framed := logged + (logged>>15)*8
	if n, err := io.CopyN(io.Discard, reader, int64(framed)); err != nil {
		t.Errorf("a reader beside them: %d bytes of %d, %v", n, framed, err)
	}
	reader.Close()
	if more := heap() - began; more > logged/2 {
		t.Errorf("%d bytes of memory in use, %d before: clients that do not read cost more than they can be behind", began+more, began)
	}
	session, err := e.execIn("c", "echo", "hello")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := io.ReadAll(session.Reader); err != nil || !strings.HasSuffix(string(out), "hello\n") {
		t.Errorf("exec beside them: %q, %v", out, err)
	}
	session.Close()
	e.statsOf("stream=0&one-shot=1", 1)
	e.importImage("other")
	e.begin("off") // its files are being read
	if _, err := e.docker.ContainerRemove(e.ctx(), "off", client.ContainerRemoveOptions{Force: true}); err != nil {
		t.Error(err)
	}
	if _, err := e.docker.ContainerKill(e.ctx(), id, client.ContainerKillOptions{}); err != nil {
		t.Fatal(err)
	}
	e.until(id, "ends", func(c container.InspectResponse) bool { return !c.State.Running })
	if n, err := stdcopy.StdCopy(io.Discard, io.Discard, late); err != nil || n != logged {
		t.Errorf("who reads late: %d bytes of %d, %v", n, logged, err)
	}
	late.Close()
	leave()
	settled(t, before)
	vmtest.Eventually(t, testTime/4, "as many descriptors are open as before", func() bool { return descriptors(t) <= files+10 }) // as in TestCallsAreCut

	e.create("off", container.Config{Cmd: []string{"sleep"}}, container.HostConfig{})
	e.begin(id)
	defer e.stalled()()
	e.stop() // waits for nobody who does not read
}
