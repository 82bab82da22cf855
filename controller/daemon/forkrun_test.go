package daemon_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	ctr "github.com/containervm/containervm/controller/internal/container"
	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/hostd-bridge/daemon/daemontest"
	"github.com/containervm/containervm/internal/vmtest"
	"github.com/containervm/containervm/tether/link"
	"github.com/containervm/containervm/tether/link/linktest"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// tethers keeps the fake tethers of an engine by their container's ID.
type tethers struct {
	mu   sync.Mutex
	byID map[string]*linktest.Tether
}

func (x *tethers) setup(m *daemontest.Machine, tether *linktest.Tether) {
	spec, _ := link.DecodeSpec(m.Get(link.KeySpec))
	x.mu.Lock()
	defer x.mu.Unlock()
	x.byID[spec.GetId()] = tether
}

// releases are the forks of which a container's tether was told at its releases; nil: none.
func (x *tethers) releases(id string) (forks []*tetherv1.Fork) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, r := range x.byID[id].Releases() {
		forks = append(forks, r.GetFork())
	}
	return forks
}

type forkReply struct {
	Message  string
	Children []struct {
		ID                string `json:"Id"`
		Name, Error       string
		Generation, Index int
		Receipt           []struct{ Name string }
	}
}

func (e *engine) fork(name, body string) (forkReply, int) {
	e.t.Helper()
	var reply forkReply
	return reply, e.call("POST", "/containers/"+name+"/fork", body, &reply)
}

func forkingRunning(t *testing.T) (*engine, *tethers) {
	t.Helper()
	x := &tethers{byID: map[string]*linktest.Tether{}}
	return startForks(t, daemontest.TetherGuest(t, x.setup), ctr.Timeouts{}, forks{}), x
}

// only fails the test unless the host's machines are these containers, and nothing of a fork is left.
func (e *engine) only(names ...string) {
	e.t.Helper()
	list, err := e.docker.ContainerList(e.ctx(), client.ContainerListOptions{All: true})
	if err != nil {
		e.t.Fatal(err)
	}
	left := map[string]bool{}
	for _, c := range list.Items {
		left[strings.TrimPrefix(c.Names[0], "/")] = true
	}
	for _, name := range names {
		if !left[name] {
			e.t.Errorf("container %s is missing in %v", name, left)
		}
		delete(left, name)
	}
	if len(left) > 0 {
		e.t.Errorf("containers are left: %v", left)
	}
	for _, vm := range e.connect().VMs() {
		if vm.Extra["cvm.role"] == "fork-source" {
			e.t.Errorf("the copy %s is left", vm.Name)
		}
	}
}

// TestForkRunning: children of a running container are running containers of their own; so are theirs.
func TestForkRunning(t *testing.T) {
	e, x := forkingRunning(t)
	id := e.create("web", container.Config{Cmd: []string{"sleep"}, Hostname: "shop", Labels: map[string]string{"a": "b"}}, container.HostConfig{})
	e.begin(id)
	reply, status := e.fork("web", `{"Count": 3}`)
	if status != http.StatusCreated || len(reply.Children) != 3 {
		t.Fatalf("%d, %+v", status, reply)
	}
	for i, c := range reply.Children {
		if c.Error != "" || c.Name != fmt.Sprintf("web-%d", i+1) || c.Generation != 1 || c.Index != i+1 || len(c.Receipt) != 1 {
			t.Errorf("child %+v", c)
		}
		s, fork := e.state(c.ID), e.forkOf(c.Name)
		if !s.Running || s.Pid == 0 || fork.Kind != "fork" || fork.Template != id || fork.Index != i+1 {
			t.Errorf("child %s: %+v, %+v", c.Name, s, fork)
		}
		res, err := e.docker.ContainerInspect(e.ctx(), c.ID, client.ContainerInspectOptions{})
		if err != nil || res.Container.Config.Hostname != fmt.Sprintf("shop-%d", i+1) || res.Container.Config.Labels["a"] != "b" {
			t.Errorf("child %s: %+v, %v", c.Name, res.Container.Config, err)
		}
		session, err := e.execIn(c.ID, "echo", "yo")
		if err != nil {
			t.Fatal(err)
		}
		session.Close()
	}
	if got := x.releases(id); len(got) != 1 || got[0].GetGeneration() != 1 || got[0].GetIndex() != 0 || got[0].GetSource() != id {
		t.Errorf("releases of the source: %v", got)
	}
	again, status := e.fork("web-2", `{"Names": ["grandchild"]}`)
	if status != http.StatusCreated || again.Children[0].Name != "grandchild" || again.Children[0].Generation != 2 || again.Children[0].Index != 1 {
		t.Errorf("%d, %+v", status, again)
	}
	more, _ := e.fork("web", `{}`)
	if more.Children[0].Name != "web-4" {
		t.Errorf("the next child is called %s", more.Children[0].Name)
	}
	if _, err := e.docker.ContainerStop(e.ctx(), "web-1", client.ContainerStopOptions{}); err != nil {
		t.Fatal(err)
	}
	e.begin("web-1")
	if fork := e.forkOf("web-1"); fork.Kind != "boot" {
		t.Errorf("a child that was stopped: %+v", fork)
	}
	e.only("web", "web-1", "web-2", "web-3", "web-4", "grandchild")
}

