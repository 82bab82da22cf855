package daemon_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/containervm/containervm/hostd-bridge/daemon/daemontest"
	"github.com/containervm/containervm/internal/vmtest"
	"github.com/containervm/containervm/tether/link/linktest"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// relapses starts an engine whose program "relapse" ends with 3 until it was started often enough, and then goes on.
func relapses(t *testing.T, often int64) (e *engine, began *atomic.Int64) {
	began = &atomic.Int64{}
	return start(t, func(_ *daemontest.Machine, tether *linktest.Tether) {
		tether.Program("relapse", func(p *linktest.Process) *tetherv1.Exit {
			if began.Add(1) <= often {
				return linktest.Exited(3)
			}
			select {
			case s := <-p.Signals:
				return linktest.Signalled(s)
			case <-p.Killed:
				return nil
			}
		})
	}), began
}

func policy(name container.RestartPolicyMode, most int) container.HostConfig {
	return container.HostConfig{RestartPolicy: container.RestartPolicy{Name: name, MaximumRetryCount: most}}
}

func (e *engine) removeRunning(id string) {
	e.t.Helper()
	if _, err := e.docker.ContainerRemove(e.ctx(), id, client.ContainerRemoveOptions{Force: true}); err != nil {
		e.t.Error(err)
	}
}

// until waits for a state of a container.
func (e *engine) until(id, what string, is func(container.InspectResponse) bool) {
	e.t.Helper()
	vmtest.Eventually(e.t, testTime/2, what, func() bool { return is(e.inspect(id)) })
}

// TestRestartPolicy: a container that ends is restarted by its policy, as often as that says; who waits is told each end, and the state
// between runs is Docker's. That none follows a state that waits for none is shown where time can be made to pass: TestRestartWaits in package
// container.
func TestRestartPolicy(t *testing.T) {
	e, began := relapses(t, 3)
	id := e.create("c", container.Config{Cmd: []string{"relapse"}}, policy(container.RestartPolicyOnFailure, 5))
	end := e.docker.ContainerWait(e.ctx(), id, client.ContainerWaitOptions{Condition: container.WaitConditionNextExit})
	e.begin(id)
	if code := e.exitOf(end); code != 3 {
		t.Errorf("the first end: %d", code)
	}
	e.until(id, "the fourth run", func(c container.InspectResponse) bool {
		return c.State.Running && !c.State.Restarting && began.Load() == 4
	})
	if c := e.inspect(id); c.RestartCount != 3 {
		t.Errorf("after three restarts: %d", c.RestartCount)
	}
	if _, err := e.docker.ContainerStop(e.ctx(), id, client.ContainerStopOptions{}); err != nil {
		t.Fatal(err)
	}
	if c := e.inspect(id); c.State.Status != "exited" || c.State.Restarting || began.Load() != 4 {
		t.Errorf("after a stop: %+v, begun %d times", c.State, began.Load())
	}
	began.Store(0)
	e.begin(id)
	e.until(id, "the end of the restarts", func(c container.InspectResponse) bool { return began.Load() == 4 && c.RestartCount == 3 })
	e.removeRunning(id)
	e.gone()
}

