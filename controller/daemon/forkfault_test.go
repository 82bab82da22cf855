package daemon_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	ctr "github.com/containervm/containervm/controller/internal/container"
	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/hostd-bridge/daemon/daemontest"
	"github.com/containervm/containervm/internal/vmtest"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// receiptFails is a guest whose forks of a template cannot become someone else; others are whole tethers.
func receiptFails(t *testing.T) daemontest.Guest {
	good := daemontest.TetherGuest(t, nil)
	return func(ctx context.Context, m *daemontest.Machine) {
		if m.Parent() == nil || m.Wait(ctx, link.KeySpec) == "" {
			good(ctx, m)
			return
		}
		receipt, err := link.EncodeReceipt(&tetherv1.Receipt{Items: []*tetherv1.ReceiptItem{
			{Name: "entropy", Outcome: tetherv1.ReceiptItem_DONE}, {Name: "hostname", Outcome: tetherv1.ReceiptItem_FAILED, Detail: "permission denied by the kernel"},
		}})
		if err != nil {
			t.Error(err)
		}
		m.Set(link.KeyReceipt, receipt)
		say(t, m, &tetherv1.Status{State: tetherv1.State_FAILED, Failure: &tetherv1.Failure{Reason: tetherv1.Failure_FORK, Message: "cannot become someone else"}})
	}
}

// TestReceiptFails: the start of a fork that could not become its container names the item, whether it was lost before
// the start or by it; --rm removes it; a second start boots.
func TestReceiptFails(t *testing.T) {
	for name, f := range map[string]forks{"disk at fork": {templates: 1}, "disk after fork": {templates: 1, noDisk: true}} {
		t.Run(name, func(t *testing.T) {
			e := startForks(t, receiptFails(t), ctr.Timeouts{}, f)
			e.awaitTemplates(1)
			id := e.create("c", container.Config{Cmd: []string{"sleep"}}, container.HostConfig{})
			if s := e.state(id); s.Status != "created" {
				t.Errorf("before its start: %+v", s)
			}
			if why := e.startError(id); !strings.Contains(why, "the fork could not become this container: hostname: access denied by the kernel") {
				t.Errorf("start: %s", why)
			}
			if s, fork := e.state(id), e.forkOf(id); s.Status != "created" || s.ExitCode != 125 || fork.Kind != "fork" || fork.Receipt[1].Outcome != "failed" {
				t.Errorf("after its start: %+v, %+v", s, fork)
			}
			e.begin(id)
			if fork := e.forkOf(id); fork.Kind != "boot" {
				t.Errorf("started again: %+v", fork)
			}
			rm := e.create("rm", container.Config{Cmd: []string{"sleep"}}, container.HostConfig{AutoRemove: true})
			removed := e.docker.ContainerWait(e.ctx(), rm, client.ContainerWaitOptions{Condition: container.WaitConditionRemoved})
			if why := e.startError(rm); !strings.Contains(why, "hostname") {
				t.Errorf("start: %s", why)
			}
			e.exitOf(removed)
			if _, err := e.docker.ContainerRemove(e.ctx(), id, client.ContainerRemoveOptions{Force: true}); err != nil {
				t.Fatal(err)
			}
			e.gone()
		})
	}
}

// TestTemplateVanishes: a template that goes between the choice and the clone costs a fork, not a container; who insists on
// a fork is told. The next one makes the template anew.
func TestTemplateVanishes(t *testing.T) {
	e := forking(t, forks{templates: 1})
	host := e.connect()
	e.host.Hypervisor.On("forkPoint", func() error { return errors.New("the keeper is gone") })
	id := e.create("booted", container.Config{Cmd: []string{"sleep"}}, container.HostConfig{})
	if fork := e.forkOf(id); fork.Kind != "boot" || !strings.Contains(fork.Why, "the keeper is gone") {
		t.Errorf("%+v", fork)
	}
	_, err := e.docker.ContainerCreate(e.ctx(), client.ContainerCreateOptions{
		Config: &container.Config{Image: "base", Cmd: []string{"true"}}, HostConfig: &container.HostConfig{Runtime: "fork"},
	})
	if err == nil || !strings.Contains(err.Error(), "the keeper is gone") {
		t.Errorf("runtime fork: %v", err)
	}
	e.host.Hypervisor.On("forkPoint", nil)
	vm := e.machines("template")[0]
	if err := host.PowerOff(e.ctx(), vm.Ref); err != nil {
		t.Fatal(err)
	}
	vmtest.Eventually(t, testTime/4, "the controller sees the template's end", func() bool {
		return !slices.ContainsFunc(e.templates(), func(t templateInfo) bool { return t.State == "frozen" })
	})
	again := e.create("forked", container.Config{Cmd: []string{"sleep"}}, container.HostConfig{Runtime: "fork"})
	if fork := e.forkOf(again); fork.Kind != "fork" || fork.Template != vm.Name {
		t.Errorf("after it was made anew: %+v", fork)
	}
	if now := e.machines("template"); len(now) != 1 || now[0].Ref == vm.Ref {
		t.Errorf("templates %+v, want one that is new", now)
	}
}