// TestForkRefusals: what cannot be forked is refused with its reason, and the source goes on.
func TestForkRefusals(t *testing.T) {
	e, _ := forkingRunning(t)
	e.begin(e.create("web", container.Config{Cmd: []string{"sleep"}}, container.HostConfig{}))
	e.create("off", container.Config{Cmd: []string{"sleep"}}, container.HostConfig{})
	for _, c := range []struct {
		name, body string
		status     int
		says       string
	}{
		{"nosuch", `{}`, 404, "No such container: nosuch"},
		{"off", `{}`, 409, "is not running"},
		{"web", `{"Count": 0}`, 400, "want a number from 1 to 256"},
		{"web", `{"Count": 257}`, 400, "want a number from 1 to 256"},
		{"web", `{"Count": 2, "Names": ["a"]}`, 400, "1 names for 2 children"},
		{"web", `{"Names": ["a", "a"]}`, 409, `The container name "/a" is already in use`},
		{"web", `{"Names": ["off"]}`, 409, `The container name "/off" is already in use`},
		{"web", `{"Names": ["a b"]}`, 400, "Invalid container name"},
		{"web", `{"Count": "x"}`, 400, "invalid JSON"},
	} {
		if reply, status := e.fork(c.name, c.body); status != c.status || !strings.Contains(reply.Message, c.says) {
			t.Errorf("fork %s %s: %d %s; want %d and %q", c.name, c.body, status, reply.Message, c.status, c.says)
		}
	}
	e.only("web", "off")
}

// TestForkFails: whatever fails in a fork, the source goes on, and nothing is left of what was begun.
func TestForkFails(t *testing.T) {
	e, x := forkingRunning(t)
	id := e.create("web", container.Config{Cmd: []string{"sleep"}}, container.HostConfig{})
	e.begin(id)
	e.host.Hypervisor.On("snapshot", func() error { return errors.New("out of memory") })
	if reply, status := e.fork("web", `{"Count": 2}`); status < 500 || !strings.Contains(reply.Message, "out of memory") {
		t.Errorf("the copy fails: %d, %+v", status, reply)
	}
	e.only("web")
	e.host.Hypervisor.On("snapshot", nil)
	var mu sync.Mutex
	forks := 0
	e.host.Hypervisor.On("fork", func() error {
		mu.Lock()
		defer mu.Unlock()
		if forks++; forks == 3 { // the copy, the first child
			return errors.New("no more memory")
		}
		return nil
	})
	reply, status := e.fork("web", `{"Count": 4}`)
	bad := 0
	for _, c := range reply.Children {
		if c.Error != "" {
			bad++
			if !strings.Contains(c.Error, "no more memory") {
				t.Errorf("child %+v", c)
			}
		}
	}
	if status != http.StatusCreated || len(reply.Children) != 4 || bad != 1 {
		t.Errorf("one of four fails: %d, %+v", status, reply)
	}
	if got := x.releases(id); len(got) != 2 || got[0] != nil || got[1] == nil {
		t.Errorf("releases of the source: %v; want one without a fork, one with", got)
	}
	list, err := e.docker.ContainerList(e.ctx(), client.ContainerListOptions{All: true})
	if err != nil || len(list.Items) != 4 {
		t.Errorf("%d containers, want the source and three children; %v", len(list.Items), err)
	}
}

