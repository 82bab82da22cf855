package daemon_test

import (
	"bytes"
	"io"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	ctr "github.com/containervm/containervm/controller/internal/container"
	"github.com/containervm/containervm/hostd-bridge/daemon/daemontest"
	"github.com/containervm/containervm/internal/vmtest"
	"github.com/containervm/containervm/tether/link/linktest"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// startError starts a container, which must fail, and returns why.
func (e *engine) startError(id string) string {
	e.t.Helper()
	_, err := e.docker.ContainerStart(e.ctx(), id, client.ContainerStartOptions{})
	if err == nil {
		e.t.Fatal("a start that must fail succeeds")
	}
	return err.Error()
}

func (e *engine) remove(id string) {
	e.t.Helper()
	if _, err := e.docker.ContainerRemove(e.ctx(), id, client.ContainerRemoveOptions{}); err != nil {
		e.t.Error(err)
	}
}

// gone fails the test unless no container is left.
func (e *engine) gone() {
	e.t.Helper()
	list, err := e.docker.ContainerList(e.ctx(), client.ContainerListOptions{All: true})
	if err != nil || len(list.Items) != 0 {
		e.t.Errorf("%d containers are left: %+v, %v", len(list.Items), list.Items, err)
	}
}

// TestStartFailures: the error of a start says what became of the guest, the container shows it, and can be removed.
func TestStartFailures(t *testing.T) {
	e := startOn(t, badGuests(t, nil), impatient)
	for _, c := range []struct {
		cmd    string
		says   []string
		status container.ContainerState
		code   int
	}{
		{"mute", []string{"its process does not run after 300ms", "hangs in phase before the tether's first"}, "exited", 255},
		{"hang", []string{"hangs in phase rootfs", "bad superblock"}, "exited", 255},
		{"vanish", []string{"the machine ended before the process ran: the guest powered itself off"}, "exited", 255},
		{"denied", []string{"permission denied", "is a directory"}, "created", 126},
		{"nodisk", []string{"cannot open /dev/vda"}, "created", 125},
		{"lingerer", []string{"executable file not found in $PATH"}, "created", 127},
	} {
		id := e.create("c", container.Config{Cmd: []string{c.cmd}}, container.HostConfig{})
		why := e.startError(id)
		for _, want := range c.says {
			if !strings.Contains(why, want) {
				t.Errorf("%s: %q does not say %q", c.cmd, why, want)
			}
		}
		if s := e.state(id); s.Status != c.status || s.ExitCode != c.code || s.Running || s.Error == "" {
			t.Errorf("%s: %+v; want %s, %d and an error", c.cmd, s, c.status, c.code)
		}
		e.remove(id)
	}
	e.gone()
}

// TestAutoRemoveSaysWhy: a container that goes with its machine can still tell its start why that ended.
func TestAutoRemoveSaysWhy(t *testing.T) {
	e := startOn(t, badGuests(t, nil), impatient)
	for cmd, want := range map[string]string{"vanish": "the guest powered itself off", "hang": "bad superblock", "denied": "permission denied"} {
		id := e.create("", container.Config{Cmd: []string{cmd}}, container.HostConfig{AutoRemove: true})
		removed := e.docker.ContainerWait(e.ctx(), id, client.ContainerWaitOptions{Condition: container.WaitConditionRemoved})
		if why := e.startError(id); !strings.Contains(why, want) {
			t.Errorf("%s: %q does not say %q", cmd, why, want)
		}
		e.exitOf(removed)
	}
	e.gone()
}

// TestShortLives: a run that is over before anyone looks has its exit code and output, and is removed.
func TestShortLives(t *testing.T) {
	e := start(t, nil)
	for range 20 {
		id := e.create("", container.Config{Cmd: []string{"exit", "7"}}, container.HostConfig{AutoRemove: true})
		removed := e.docker.ContainerWait(e.ctx(), id, client.ContainerWaitOptions{Condition: container.WaitConditionRemoved})
		e.begin(id)
		if code := e.exitOf(removed); code != 7 {
			t.Fatalf("exit code %d, want 7", code)
		}
	}
	e.gone()
}

// TestTetherGone: what a tether does not do any more, the host does; what only a tether can do is an error soon.
func TestTetherGone(t *testing.T) {
	e := startOn(t, badGuests(t, nil), ctr.Timeouts{Start: 2 * time.Second, Link: impatient.Link, Off: impatient.Off}) // each container starts
	zero := 0
	for _, cmd := range []string{"nolink", "deaf"} {
		for what, end := range map[string]func(id string) error{
			"stop": func(id string) error {
				_, err := e.docker.ContainerStop(e.ctx(), id, client.ContainerStopOptions{Timeout: &zero})
				return err
			},
			"kill": func(id string) error {
				_, err := e.docker.ContainerKill(e.ctx(), id, client.ContainerKillOptions{})
				return err
			},
			"rm -f": func(id string) error {
				_, err := e.docker.ContainerRemove(e.ctx(), id, client.ContainerRemoveOptions{Force: true})
				return err
			},
		} {
			id := e.create("c", container.Config{Cmd: []string{cmd}}, container.HostConfig{})
			e.begin(id)
			if _, err := e.docker.ContainerKill(e.ctx(), id, client.ContainerKillOptions{Signal: "HUP"}); err == nil {
				t.Errorf("%s: a signal that nobody takes is no error", cmd)
			}
			if _, err := e.docker.ContainerTop(e.ctx(), id, client.ContainerTopOptions{}); err == nil {
				t.Errorf("%s: a list of processes from nobody", cmd)
			}
			if session, err := e.execIn(id, "true"); err != nil {
				t.Errorf("%s: %v", cmd, err)
			} else if said, err := io.ReadAll(session.Reader); err != nil || len(said) == 0 || e.execEnd(session.id).ExitCode != 126 {
				t.Errorf("%s: an exec by nobody is no error: %q, %v", cmd, said, err)
			}
			if err := end(id); err != nil {
				t.Errorf("%s: %s: %v", cmd, what, err)
			}
			if what != "rm -f" {
				if s := e.state(id); s.Status != "exited" || s.ExitCode != 137 || s.Error == "" {
					t.Errorf("%s: after %s: %+v", cmd, what, s)
				}
				e.remove(id)
			}
		}
	}
	e.gone()
}

// TestMachineDies: the death of a machine under its process ends all who follow it, and the container can start again.
func TestMachineDies(t *testing.T) {
	e := startOn(t, badGuests(t, nil), ctr.Timeouts{})
	host := e.connect()
	id := e.create("victim", container.Config{Cmd: []string{"sleep"}}, container.HostConfig{})
	e.begin(id)
	wait := e.docker.ContainerWait(e.ctx(), id, client.ContainerWaitOptions{})
	logs, err := e.docker.ContainerLogs(e.ctx(), id, client.ContainerLogsOptions{ShowStdout: true, Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	defer logs.Close()
	at, err := e.docker.ContainerAttach(e.ctx(), id, client.ContainerAttachOptions{Stream: true, Stdout: true, Stderr: true})
	if err != nil {
		t.Fatal(err)
	}
	defer at.Close()
	session, err := e.execIn(id, "sleep")
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	e.execBegun(session.id)
	vm, _ := host.Get(id)
	if err := host.PowerOff(e.ctx(), vm.Ref); err != nil { // as seen from the controller: the machine is dead
		t.Fatal(err)
	}
	if code := e.exitOf(wait); code != 137 {
		t.Errorf("wait: exit code %d, want 137", code)
	}
	for name, r := range map[string]io.Reader{"logs -f": logs, "attach": at.Reader, "exec": session.Reader} {
		if _, err := io.Copy(io.Discard, r); err != nil {
			t.Errorf("%s does not end in order: %v", name, err)
		}
	}
	if res, err := e.docker.ExecInspect(e.ctx(), session.id, client.ExecInspectOptions{}); err != nil || res.Running || res.ExitCode != 137 {
		t.Errorf("the exec session: %+v, %v", res, err)
	}
	if s := e.state(id); s.Status != "exited" || s.ExitCode != 137 || !strings.Contains(s.Error, "the machine ended under the process: killed") {
		t.Errorf("the container: %+v", s)
	}
	e.begin(id)
	if s := e.state(id); !s.Running || s.Error != "" || s.ExitCode != 0 {
		t.Errorf("started again: %+v", s)
	}
}

// TestEvents: a life is told in order, and to those alone who asked for it.
func TestEvents(t *testing.T) {
	e := start(t, nil)
	res := e.docker.Events(e.ctx(), client.EventsListOptions{Filters: client.Filters{}.Add("container", "seen")})
	// The stream has begun once something of it was seen.
	told := make(chan string, 16)
	go func() {
		defer close(told)
		for {
			select {
			case m := <-res.Messages:
				told <- string(m.Action) + m.Actor.Attributes["exitCode"]
			case <-res.Err:
				return
			}
		}
	}()
	first := ""
	for first == "" {
		id := e.create("seen", container.Config{Cmd: []string{"exit", "3"}}, container.HostConfig{})
		select {
		case first = <-told:
		case <-time.After(50 * time.Millisecond):
			e.remove(id)
		}
	}
	if first != "create" && first != "destroy" {
		t.Errorf("the first event is %q", first)
	}
	e.create("unseen", container.Config{Cmd: []string{"true"}}, container.HostConfig{})
	e.begin("unseen")
	end := e.docker.ContainerWait(e.ctx(), "seen", client.ContainerWaitOptions{Condition: container.WaitConditionNextExit})
	e.begin("seen")
	e.exitOf(end)
	e.remove("seen")
	got := ""
	for event := range told { // ends with the test's time
		if got += event + " "; strings.HasSuffix(got, "die3 destroy ") {
			break
		}
	}
	if !strings.HasSuffix(got, "start die3 destroy ") {
		t.Errorf("events %q", got)
	}
}

// TestLiveLog: bounds of a log hold while it grows.
func TestLiveLog(t *testing.T) {
	e := start(t, nil)
	id := e.create("c", container.Config{Cmd: []string{"cat"}, OpenStdin: true}, container.HostConfig{})
	at, err := e.docker.ContainerAttach(e.ctx(), id, client.ContainerAttachOptions{Stream: true, Stdin: true, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	defer at.Close()
	e.begin(id)
	write := func(s string) {
		t.Helper()
		if _, err := io.WriteString(at.Conn, s); err != nil {
			t.Fatal(err)
		}
		back := make([]byte, 8+len(s)) // a frame's header and the line
		if _, err := io.ReadFull(at.Reader, back); err != nil {
			t.Fatal(err)
		}
	}
	write("one\n")
	write("two\n")
	between := time.Now()
	write("three\n")
	stamp := between.Format(time.RFC3339Nano)
	for want, opt := range map[string]client.ContainerLogsOptions{
		"one\ntwo\nthree\n": {},
		"two\nthree\n":      {Tail: "2"},
		"three\n":           {Since: stamp},
		"one\ntwo\n":        {Until: stamp},
		"two\n":             {Until: stamp, Tail: "2"}, // of the last two, as Docker
		"":                  {Tail: "0"},
	} {
		if got := e.logs(id, opt); got != want {
			t.Errorf("%+v: %q, want %q", opt, got, want)
		}
	}
	logs, err := e.docker.ContainerLogs(e.ctx(), id, client.ContainerLogsOptions{ShowStdout: true, Follow: true, Tail: "1"})
	if err != nil {
		t.Fatal(err)
	}
	defer logs.Close()
	var out bytes.Buffer
	read := make(chan error, 1)
	go func() {
		_, err := stdcopy.StdCopy(&out, io.Discard, logs)
		read <- err
	}()
	write("four\n")
	if _, err := e.docker.ContainerStop(e.ctx(), id, client.ContainerStopOptions{Timeout: new(int)}); err != nil {
		t.Fatal(err)
	}
	if err := <-read; err != nil || out.String() != "three\nfour\n" {
		t.Errorf("followed log %q, %v", out.String(), err)
	}
}

// TestFollowUntil: following a log ends at its bound, while the container runs on.
func TestFollowUntil(t *testing.T) {
	e := start(t, func(_ *daemontest.Machine, tether *linktest.Tether) {
		tether.Program("talk", func(p *linktest.Process) *tetherv1.Exit {
			_, _ = io.WriteString(p.Stdout, "early\n")
			<-p.Killed
			return nil
		})
	})
	id := e.create("c", container.Config{Cmd: []string{"talk"}}, container.HostConfig{})
	e.begin(id)
	for e.logs(id, client.ContainerLogsOptions{}) == "" { // the record is on its way
	}
	for _, until := range []time.Duration{-time.Nanosecond, 100 * time.Millisecond} {
		at := time.Now().Add(until).Format(time.RFC3339Nano)
		if got := e.logs(id, client.ContainerLogsOptions{Follow: true, Until: at}); got != "early\n" {
			t.Errorf("until %v from now: %q", until, got)
		}
	}
	if !e.state(id).Running {
		t.Error("the container has ended")
	}
}

// TestExitCodes holds the docker command's own exit codes.
func TestExitCodes(t *testing.T) {
	docker, err := exec.LookPath("docker")
	if err != nil {
		vmtest.Missing(t, "there is no docker command (try: apt-get install docker-cli)")
	}
	e := startOn(t, badGuests(t, nil), impatient)
	for args, want := range map[string]int{
		"run --rm base exit 3":             3,
		"run --rm base nosuch":             127,
		"run --rm base denied":             126,
		"run --rm base nodisk":             125,
		"run --rm base hang":               125,
		"run --rm nosuch":                  125,
		"run --rm -m 1 base true":          125,
		"run --rm --pull never x:1":        125,
		"run --rm -v /a:/b base true":      125,
		"run --rm -p 80:80 base true":      125,
		"run --rm --restart always base a": 125,
	} {
		cmd := exec.CommandContext(e.ctx(), docker, strings.Fields(args)...)
		cmd.Env = []string{"DOCKER_HOST=unix://" + e.socket, "HOME=" + t.TempDir()}
		out, _ := cmd.CombinedOutput()
		if code := cmd.ProcessState.ExitCode(); code != want {
			t.Errorf("docker %s: %d, %s; want %d", args, code, out, want)
		}
	}
	e.gone()
}
