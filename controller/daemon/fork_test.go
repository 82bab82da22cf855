package daemon_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	ctr "github.com/containervm/containervm/controller/internal/container"
	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/hostd-bridge/daemon/daemontest"
	"github.com/containervm/containervm/internal/vmtest"
	"github.com/containervm/containervm/tether/link"
)

// forkInfo is the key Fork of an inspection.
type forkInfo struct {
	Kind, Why, Template string
	Generation, Index   int
	Receipt             []struct{ Name, Outcome, Detail string }
	Timeline            []struct {
		Name     string
		UnixNano int64
	}
}

// call decodes an answer of the API.
func (e *engine) call(method, path, body string, answer any) int {
	e.t.Helper()
	req, err := http.NewRequestWithContext(e.ctx(), method, "http://docker/v1.50"+path, strings.NewReader(body))
	if err != nil {
		e.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := e.dialer().Do(req)
	if err != nil {
		e.t.Fatal(err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err == nil && answer != nil && len(data) > 0 {
		err = json.Unmarshal(data, answer)
	}
	if err != nil {
		e.t.Fatalf("%s %s: %v: %s", method, path, err, data)
	}
	return res.StatusCode
}

func (e *engine) forkOf(id string) forkInfo {
	e.t.Helper()
	var answer struct{ Fork forkInfo }
	if status := e.call("GET", "/containers/"+id+"/json", "", &answer); status != 200 {
		e.t.Fatalf("inspect: %d", status)
	}
	return answer.Fork
}

type templateInfo struct {
	Name, State, Version      string
	MemoryMiB, Children, Warm int
	SharedMiB                 *int
	PrivateMiB, OverheadMiB   *int
}

func (e *engine) templates() []templateInfo {
	e.t.Helper()
	var list []templateInfo
	e.call("GET", "/templates", "", &list)
	return list
}

// awaitTemplates waits until as many templates are frozen, and returns all.
func (e *engine) awaitTemplates(n int) []templateInfo {
	e.t.Helper()
	for began := time.Now(); ; time.Sleep(10 * time.Millisecond) { // nothing announces it to clients of the API
		list, frozen := e.templates(), 0
		for _, t := range list {
			if t.State == "frozen" {
				frozen++
			}
		}
		if frozen == n && len(list) == n {
			return list
		}
		if time.Since(began) > testTime/2 {
			e.t.Fatalf("templates %+v, want %d frozen ones", list, n)
		}
	}
}

// machines counts the VMs with a role.
func (e *engine) machines(role string) (vms []vsphere.VM) {
	e.t.Helper()
	for _, vm := range e.connect().VMs() {
		if vm.Extra["cvm.role"] == role {
			vms = append(vms, vm)
		}
	}
	return vms
}

func forking(t *testing.T, f forks) *engine {
	t.Helper()
	e := startForks(t, daemontest.TetherGuest(t, nil), ctr.Timeouts{}, f)
	e.awaitTemplates(1)
	return e
}

// TestForked: a container is forked, waits at its gate, starts, and boots from its disk the next time; with the disk at the
// fork and without, and from the warm pool.
func TestForked(t *testing.T) {
	for name, f := range map[string]forks{
		"disk at fork": {templates: 2}, "disk after fork": {templates: 2, noDisk: true}, "warm": {templates: 2, warm: 2},
	} {
		t.Run(name, func(t *testing.T) {
			e := forking(t, f)
			if f.warm > 0 {
				e.awaitWarm(f.warm)
			}
			id := e.create("web", container.Config{Cmd: []string{"sleep"}}, container.HostConfig{})
			if s := e.state(id); s.Status != "created" || s.Running || s.Pid != 0 || s.ExitCode != 0 || !strings.HasPrefix(s.FinishedAt, "0001") {
				t.Errorf("parked: %+v", s)
			}
			e.behavesAsCreated("web")
			e.begin(id)
			s, fork := e.state(id), e.forkOf(id)
			if !s.Running || fork.Kind != "fork" || fork.Why != "" || fork.Generation != 1 || fork.Index < 1 ||
				!strings.HasPrefix(fork.Template, "cvm-template-") || len(fork.Receipt) != 1 || fork.Receipt[0].Outcome != "done" {
				t.Errorf("started: %+v, %+v", s, fork)
			}
			checkTimeline(t, fork, "api", "cloneRequested", "cloneDone", "startRequested")
			if list := e.templates(); len(list) != 1 || list[0].Children != 1 || list[0].Version != "fake" || list[0].SharedMiB != nil {
				t.Errorf("templates %+v", list)
			}
			forks := 1 + f.warm
			if f.warm > 0 {
				e.awaitWarm(f.warm)
			}
			e.takes(2049*forks, 20<<10*forks)
			if _, err := e.docker.ContainerRestart(e.ctx(), id, client.ContainerRestartOptions{}); err != nil {
				t.Fatal(err)
			}
			if s, fork := e.state(id), e.forkOf(id); !s.Running || fork.Kind != "boot" || !strings.Contains(fork.Why, "its machine was off") || len(fork.Receipt) != 0 || fork.Template != "" {
				t.Errorf("restarted: %+v, %+v", s, fork)
			}
			e.takes(2049*f.warm, 20<<10*f.warm) // it shares nothing any more
			if _, err := e.docker.ContainerRemove(e.ctx(), id, client.ContainerRemoveOptions{Force: true}); err != nil {
				t.Fatal(err)
			}
			e.gone()
		})
	}
}

// takes holds that the only template shares 40 MiB, and what its forks have for themselves, in KiB.
func (e *engine) takes(private, overhead int) {
	e.t.Helper()
	var list []templateInfo
	e.call("GET", "/templates?memory=1", "", &list)
	up := func(kib int) int { return (kib + 1023) / 1024 }
	if t := list[0]; t.SharedMiB == nil || *t.SharedMiB != 40 || *t.PrivateMiB != up(private) || *t.OverheadMiB != up(overhead) {
		text, _ := json.Marshal(list)
		e.t.Errorf("memory of %s, want 40 MiB, %d and %d KiB", text, private, overhead)
	}
}

// checkTimeline holds that marks are there, in this order.
func checkTimeline(t *testing.T, fork forkInfo, names ...string) {
	t.Helper()
	last := int64(0)
	for _, m := range fork.Timeline {
		if m.UnixNano < last {
			t.Errorf("%s is out of order in %+v", m.Name, fork.Timeline)
		}
		last = m.UnixNano
		if len(names) > 0 && m.Name == names[0] {
			names = names[1:]
		}
	}
	if len(names) > 0 {
		t.Errorf("%+v lacks %v, or has them in another order", fork.Timeline, names)
	}
}

// behavesAsCreated holds that a parked container is like one that was never started.
func (e *engine) behavesAsCreated(name string) {
	e.t.Helper()
	for what, c := range map[string]struct {
		method, path, body string
		status             int
	}{
		"stop":   {"POST", "/stop", "", 304},
		"kill":   {"POST", "/kill", "", 409},
		"exec":   {"POST", "/exec", `{"Cmd":["true"]}`, 409},
		"top":    {"GET", "/top", "", 409},
		"fork":   {"POST", "/fork", `{"Count":1}`, 409},
		"rename": {"POST", "/rename?name=other", "", 204},
	} {
		if status := e.call(c.method, "/containers/"+name+c.path, c.body, nil); status != c.status {
			e.t.Errorf("%s of a parked container: %d, want %d", what, status, c.status)
		}
		if what == "rename" {
			e.call("POST", "/containers/other/rename?name="+name, "", nil)
		}
	}
	if got := e.logs(name, client.ContainerLogsOptions{Follow: true}); got != "" {
		e.t.Errorf("log of a parked container: %q", got)
	}
	list, err := e.docker.ContainerList(e.ctx(), client.ContainerListOptions{})
	if err != nil || len(list.Items) != 0 {
		e.t.Errorf("ps shows %+v, %v", list.Items, err)
	}
}

func (e *engine) awaitWarm(n int) {
	e.t.Helper()
	for began := time.Now(); ; time.Sleep(10 * time.Millisecond) { // nothing announces it to clients of the API
		parked := 0
		for _, vm := range e.machines("warm") {
			if vm.Extra[link.KeyPhase] == link.PhaseWarm {
				parked++
			}
		}
		if list := e.templates(); len(list) > 0 && list[0].Warm == n && parked == n {
			return
		}
		if time.Since(began) > testTime/2 {
			e.t.Fatalf("templates %+v, want %d warm machines", e.templates(), n)
		}
	}
}

// TestRuntimes: the rule by which a container is forked or booted.
func TestRuntimes(t *testing.T) {
	e := forking(t, forks{templates: 4})
	for _, c := range []struct {
		name string
		conf container.Config
		host container.HostConfig
		kind string
		why  string
	}{
		{"default", container.Config{}, container.HostConfig{}, "fork", ""},
		{"fork", container.Config{}, container.HostConfig{Runtime: "fork"}, "fork", ""},
		{"boot", container.Config{}, container.HostConfig{Runtime: "boot"}, "boot", "it was asked for"},
		{"no network", container.Config{}, container.HostConfig{NetworkMode: "none"}, "fork", ""},
		{"another size", container.Config{}, container.HostConfig{Resources: container.Resources{Memory: 128 << 20}}, "boot", "the template of 128 MiB and 1 CPU is being made"},
		{"another size, which waits", container.Config{}, container.HostConfig{Runtime: "fork", Resources: container.Resources{Memory: 128 << 20}}, "fork", ""},
	} {
		c.conf.Cmd = []string{"sleep"}
		id := e.create("", c.conf, c.host)
		e.begin(id)
		if fork := e.forkOf(id); fork.Kind != c.kind || !strings.Contains(fork.Why, c.why) || c.why == "" && fork.Why != "" {
			t.Errorf("%s: %+v", c.name, fork)
		}
		if c.kind == "boot" {
			checkTimeline(t, e.forkOf(id), "api", "createRequested", "createDone", "startRequested")
		}
	}
	_, err := e.docker.ContainerCreate(e.ctx(), client.ContainerCreateOptions{
		Config: &container.Config{Image: "base", Cmd: []string{"true"}}, HostConfig: &container.HostConfig{Runtime: "runc"},
	})
	if err == nil || !strings.Contains(err.Error(), "unknown or invalid runtime name: runc") {
		t.Errorf("another runtime: %v", err)
	}
}

// TestTwoWhileMaking: creates while their template is being made make one template; those that must fork wait for it.
func TestTwoWhileMaking(t *testing.T) {
	e := forking(t, forks{templates: 4})
	var all sync.WaitGroup
	ids := make([]string, 6)
	for i := range ids {
		runtime := []string{"", "fork"}[i%2]
		all.Go(func() {
			ids[i] = e.create("", container.Config{Cmd: []string{"true"}}, container.HostConfig{Runtime: runtime, Resources: container.Resources{Memory: 256 << 20}})
		})
	}
	all.Wait()
	e.awaitTemplates(2)
	for i, id := range ids {
		if fork := e.forkOf(id); i%2 == 1 && fork.Kind != "fork" {
			t.Errorf("runtime fork: %+v", fork)
		}
	}
	if n := len(e.machines("template")); n != 2 {
		t.Errorf("%d templates, want 2", n)
	}
}

// TestAttachToParked: no byte is lost between an attach and the start of a forked container, however short its life.
func TestAttachToParked(t *testing.T) {
	docker, err := exec.LookPath("docker")
	if err != nil {
		vmtest.Missing(t, "there is no docker command (try: apt-get install docker-cli)")
	}
	e := forking(t, forks{templates: 1, warm: 1})
	for range 10 {
		cmd := exec.CommandContext(e.ctx(), docker, "run", "--rm", "base", "echo", "hello")
		cmd.Env = []string{"DOCKER_HOST=unix://" + e.socket, "HOME=" + t.TempDir()}
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Run(); err != nil || out.String() != "hello\n" {
			t.Fatalf("%v: %q", err, out.String())
		}
	}
	e.gone()
}

// TestAttachOutlivesGate: an attachment to a parked container reads the run in which that is started, also when it is another one since
// the parked machine has ended.
func TestAttachOutlivesGate(t *testing.T) {
	e := forking(t, forks{templates: 1})
	id := e.create("c", container.Config{Cmd: []string{"echo", "hello"}}, container.HostConfig{})
	at, err := e.docker.ContainerAttach(e.ctx(), id, client.ContainerAttachOptions{Stream: true, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	defer at.Close()
	host := e.connect()
	vm, _ := host.Get(id)
	if err := host.PowerOff(e.ctx(), vm.Ref); err != nil {
		t.Fatal(err)
	}
	wait := e.docker.ContainerWait(e.ctx(), id, client.ContainerWaitOptions{Condition: container.WaitConditionNextExit})
	e.begin(id)
	if code := e.exitOf(wait); code != 0 {
		t.Errorf("exit code %d", code)
	}
	var out bytes.Buffer
	if _, err := stdcopy.StdCopy(&out, io.Discard, at.Reader); err != nil || out.String() != "hello\n" {
		t.Errorf("attached: %q, %v", out.String(), err)
	}
}

// TestStartTwice: of two starts at once of a parked container one starts it, and the other finds it started.
func TestStartTwice(t *testing.T) {
	e := forking(t, forks{templates: 1})
	id := e.create("c", container.Config{Cmd: []string{"sleep"}}, container.HostConfig{})
	var all sync.WaitGroup
	status := make([]int, 4)
	for i := range status {
		all.Go(func() { status[i] = e.call("POST", "/containers/c/start", "", nil) })
	}
	all.Wait()
	first := 0
	for _, s := range status {
		if s == 204 {
			first++
		} else if s != 304 {
			t.Errorf("start: %d", s)
		}
	}
	if first != 1 || e.forkOf(id).Kind != "fork" {
		t.Errorf("%d starts of %v began it; %+v", first, status, e.forkOf(id))
	}
}

// TestParkedAndOff: a parked machine that was ended by someone else boots; so does one whose limits were changed.
func TestParkedAndOff(t *testing.T) {
	e := forking(t, forks{templates: 1})
	off := e.create("off", container.Config{Cmd: []string{"sleep"}}, container.HostConfig{AutoRemove: true})
	host := e.connect() // whose first picture has the container
	vm, _ := host.Get(off)
	if err := host.PowerOff(e.ctx(), vm.Ref); err != nil {
		t.Fatal(err)
	}
	if s := e.state(off); s.Status != "created" || s.Error != "" {
		t.Errorf("off before its start: %+v", s)
	}
	smaller := e.create("smaller", container.Config{Cmd: []string{"sleep"}}, container.HostConfig{})
	if _, err := e.docker.ContainerUpdate(e.ctx(), smaller, client.ContainerUpdateOptions{Resources: &container.Resources{Memory: 128 << 20}}); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{off, smaller} {
		e.begin(id)
		if s, fork := e.state(id), e.forkOf(id); !s.Running || fork.Kind != "boot" || !strings.Contains(fork.Why, "was off") {
			t.Errorf("%+v, %+v", s, fork)
		}
	}
	byGovc := e.create("govc", container.Config{Cmd: []string{"sleep"}}, container.HostConfig{})
	host = e.connect() // whose first picture has the container
	vm, _ = host.Get(byGovc)
	if err := host.PowerOff(e.ctx(), vm.Ref); err != nil {
		t.Fatal(err)
	}
	if err := host.PowerOn(e.ctx(), vm.Ref); err != nil {
		t.Fatal(err)
	}
	if _, err := host.Wait(e.ctx(), vm.Ref, func(vm vsphere.VM) bool { return vm.Extra[link.KeyStatus] != "" }); err != nil {
		t.Fatal(err)
	}
	vmtest.Eventually(t, testTime/4, "a container that was powered on by another client runs", func() bool { return e.state(byGovc).Running })
}