// TestForkClientLeaves: a client that goes away in a fork leaves the source running, no child and no copy.
func TestForkClientLeaves(t *testing.T) {
	for _, stage := range []string{"snapshot", "fork", "children"} {
		t.Run(stage, func(t *testing.T) {
			e, x := forkingRunning(t)
			hook := func(h func() error) {
				if stage == "snapshot" {
					e.host.Hypervisor.On("snapshot", h)
				} else {
					e.host.Hypervisor.On("fork", h)
				}
			}
			id := e.create("web", container.Config{Cmd: []string{"sleep"}}, container.HostConfig{})
			e.begin(id)
			reached, left := make(chan struct{}, 16), make(chan struct{})
			var calls atomic.Int32
			hook(func() error {
				if n := calls.Add(1); stage == "children" && n < 4 { // the copy and two children
					return nil
				}
				reached <- struct{}{}
				<-left
				return nil
			})
			ctx, cancel := context.WithCancel(e.ctx())
			req, _ := http.NewRequestWithContext(ctx, "POST", "http://docker/containers/web/fork", strings.NewReader(`{"Count": 5}`))
			req.Header.Set("Content-Type", "application/json")
			done := make(chan error, 1)
			go func() {
				_, err := e.dialer().Do(req)
				done <- err
			}()
			<-reached
			if stage == "children" {
				vmtest.Eventually(t, testTime/4, "two children run", func() bool {
					running := 0
					for _, vm := range e.machines("container") {
						if vm.Name != id && vm.Extra[link.KeyStatus] != "" {
							running++
						}
					}
					return running == 2
				})
			}
			cancel()
			<-done
			time.Sleep(50 * time.Millisecond) // the server learns of it by and by; what it does before must be undone too
			close(left)
			vmtest.Eventually(t, testTime/4, "only the source is left", func() bool { return len(e.connect().VMs()) == 1 })
			vmtest.Eventually(t, testTime/4, "the source was released", func() bool { return len(x.releases(id)) == 1 })
			hook(nil)
			if reply, status := e.fork("web", `{}`); status != http.StatusCreated {
				t.Errorf("the next fork: %d, %+v", status, reply)
			}
		})
	}
}

// TestForkLeftovers: a controller that died in a fork leaves a copy; the next one removes it, and lets the source go on.
func TestForkLeftovers(t *testing.T) {
	e, x := forkingRunning(t)
	id := e.create("web", container.Config{Cmd: []string{"sleep"}}, container.HostConfig{})
	e.begin(id)
	e.stop()
	host := e.connect()
	vm, _ := host.Get(id)
	l, err := host.Link(e.ctx(), vm.Ref)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Tether().Hold(e.ctx(), &tetherv1.HoldRequest{}); err != nil {
		t.Fatal(err)
	}
	fork, _ := link.EncodeFork(&tetherv1.Fork{Generation: 1, Source: id})
	spec, _ := link.EncodeSpec(&tetherv1.Spec{Mode: tetherv1.Mode_TEMPLATE})
	record, _ := json.Marshal(struct{ ImageID string }{"sha256:0"})
	copied, err := host.InstantClone(e.ctx(), vm.Ref, vsphere.CloneSpec{Name: "cvm-fork-left", ExtraConfig: map[string]string{
		"cvm.role": "fork-source", "cvm.container": string(record), link.KeyFork: fork, link.KeySpec: spec,
	}})
	if err != nil {
		t.Fatal(err)
	}
	e.run()
	_, _ = host.Wait(e.ctx(), copied, func(vsphere.VM) bool { return false })
	if got := x.releases(id); len(got) != 1 || got[0] != nil {
		t.Errorf("releases %v, want one without a fork", got)
	}
	e.only("web")
}