// TestWhileRestarting: what clients do to a container that waits for its restart.
func TestWhileRestarting(t *testing.T) {
	e, began := relapses(t, 1<<60)
	wait := func(id string) {
		t.Helper()
		e.until(id, "waiting for a restart", func(c container.InspectResponse) bool {
			ended, err := time.Parse(time.RFC3339Nano, c.State.FinishedAt)
			fresh := err == nil && time.Since(ended) < 500*time.Millisecond // it waits for a while yet: more than a second and a half in all
			return fresh && c.State.Restarting && c.State.Status == "restarting" && c.State.Running && c.State.ExitCode == 3 && c.RestartCount > 4
		})
	}
	id := e.create("c", container.Config{Cmd: []string{"relapse"}}, policy(container.RestartPolicyAlways, 0))
	e.begin(id)
	wait(id)
	list, err := e.docker.ContainerList(e.ctx(), client.ContainerListOptions{Filters: client.Filters{}.Add("status", "restarting")})
	if err != nil || len(list.Items) != 1 || list.Items[0].State != "restarting" || !strings.HasPrefix(list.Items[0].Status, "Restarting (3) ") {
		t.Errorf("list: %+v, %v", list.Items, err)
	}
	if _, err := e.docker.ContainerStart(e.ctx(), id, client.ContainerStartOptions{}); err != nil && !errdefs.IsNotModified(err) {
		t.Errorf("start: %v", err)
	}
	wait(id)
	if _, err := e.execIn(id, "true"); !errdefs.IsConflict(err) || !strings.Contains(err.Error(), "is restarting, wait until the container is running") {
		t.Errorf("exec: %v", err)
	}
	wait(id)
	if _, err := e.docker.ContainerRemove(e.ctx(), id, client.ContainerRemoveOptions{}); !errdefs.IsConflict(err) || !strings.Contains(err.Error(), "stop the container before removing or force remove") {
		t.Errorf("rm: %v", err)
	}
	if res, err := e.docker.ContainerPrune(e.ctx(), client.ContainerPruneOptions{}); err != nil || len(res.Report.ContainersDeleted) > 0 {
		t.Errorf("prune: %+v, %v", res.Report, err)
	}
	stopped := e.docker.ContainerWait(e.ctx(), id, client.ContainerWaitOptions{})
	if _, err := e.docker.ContainerStop(e.ctx(), id, client.ContainerStopOptions{}); err != nil {
		t.Errorf("stop: %v", err)
	}
	if c := e.inspect(id); c.State.Status != "exited" || c.State.Running || c.State.ExitCode != 3 {
		t.Errorf("after a stop: %+v", c.State)
	}
	_ = stopped // ends with the next run
	if _, err := e.docker.ContainerRestart(e.ctx(), id, client.ContainerRestartOptions{}); err != nil {
		t.Errorf("restart of one that was stopped: %v", err)
	}
	wait(id)
	if _, err := e.docker.ContainerKill(e.ctx(), id, client.ContainerKillOptions{}); err != nil {
		t.Errorf("kill: %v", err)
	}
	n := began.Load()
	if c := e.inspect(id); c.State.Status != "exited" || c.State.Restarting || began.Load() > n {
		t.Errorf("after a kill: %+v, begun %d times instead of %d", c.State, began.Load(), n)
	}
	e.begin(id)
	wait(id)
	if _, err := e.docker.ContainerUpdate(e.ctx(), id, client.ContainerUpdateOptions{RestartPolicy: &container.RestartPolicy{Name: container.RestartPolicyDisabled}}); err != nil {
		t.Errorf("update: %v", err)
	}
	e.until(id, "its end", func(c container.InspectResponse) bool { return c.State.Status == "exited" })
	if _, err := e.docker.ContainerUpdate(e.ctx(), id, client.ContainerUpdateOptions{RestartPolicy: &container.RestartPolicy{Name: container.RestartPolicyAlways}}); err != nil {
		t.Errorf("update: %v", err)
	}
	n = began.Load()
	if c := e.inspect(id); c.State.Status != "exited" || c.State.Restarting || began.Load() > n || c.HostConfig.RestartPolicy.Name != container.RestartPolicyAlways {
		t.Errorf("with a policy that it got when it had ended: %+v, %+v", c.State, c.HostConfig.RestartPolicy)
	}
	e.begin(id)
	wait(id)
	if _, err := e.docker.ContainerRemove(e.ctx(), id, client.ContainerRemoveOptions{Force: true}); err != nil {
		t.Errorf("rm -f: %v", err)
	}
	e.gone()
}

