package container

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/container"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/containervm/containervm/controller/internal/ident"
	"github.com/containervm/containervm/controller/internal/image"
	"github.com/containervm/containervm/controller/internal/record"
	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// vmWith is a container's VM as the host shows it.
func vmWith(t *testing.T, power vsphere.PowerState, st *tetherv1.Status, exit string) vsphere.VM {
	t.Helper()
	rec, err := json.Marshal(record.Container{Config: container.Config{Cmd: []string{"cmd"}}})
	if err != nil {
		t.Fatal(err)
	}
	extra := map[string]string{record.KeyRole: record.RoleContainer, record.KeyName: "n", record.KeyContainer: string(rec)}
	if st != nil {
		if extra[link.KeyStatus], err = link.EncodeStatus(st); err != nil {
			t.Fatal(err)
		}
	}
	if exit != "" {
		extra[hostapi.KeyExit] = exit
	}
	return vsphere.VM{Ref: vsphere.Ref{Type: "VirtualMachine", Value: "vm-1"}, Name: strings.Repeat("ab", 32), PowerState: power, Extra: extra}
}

// inRun is a VM in its n-th run.
func inRun(n int64, vm vsphere.VM) vsphere.VM {
	vm.Extra = maps.Clone(vm.Extra)
	vm.Extra[hostapi.KeyRun] = fmt.Sprint(n)
	return vm
}

func TestState(t *testing.T) {
	running := &tetherv1.Status{State: tetherv1.State_RUNNING, StartedUnixNano: 1}
	exited := &tetherv1.Status{State: tetherv1.State_EXITED, StartedUnixNano: 1, Exit: &tetherv1.Exit{Code: 3, UnixNano: 2}}
	failed := &tetherv1.Status{State: tetherv1.State_FAILED, Failure: &tetherv1.Failure{Reason: tetherv1.Failure_NOT_FOUND}}
	const died = `{"at":"2026-01-02T03:04:05Z","reason":"QEMU killed by signal 9"}`
	for _, c := range []struct {
		name   string
		power  vsphere.PowerState
		status *tetherv1.Status
		exit   string
		state  container.ContainerState
		code   int
		err    string
	}{
		{"never started", vsphere.PoweredOff, nil, "", "created", 0, ""},
		{"booting", vsphere.PoweredOn, nil, "", "running", 0, ""},
		{"running", vsphere.PoweredOn, running, "", "running", 0, ""},
		{"exited but still on", vsphere.PoweredOn, exited, "", "running", 0, ""},
		{"exited", vsphere.PoweredOff, exited, died, "exited", 3, ""},
		{"not started", vsphere.PoweredOff, failed, died, "created", 127, "executable file not found"},
		{"killed under the process", vsphere.PoweredOff, running, died, "exited", 137, "QEMU killed by signal 9"},
		{"killed without a report", vsphere.PoweredOff, running, "", "exited", 137, "powered off"},
		{"died at boot", vsphere.PoweredOff, nil, died, "exited", 255, "before the process ran"},
		{"report is nonsense", vsphere.PoweredOff, nil, "{", "exited", 255, "cannot be decoded"},
		{"suspended", vsphere.Suspended, running, "", "paused", 137, ""},
	} {
		got, err := Parse(vmWith(t, c.power, c.status, c.exit))
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if got.State() != c.state || got.ExitCode() != c.code || !strings.Contains(got.Trouble(), c.err) || c.err == "" && c.name != "suspended" && got.Trouble() != "" {
			t.Errorf("%s: %s, %d, %q; want %s, %d, %q", c.name, got.State(), got.ExitCode(), got.Trouble(), c.state, c.code, c.err)
		}
	}
}

func TestFinishedAt(t *testing.T) {
	const died = `{"at":"2026-01-02T03:04:05Z","reason":"x"}`
	c, err := Parse(vmWith(t, vsphere.PoweredOff, &tetherv1.Status{State: tetherv1.State_RUNNING, StartedUnixNano: 1}, died))
	if err != nil {
		t.Fatal(err)
	}
	if want := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC); !c.FinishedAt().Equal(want) {
		t.Errorf("finished at %v, want the machine's end %v", c.FinishedAt(), want)
	}
}

