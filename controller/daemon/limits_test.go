package daemon_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"

	ctr "github.com/containervm/containervm/controller/internal/container"
	"github.com/containervm/containervm/hostd-bridge/daemon/daemontest"
)

// TestLimits: what the host cannot give is refused with its numbers, and leaves no container.
func TestLimits(t *testing.T) {
	e := start(t, nil)
	for _, c := range []struct {
		res  container.Resources
		says string
	}{
		{container.Resources{Memory: 1 << 45}, "MiB available in the host"},
		{container.Resources{Memory: 1 << 62}, "out of range"},
		{container.Resources{Memory: 4096}, "Minimum memory limit allowed is"},
		{container.Resources{Memory: -1}, "must not be negative"},
		{container.Resources{NanoCPUs: 200e9}, "must be 1 to"},
		{container.Resources{NanoCPUs: 300e9}, "Range of CPUs is from"},
	} {
		_, err := e.docker.ContainerCreate(e.ctx(), client.ContainerCreateOptions{
			Config: &container.Config{Image: "base", Cmd: []string{"true"}}, HostConfig: &container.HostConfig{Resources: c.res},
		})
		if err == nil || !strings.Contains(err.Error(), c.says) || errdefs.IsInternal(err) {
			t.Errorf("%+v: %v; want a refusal that says %q", c.res, err, c.says)
		}
	}
	e.gone()
}

// TestUpdate: limits change while the container is off, and only then.
func TestUpdate(t *testing.T) {
	e := start(t, nil)
	id := e.create("c", container.Config{Cmd: []string{"sleep"}}, container.HostConfig{})
	update := func(r container.Resources) error {
		_, err := e.docker.ContainerUpdate(e.ctx(), id, client.ContainerUpdateOptions{Resources: &r})
		return err
	}
	if err := update(container.Resources{Memory: 128 << 20}); err != nil {
		t.Fatal(err)
	}
	if err := update(container.Resources{Memory: 1 << 45}); err == nil || !strings.Contains(err.Error(), "MiB available in the host") {
		t.Errorf("more memory than the host has: %v", err)
	}
	res, err := e.docker.ContainerInspect(e.ctx(), id, client.ContainerInspectOptions{})
	if err != nil || res.Container.HostConfig.Memory != 128<<20 {
		t.Errorf("memory %d after the update, %v", res.Container.HostConfig.Memory, err)
	}
	if vm, _ := e.connect().Get(id); vm.MemoryMiB != 128 || vm.CPUs != 1 {
		t.Errorf("the machine has %d MiB and %d CPUs", vm.MemoryMiB, vm.CPUs)
	}
	e.begin(id)
	if err := update(container.Resources{Memory: 256 << 20}); !errdefs.IsConflict(err) || !strings.Contains(err.Error(), "stop the container first") {
		t.Errorf("update of a running container: %v", err)
	}
}

// TestSizesAndPrune: a list tells what disks take when asked, and a prune leaves what runs.
func TestSizesAndPrune(t *testing.T) {
	e := start(t, nil)
	off := e.create("off", container.Config{Cmd: []string{"true"}}, container.HostConfig{})
	e.create("on", container.Config{Cmd: []string{"sleep"}}, container.HostConfig{})
	e.begin("on")
	list, err := e.docker.ContainerList(e.ctx(), client.ContainerListOptions{All: true, Size: true})
	if err != nil || len(list.Items) != 2 {
		t.Fatalf("%+v, %v", list.Items, err)
	}
	for _, c := range list.Items { // the image has one file of 2 bytes
		if c.SizeRw <= 0 || c.SizeRootFs != c.SizeRw+2 {
			t.Errorf("%s: %d bytes of its own, %d in all", c.Names[0], c.SizeRw, c.SizeRootFs)
		}
	}
	if _, err := e.docker.ContainerRename(e.ctx(), "off", client.ContainerRenameOptions{NewName: "on"}); !errdefs.IsConflict(err) {
		t.Errorf("rename to a name that is taken: %v", err)
	}
	res, err := e.docker.ContainerPrune(e.ctx(), client.ContainerPruneOptions{})
	if err != nil || len(res.Report.ContainersDeleted) != 1 || res.Report.ContainersDeleted[0] != off {
		t.Errorf("pruned %+v, %v", res.Report, err)
	}
	if !e.state("on").Running {
		t.Error("the running container went")
	}
}

// TestNotSupported: what a containerVM cannot have yet is refused by its name, not ignored; what it can do without is a
// warning.
func TestNotSupported(t *testing.T) {
	e := start(t, nil)
	create := func(h container.HostConfig) (client.ContainerCreateResult, error) {
		return e.docker.ContainerCreate(e.ctx(), client.ContainerCreateOptions{
			Config: &container.Config{Image: "base", Cmd: []string{"true"}}, HostConfig: &h,
		})
	}
	for want, h := range map[string]container.HostConfig{
		"cannot mount the host's /a: a containerVM shares no file system with its host": {Binds: []string{"/a:/b"}},
		"sctp is not supported":              {PortBindings: network.PortMap{network.MustParsePort("80/sctp"): nil}},
		"devices of the host":                {Resources: container.Resources{Devices: []container.DeviceMapping{{PathOnHost: "/dev/null"}}}},
		"network mode host is not supported": {NetworkMode: "host"},
		"links in network bridge":            {Links: []string{"a:b"}},
	} {
		if _, err := create(h); !errdefs.IsNotImplemented(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want a refusal that says %q", err, want)
		}
	}
	e.gone()
}

// TestFractionalCPUs: what a machine has no virtual CPUs for is the host's limit of its CPU time, however the machine is made.
func TestFractionalCPUs(t *testing.T) {
	for name, f := range map[string]forks{"booted": {}, "forked": {templates: 1}, "forked without its disk": {templates: 1, noDisk: true}, "warm": {templates: 1, warm: 1}} {
		t.Run(name, func(t *testing.T) {
			e := startForks(t, daemontest.TetherGuest(t, nil), ctr.Timeouts{}, f)
			if f.templates > 0 {
				e.awaitTemplates(1)
			}
			limit := func(id string, want float64) {
				t.Helper()
				if m := e.host.Hypervisor.Machine(e.vm(id).Ref.Value); m == nil || m.CPULimit() != want {
					t.Errorf("the machine of %s has another limit of its CPU time than %v", id, want)
				}
			}
			for cpus, want := range map[int64]float64{1e9: 0, 0.25e9: 0.25} {
				if f.warm > 0 {
					e.awaitWarm(f.warm)
				}
				id := e.create(fmt.Sprint("c", cpus), container.Config{Cmd: []string{"sleep"}}, container.HostConfig{Resources: container.Resources{NanoCPUs: cpus}})
				e.begin(id)
				limit(id, want)
			}
		})
	}
}