// TestRestartFails: a restart of what cannot be started any more is the last one; the machine's death is an end as others are.
func TestRestartFails(t *testing.T) {
	var began atomic.Int64
	e := start(t, func(_ *daemontest.Machine, tether *linktest.Tether) {
		if began.Add(1) > 2 {
			return // it has no such program
		}
		tether.Program("vanishes", func(p *linktest.Process) *tetherv1.Exit {
			<-p.Killed
			return nil
		})
	})
	id := e.create("c", container.Config{Cmd: []string{"vanishes"}}, policy(container.RestartPolicyAlways, 0))
	began.Store(0)
	e.begin(id)
	host := e.connect()
	powerOff := func() {
		t.Helper()
		vm, _ := host.Get(id)
		if err := host.PowerOff(e.ctx(), vm.Ref); err != nil {
			t.Fatal(err)
		}
	}
	first := e.inspect(id).State.StartedAt
	powerOff()
	e.until(id, "its second run", func(c container.InspectResponse) bool {
		began := c.State.StartedAt
		return c.State.Running && !c.State.Restarting && !strings.HasPrefix(began, "0001-") && began != first
	})
	powerOff()
	e.until(id, "its being left alone", func(c container.InspectResponse) bool {
		return !c.State.Running && !c.State.Restarting && c.State.ExitCode == 127
	})
	n := began.Load()
	if c := e.inspect(id); c.State.Running || c.State.Restarting || began.Load() != n || n != 3 {
		t.Errorf("%+v, %d starts", c.State, began.Load())
	}
	e.remove(id)
}