// TestParseHostile: what a guest writes is never trusted.
func TestParseHostile(t *testing.T) {
	vm := vmWith(t, vsphere.PoweredOn, nil, "")
	vm.Extra[link.KeyStatus] = "{nonsense"
	c, err := Parse(vm)
	if err != nil || c.Status != nil || !c.Running() {
		t.Errorf("parse with a nonsensical status: %+v, %v", c.Status, err)
	}
}

func TestMerge(t *testing.T) {
	img := image.Image{Docker: dockerspec.DockerOCIImage{Config: dockerspec.DockerOCIImageConfig{ImageConfig: ocispec.ImageConfig{
		User: "app", Env: []string{"A=image", "B=image"}, Entrypoint: []string{"entry"}, Cmd: []string{"cmd"},
		WorkingDir: "/app", StopSignal: "INT", Labels: map[string]string{"l": "image", "m": "image"},
		ExposedPorts: map[string]struct{}{"80/tcp": {}, "nonsense": {}},
	}}}}
	for _, c := range []struct {
		name string
		in   container.Config
		args string
	}{
		{"nothing of its own", container.Config{}, "entry cmd"},
		{"command", container.Config{Cmd: []string{"x"}}, "entry x"},
		{"entrypoint drops the command", container.Config{Entrypoint: []string{"e"}}, "e"},
		{"entrypoint and command", container.Config{Entrypoint: []string{"e"}, Cmd: []string{"x"}}, "e x"},
		{"no entrypoint", container.Config{Entrypoint: []string{""}, Cmd: []string{"x"}}, "x"},
	} {
		merge(&c.in, img)
		if got := strings.Join(append(c.in.Entrypoint, c.in.Cmd...), " "); got != c.args {
			t.Errorf("%s: runs %q, want %q", c.name, got, c.args)
		}
	}
	own := container.Config{User: "me", Env: []string{"B=mine", "A"}, Labels: map[string]string{"l": "mine"}}
	merge(&own, img)
	if own.User != "me" || own.WorkingDir != "/app" || own.StopSignal != "INT" || !slices.Equal(own.Env, []string{"B=mine", "A"}) ||
		own.Labels["l"] != "mine" || own.Labels["m"] != "image" || len(own.ExposedPorts) != 1 {
		t.Errorf("merged to %+v", own)
	}
}

func TestEnvironment(t *testing.T) {
	got := environment("h", true, []string{"X=1", "PATH=/bin", "TERM", "X=2"})
	if want := []string{"PATH=/bin", "HOSTNAME=h", "X=2"}; !slices.Equal(got, want) {
		t.Errorf("environment %q, want %q", got, want)
	}
}

func TestSize(t *testing.T) {
	for _, c := range []struct {
		in   container.Resources
		want size
	}{
		{container.Resources{}, size{1, 512, 0}},
		{container.Resources{Memory: 100*mib + 1, NanoCPUs: 1.5e9}, size{2, 101, 1.5}},
		{container.Resources{CPUQuota: 250_000}, size{3, 512, 2.5}},
		{container.Resources{CPUQuota: -1, NanoCPUs: 1e7}, size{1, 512, 0.01}},
	} {
		if got := sizeOf(&c.in); got != c.want {
			t.Errorf("size of %+v = %+v, want %+v", c.in, got, c.want)
		}
	}
	for _, bad := range []container.Resources{{Memory: 1}, {Memory: -1}, {NanoCPUs: -1}, {NanoCPUs: 1e15}, {Memory: 128 * mib, MemorySwap: 64 * mib}} {
		if err := checkSize(&bad); !errdefs.IsInvalidArgument(err) {
			t.Errorf("size %+v: %v, want it refused", bad, err)
		}
	}
}