// TestTemplateIsDistrusted: a template that cannot be cloned any more costs some forks, not all: it is made anew.
func TestTemplateIsDistrusted(t *testing.T) {
	e := forking(t, forks{templates: 1})
	e.host.Hypervisor.On("forkPoint", func() error { return errors.New("the state is another emulator's") })
	old := e.machines("template")[0].Ref
	vmtest.Eventually(t, testTime/2, "the template is made anew", func() bool {
		fork := e.forkOf(e.create("", container.Config{Cmd: []string{"sleep"}}, container.HostConfig{}))
		if fork.Kind != "boot" {
			t.Fatalf("%+v", fork)
		}
		now := e.machines("template")
		return len(now) == 1 && now[0].Ref != old
	})
	e.host.Hypervisor.On("forkPoint", nil)
	again := e.create("", container.Config{Cmd: []string{"sleep"}}, container.HostConfig{Runtime: "fork"})
	if fork := e.forkOf(again); fork.Kind != "fork" {
		t.Errorf("after it was made anew: %+v", fork)
	}
}

// TestNoTemplate: containers boot while a template cannot be made, and the error of a fork holds the console's end.
func TestNoTemplate(t *testing.T) {
	var stuck atomic.Bool
	stuck.Store(true)
	good := daemontest.TetherGuest(t, nil)
	e := startForks(t, func(ctx context.Context, m *daemontest.Machine) {
		spec, err := link.DecodeSpec(m.Get(link.KeySpec))
		if err == nil && spec.GetMode() == tetherv1.Mode_TEMPLATE && stuck.Load() {
			_ = os.WriteFile(filepath.Join(m.Spec.HomeDir, "console.log"), []byte("no virtio-net\n"), 0o600)
			m.Set(link.KeyPhase, "network")
			<-ctx.Done()
			return
		}
		good(ctx, m)
	}, ctr.Timeouts{Template: 200e6}, forks{templates: 1})
	id := e.create("", container.Config{Cmd: []string{"true"}}, container.HostConfig{})
	e.begin(id)
	if fork := e.forkOf(id); fork.Kind != "boot" || fork.Why == "" {
		t.Errorf("%+v", fork)
	}
	_, err := e.docker.ContainerCreate(e.ctx(), client.ContainerCreateOptions{
		Config: &container.Config{Image: "base", Cmd: []string{"true"}}, HostConfig: &container.HostConfig{Runtime: "fork"},
	})
	for _, want := range []string{"cannot fork a container: cannot make the template of 512 MiB and 1 CPU", "hangs in phase network", "no virtio-net"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("runtime fork: %v; want %q in it", err, want)
		}
	}
	stuck.Store(false)
	e.create("forked", container.Config{Cmd: []string{"true"}}, container.HostConfig{})
	for e.forkOf(e.create("", container.Config{Cmd: []string{"true"}}, container.HostConfig{})).Kind != "fork" { // after the pause
	}
}