// TestRestartsOverDaemons: which containers a controller starts that starts itself: those that were to run when it died, and those with the
// policy always, also when they were stopped.
func TestRestartsOverDaemons(t *testing.T) {
	e := start(t, nil)
	made := map[string]string{}
	for name, p := range map[string]container.HostConfig{
		"always": policy(container.RestartPolicyAlways, 0), "always-stopped": policy(container.RestartPolicyAlways, 0), "always-new": policy(container.RestartPolicyAlways, 0),
		"unless": policy(container.RestartPolicyUnlessStopped, 0), "unless-stopped": policy(container.RestartPolicyUnlessStopped, 0),
		"failure": policy(container.RestartPolicyOnFailure, 0), "no": {},
	} {
		made[name] = e.create(name, container.Config{Cmd: []string{"sleep"}}, p)
		if strings.HasSuffix(name, "-new") {
			continue
		}
		e.begin(name)
		if strings.HasSuffix(name, "-stopped") {
			if _, err := e.docker.ContainerStop(e.ctx(), name, client.ContainerStopOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	e.stop()
	host := e.connect()
	for _, name := range []string{"always", "unless", "failure", "no"} {
		vm, _ := host.Get(made[name])
		if err := host.PowerOff(e.ctx(), vm.Ref); err != nil {
			t.Fatal(err)
		}
	}
	e.run()
	want := map[string]bool{"always": true, "always-stopped": true, "unless": true, "failure": true}
	for name := range want {
		e.until(name, name+" runs again", func(c container.InspectResponse) bool { return c.State.Running && !c.State.Restarting })
	}
	for name := range made {
		if c := e.inspect(name); c.State.Running != want[name] || c.RestartCount != 0 {
			t.Errorf("%s: %+v, %d restarts", name, c.State, c.RestartCount)
		}
	}
	for name := range want {
		if _, err := e.docker.ContainerStop(e.ctx(), name, client.ContainerStopOptions{}); err != nil {
			t.Errorf("stop %s: %v", name, err)
		}
	}
}

// TestDownAndUp: containers that are stopped since their host goes down run again with it; others stay as they are.
func TestDownAndUp(t *testing.T) {
	e := start(t, nil)
	for _, name := range []string{"runs", "stopped"} {
		e.create(name, container.Config{Cmd: []string{"sleep"}}, policy(container.RestartPolicyUnlessStopped, 0))
		e.begin(name)
	}
	stop := func(name string) {
		t.Helper()
		if _, err := e.docker.ContainerStop(e.ctx(), name, client.ContainerStopOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	stop("stopped")
	if status := e.call("POST", "/host/quiesce?containers=1", "", nil); status != 204 {
		t.Fatalf("quiesce: %d", status)
	}
	stop("runs")
	if c := e.inspect("runs"); c.State.Pid != 0 {
		t.Errorf("it runs while its host goes down: %+v", c.State)
	}
	e.stop()
	e.run()
	e.until("runs", "its running again", func(c container.InspectResponse) bool { return c.State.Running })
	if c := e.inspect("stopped"); c.State.Running {
		t.Errorf("who was stopped runs: %+v", c.State)
	}
}

// TestPairs: any two operations at once on one container end as one of them does after the other, and leave nothing behind.
func TestPairs(t *testing.T) {
	e := start(t, nil)
	zero := 0
	operations := map[string]func(id string) error{
		"start": func(id string) error {
			_, err := e.docker.ContainerStart(e.ctx(), id, client.ContainerStartOptions{})
			return err
		},
		"stop": func(id string) error {
			_, err := e.docker.ContainerStop(e.ctx(), id, client.ContainerStopOptions{Timeout: &zero})
			return err
		},
		"restart": func(id string) error {
			_, err := e.docker.ContainerRestart(e.ctx(), id, client.ContainerRestartOptions{Timeout: &zero})
			return err
		},
		"kill": func(id string) error {
			_, err := e.docker.ContainerKill(e.ctx(), id, client.ContainerKillOptions{})
			return err
		},
		"rm": func(id string) error {
			_, err := e.docker.ContainerRemove(e.ctx(), id, client.ContainerRemoveOptions{})
			return err
		},
		"rm -f": func(id string) error {
			_, err := e.docker.ContainerRemove(e.ctx(), id, client.ContainerRemoveOptions{Force: true})
			return err
		},
		"rename": func(id string) error {
			_, err := e.docker.ContainerRename(e.ctx(), id, client.ContainerRenameOptions{NewName: "renamed"})
			return err
		},
		"update": func(id string) error {
			_, err := e.docker.ContainerUpdate(e.ctx(), id, client.ContainerUpdateOptions{RestartPolicy: &container.RestartPolicy{Name: container.RestartPolicyUnlessStopped}})
			return err
		},
	}
	names := slices.Sorted(func(yield func(string) bool) {
		for name := range operations {
			if !yield(name) {
				return
			}
		}
	})
	pair := func(running bool, a, b string) {
		id := e.create("first", container.Config{Cmd: []string{"sleep"}}, container.HostConfig{})
		if running {
			e.begin(id)
		}
		var errs [2]error
		var both sync.WaitGroup
		for i, name := range []string{a, b} {
			both.Go(func() { errs[i] = operations[name](id) })
		}
		both.Wait()
		what := fmt.Sprintf("%s and %s of one that runs (%v)", a, b, running)
		for _, err := range errs {
			if err != nil && !errdefs.IsConflict(err) && !errdefs.IsNotFound(err) && !errdefs.IsNotModified(err) {
				t.Errorf("%s: %v", what, err)
			}
		}
		res, err := e.docker.ContainerInspect(e.ctx(), id, client.ContainerInspectOptions{})
		gone := errdefs.IsNotFound(err)
		if err != nil && !gone {
			t.Fatalf("%s: %v", what, err)
		}
		forced := slices.Contains([]string{a, b}, "rm -f")
		removed := forced || a == "rm" && errs[0] == nil || b == "rm" && errs[1] == nil
		if gone != removed {
			t.Errorf("%s: %v; it is gone: %v", what, errs, gone)
		}
		if gone {
			return
		}
		if !possible(running, a, b, res.Container.State.Running) {
			t.Errorf("%s: %v; runs: %v", what, errs, res.Container.State.Running)
		}
		e.removeRunning(id)
	}
	for i, a := range names {
		for _, b := range names[i:] {
			for _, running := range []bool{false, true} {
				pair(running, a, b)
			}
		}
	}
	e.gone()
	before := settled(t, census{})
	pair(true, "restart", "rm -f")
	pair(true, "restart", "stop")
	settled(t, before)
}

// possible reports whether a container can run, or not, after two operations in either order.
func possible(before bool, a, b string, after bool) bool {
	do := func(runs bool, operation string) bool {
		switch operation {
		case "start", "restart":
			return true
		case "stop", "kill":
			return false
		default:
			return runs
		}
	}
	return do(do(before, a), b) == after || do(do(before, b), a) == after
}