func TestCheck(t *testing.T) {
	cmd := container.Config{Cmd: []string{"x"}}
	with := func(change func(*container.Config, *container.HostConfig)) error {
		c, h := cmd, container.HostConfig{}
		change(&c, &h)
		return check(&c, &h)
	}
	for name, c := range map[string]struct {
		is     func(error) bool
		change func(*container.Config, *container.HostConfig)
	}{
		"no command":      {errdefs.IsInvalidArgument, func(c *container.Config, _ *container.HostConfig) { c.Cmd = nil }},
		"relative cwd":    {errdefs.IsInvalidArgument, func(c *container.Config, _ *container.HostConfig) { c.WorkingDir = "a" }},
		"bad signal":      {errdefs.IsInvalidArgument, func(c *container.Config, _ *container.HostConfig) { c.StopSignal = "NOPE" }},
		"bad variable":    {errdefs.IsInvalidArgument, func(c *container.Config, _ *container.HostConfig) { c.Env = []string{"=x"} }},
		"unknown runtime": {errdefs.IsInvalidArgument, func(_ *container.Config, h *container.HostConfig) { h.Runtime = "kata" }},
		"host pid":        {errdefs.IsNotImplemented, func(_ *container.Config, h *container.HostConfig) { h.PidMode = "host" }},
	} {
		if err := with(c.change); !c.is(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := with(func(*container.Config, *container.HostConfig) {}); err != nil {
		t.Errorf("plain request refused: %v", err)
	}
}

func TestNames(t *testing.T) {
	id := ident.New()
	if len(id) != 64 || len(ident.UUID(id)) != 36 || ident.New() == id {
		t.Errorf("ID %q, UUID %q", id, ident.UUID(id))
	}
	taken := map[string]string{}
	for range 200 {
		name := freeName(taken)
		if _, dup := taken[name]; dup || !validName.MatchString(name) {
			t.Fatalf("name %q is taken or not valid", name)
		}
		taken[name] = "x"
	}
}

func FuzzHostEntries(f *testing.F) {
	for _, s := range []string{"a:1.2.3.4", "a=::1", "a:[::1]", "a:host-gateway", ":", "="} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		hosts, err := hostEntries([]string{s}, []record.Endpoint{{Network: "n", Gateway4: netip.MustParseAddr("172.17.0.1")}})
		if err == nil && (len(hosts) != 1 || hosts[0].Address == "" || hosts[0].Names[0] == "") {
			t.Errorf("hostEntries(%q) = %v", s, hosts)
		}
	})
}

func TestWaiter(t *testing.T) {
	off, on := vmWith(t, vsphere.PoweredOff, nil, ""), vmWith(t, vsphere.PoweredOn, nil, "")
	done := func(code int32, at int64) vsphere.VM {
		return inRun(at, vmWith(t, vsphere.PoweredOff, &tetherv1.Status{State: tetherv1.State_EXITED, Exit: &tetherv1.Exit{Code: code, UnixNano: at}}, ""))
	}
	first, second := done(3, 1), done(4, 2)
	offAgain, onAgain := inRun(2, off), inRun(2, on)
	for _, c := range []struct {
		name      string
		condition container.WaitCondition
		from      vsphere.VM
		events    []*vsphere.VM // nil: gone
		met       int           // by how many events
		code      int
	}{
		{"next exit", container.WaitConditionNextExit, off, []*vsphere.VM{&on, &first}, 2, 3},
		{"a run too short to be seen", container.WaitConditionNextExit, first, []*vsphere.VM{&second}, 1, 4},
		{"what an earlier run said vanishes at the start", container.WaitConditionNextExit, first, []*vsphere.VM{&offAgain, &onAgain, &second}, 3, 4},
		{"a start that failed", container.WaitConditionNextExit, first, []*vsphere.VM{&offAgain, &first, &onAgain, &second}, 4, 4},
		{"removed", container.WaitConditionRemoved, on, []*vsphere.VM{&first, nil}, 2, 3},
		{"removed before its next exit", container.WaitConditionNextExit, on, []*vsphere.VM{nil}, 1, 0},
	} {
		from, err := Parse(c.from)
		if err != nil {
			t.Fatal(err)
		}
		w := &waiter{condition: c.condition, vm: c.from.Ref, last: from}
		before := &c.from
		for i, vm := range c.events {
			if w.met {
				t.Errorf("%s: met after %d events, want %d", c.name, i, c.met)
			}
			w.see(vsphere.VMEvent{Before: before, After: vm})
			before = vm
		}
		if !w.met || w.last.ExitCode() != c.code {
			t.Errorf("%s: met %v, code %d; want %d", c.name, w.met, w.last.ExitCode(), c.code)
		}
	}
}