// TestForksSurviveController: what is parked, warm and frozen serves the next controller; a half made machine is removed,
// and so is a template of other boot files.
func TestForksSurviveController(t *testing.T) {
	e := forking(t, forks{templates: 2, warm: 1})
	e.awaitWarm(1)
	id := e.create("parked", container.Config{Cmd: []string{"echo", "hi"}}, container.HostConfig{})
	e.awaitWarm(1)
	template := e.machines("template")[0]
	warm := e.machines("warm")[0]
	e.stop()
	host := e.connect()
	stale, err := host.CreateVM(e.ctx(), vsphere.VMSpec{
		Name: "cvm-template-old", UUID: "01234567-89ab-4def-8123-456789abcdef", CPUs: 1, MemoryMiB: 64, Kernel: host.Boot().Kernel, Initrd: host.Boot().Initrd,
		ExtraConfig: map[string]string{"cvm.role": "template", "cvm.template": `{"kernel":"old"}`},
	})
	if err != nil {
		t.Fatal(err)
	}
	e.run()
	if list := e.awaitTemplates(1); list[0].Name != template.Name || list[0].Children != 1 {
		t.Errorf("templates %+v", list)
	}
	if _, err := host.Wait(e.ctx(), stale, func(vsphere.VM) bool { return false }); !errdefs.IsNotFound(err) {
		t.Errorf("the template of other boot files is still there: %v", err)
	}
	if now := e.machines("template"); now[0].Ref != template.Ref {
		t.Error("the template was made anew")
	}
	second := e.create("second", container.Config{Cmd: []string{"sleep"}}, container.HostConfig{})
	if second != warm.Name {
		t.Errorf("the warm machine %s was not taken, but %s", warm.Name, second)
	}
	e.begin(id)
	if fork := e.forkOf(id); fork.Kind != "fork" {
		t.Errorf("started by another controller: %+v", fork)
	}
	checkTimeline(t, e.forkOf(id), "api", "cloneRequested", "startRequested")
	if first, next := e.forkOf(id).Index, e.forkOf(second).Index; first == next {
		t.Errorf("two children have the index %d", first)
	}
	e.stop()
	e.forks = forks{} // no templates at all any more
	e.run()
	if _, err := host.Wait(e.ctx(), template.Ref, func(vsphere.VM) bool { return false }); !errdefs.IsNotFound(err) {
		t.Errorf("a template is still there although there are to be none: %v", err)
	}
}

// TestEviction: for another size the template that was used longest ago goes.
func TestEviction(t *testing.T) {
	e := forking(t, forks{templates: 2})
	sized := func(mib int64) string {
		return e.create("", container.Config{Cmd: []string{"true"}}, container.HostConfig{Runtime: "fork", Resources: container.Resources{Memory: mib << 20}})
	}
	sized(128)
	sized(512)
	sized(256)
	var sizes []int
	for _, t := range e.awaitTemplates(2) {
		sizes = append(sizes, t.MemoryMiB)
	}
	if len(sizes) != 2 || sizes[0] != 256 || sizes[1] != 512 {
		t.Errorf("templates of %v MiB, want those used last: 256, 512", sizes)
	}
}

// TestQuiesce: nothing that no container needs is left; what is parked is as before, and boots.
func TestQuiesce(t *testing.T) {
	e := forking(t, forks{templates: 2, warm: 1})
	e.awaitWarm(1)
	id := e.create("parked", container.Config{Cmd: []string{"sleep"}}, container.HostConfig{})
	if status := e.call("POST", "/host/quiesce", "", nil); status != 204 {
		t.Fatalf("quiesce: %d", status)
	}
	for _, vm := range e.connect().VMs() {
		if vm.PowerState == vsphere.PoweredOn {
			t.Errorf("VM %s is on: %v", vm.Name, vm.Extra["cvm.role"])
		}
	}
	if s := e.state(id); s.Status != "created" {
		t.Errorf("the parked container: %+v", s)
	}
	e.begin(id)
	if fork := e.forkOf(id); fork.Kind != "boot" {
		t.Errorf("started: %+v", fork)
	}
}

// TestRemoveTemplate: a template goes by its name; its children stay.
func TestRemoveTemplate(t *testing.T) {
	e := forking(t, forks{templates: 1})
	id := e.create("child", container.Config{Cmd: []string{"sleep"}}, container.HostConfig{})
	name := e.templates()[0].Name
	if status := e.call("DELETE", "/templates/nosuch", "", nil); status != 404 {
		t.Errorf("unknown template: %d", status)
	}
	if status := e.call("DELETE", "/templates/"+id, "", nil); status != 404 {
		t.Errorf("a container as a template: %d", status)
	}
	if status := e.call("DELETE", "/templates/"+name, "", nil); status != 204 {
		t.Errorf("remove: %d", status)
	}
	e.begin(id)
	if list := e.templates(); len(list) != 0 || e.forkOf(id).Kind != "fork" {
		t.Errorf("templates %+v, child %+v", list, e.forkOf(id))
	}
}
