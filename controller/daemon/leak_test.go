package daemon_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/containervm/containervm/hostd-bridge/daemon/daemontest"
	"github.com/containervm/containervm/tether/link/linktest"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// TestClientsLeave: a client that goes away in the middle leaves nothing behind, and the container as it was.
func TestClientsLeave(t *testing.T) {
	end := make(chan struct{})
	e := start(t, func(_ *daemontest.Machine, tether *linktest.Tether) {
		tether.Program("work", func(p *linktest.Process) *tetherv1.Exit {
			select {
			case <-end:
				return linktest.Exited(0)
			case <-p.Killed:
				return nil
			}
		})
	})
	id := e.create("c", container.Config{Cmd: []string{"sleep"}, OpenStdin: true}, container.HostConfig{})
	e.begin(id)
	var before census
	for round := range 6 {
		e.follow(id)()
		end <- struct{}{} // the session went on without its client, and ends now
		if round == 0 {
			before = settled(t, census{})
		}
	}
	settled(t, before)
	if !e.state(id).Running {
		t.Error("the container went with a client")
	}
}

// follow opens all that a client can wait on in a container, and returns a function that breaks it all off.
func (e *engine) follow(id string) (leave func()) {
	e.t.Helper()
	ctx, cancel := context.WithCancel(e.ctx())
	docker, err := client.New(client.WithHost("unix://" + e.socket))
	if err != nil {
		e.t.Fatal(err)
	}
	logs, err := docker.ContainerLogs(ctx, id, client.ContainerLogsOptions{ShowStdout: true, Follow: true})
	if err != nil {
		e.t.Fatal(err)
	}
	at, err := docker.ContainerAttach(ctx, id, client.ContainerAttachOptions{Stream: true, Stdin: true, Stdout: true, Stderr: true})
	if err != nil {
		e.t.Fatal(err)
	}
	session, err := e.execIn(id, "work")
	if err != nil {
		e.t.Fatal(err)
	}
	usage, err := docker.ContainerStats(ctx, id, client.ContainerStatsOptions{Stream: true})
	if err != nil {
		e.t.Fatal(err)
	}
	waiting := docker.ContainerWait(ctx, id, client.ContainerWaitOptions{})
	events := docker.Events(ctx, client.EventsListOptions{})
	return func() {
		cancel()
		logs.Close()
		at.Close()
		session.Close()
		usage.Body.Close()
		<-waiting.Error
		<-events.Err
		docker.Close()
	}
}

// TestRoundsLeaveNothing: a daemon that has run many containers is as it was before them.
func TestRoundsLeaveNothing(t *testing.T) {
	e := start(t, nil)
	round := func(n int) {
		id := e.create(fmt.Sprint("c", n), container.Config{Cmd: []string{"sleep"}}, container.HostConfig{})
		e.begin(id)
		session, err := e.execIn(id, "echo", "hello")
		if err != nil {
			t.Fatal(err)
		}
		if out, err := io.ReadAll(session.Reader); err != nil || !strings.HasSuffix(string(out), "hello\n") {
			t.Fatalf("exec: %q, %v", out, err)
		}
		session.Close()
		if _, err := e.docker.ContainerRemove(e.ctx(), id, client.ContainerRemoveOptions{Force: true}); err != nil {
			t.Fatal(err)
		}
	}
	for n := range 5 { // connections that are kept for the next call are opened
		round(n)
	}
	before := settled(t, census{})
	files := descriptors(t)
	for n := range 30 {
		round(n)
	}
	settled(t, before)
	if now := descriptors(t); now > files+10 { // idle connections come and go
		t.Errorf("%d open descriptors, %d before 30 rounds", now, files)
	}
}

// census counts the goroutines that run the project's code, by where they began. Those of idle connections are the
// libraries' and do not count.
type census map[string]int

// count takes a census.
func count() census {
	buf := make([]byte, 4<<20)
	c := census{}
	for g := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		at := strings.LastIndex(g, "created by ")
		if at < 0 || !strings.Contains(g, "github.com/containervm/containervm/") {
			continue
		}
		lines := strings.Split(strings.TrimSpace(g[:at]), "\n")
		by := lines[max(0, len(lines)-2)] // a frame is two lines
		if strings.HasPrefix(by, "sync.(*WaitGroup).Go") {
			by = lines[max(0, len(lines)-4)]
		}
		by, _, _ = strings.Cut(by, "({") // arguments
		by, _, _ = strings.Cut(by, "(0x")
		c[by]++
	}
	return c
}

// settled takes a census once no kind of goroutine is more numerous than in want, or with an empty want once two in a
// row are the same. It fails the test when that does not come.
func settled(t *testing.T, want census) census {
	t.Helper()
	last := census{}
	for began := time.Now(); ; {
		now, more := count(), ""
		reference := want
		if len(want) == 0 {
			reference = last
		}
		for by, n := range now {
			idle := 0
			if len(want) > 0 && strings.HasPrefix(by, "net/http.") {
				idle = 3 // connections between controller and host come and go; what leaks does so with each call
			}
			if n > reference[by]+idle {
				more += fmt.Sprintf("\n%d instead of %d %s", n, reference[by], by)
			}
		}
		if more == "" {
			return now
		}
		if time.Since(began) > testTime/4 {
			t.Fatal("goroutines are left over:" + more)
		}
		last = now
		time.Sleep(50 * time.Millisecond) // the end of a goroutine wakes nobody
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(open)
}
