package vmhost_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/netswitch"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/vmhost"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/vmtest"
)

// netHost is a host with a network beside the one that every host has; both have gateways. Switches that nobody needs end soon.
func netHost(t *testing.T, guest vmtest.Guest, edits ...func(*vmhost.Options)) (h *host, blue string) {
	h = newHost(t, guest, append([]func(*vmhost.Options){func(o *vmhost.Options) { o.Linger = time.Millisecond }}, edits...)...)
	t.Cleanup(func() { _ = h.Close() })
	blue, err := h.CreateNetwork("cvm-blue")
	h.must(err)
	h.must(h.SetNetwork(vm.DefaultNetwork, hostapi.NetworkSettings{Gateways: []netip.Prefix{netip.MustParsePrefix("172.17.0.1/16")}}))
	h.must(h.SetNetwork(blue, hostapi.NetworkSettings{Gateways: []netip.Prefix{netip.MustParsePrefix("172.18.0.1/16"), netip.MustParsePrefix("fd00::1/64")}}))
	return h, blue
}

// at is a configuration with cards in networks, and what the VM is there.
func at(name string, net string, networks ...string) vm.Config {
	c := config(name)
	c.NICs = nil
	for _, n := range networks {
		c.NICs = append(c.NICs, vm.Card{Network: n, NIC: vm.NIC{Connected: true}})
	}
	if net != "" {
		c.Extra[hostapi.KeyNet] = net
	}
	return c
}

const (
	bridged = `{"endpoints":[{"network":"VM Network","addresses":["172.17.0.2"],"names":["one"]}]}`
	web     = `{"endpoints":[{"network":"VM Network","addresses":["172.17.0.2"],"names":["web"]}],
		"publish":[{"protocol":"tcp","hostIP":"0.0.0.0","hostPort":8080,"port":80},{"protocol":"tcp","hostIP":"0.0.0.0","hostPort":0,"port":81}]}`
)

// awaitSwitch waits until the switch of a network satisfies holds.
func (h *host) awaitSwitch(ref string, holds func(s *vmtest.Switch, told netswitch.Config) bool) *vmtest.Switch {
	h.t.Helper()
	s, err := h.hv.AwaitSwitch(h.t.Context(), ref, holds)
	h.must(err)
	return s
}

func gone(s *vmtest.Switch, _ netswitch.Config) bool { return s == nil }

func has(vms ...string) func(*vmtest.Switch, netswitch.Config) bool {
	return func(s *vmtest.Switch, told netswitch.Config) bool {
		if s == nil || len(told.Endpoints) != len(vms) {
			return false
		}
		for i, e := range told.Endpoints {
			if e.VM != vms[i] {
				return false
			}
		}
		return true
	}
}

func (h *host) wantPorts(want ...string) {
	h.t.Helper()
	got := h.hv.Ports()
	slices.Sort(got)
	if !slices.Equal(got, want) {
		h.t.Errorf("ports %v, want %v", got, want)
	}
}

func (h *host) published(ref string) (ports []uint16) {
	h.t.Helper()
	all, err := hostapi.DecodePublished(h.vm(ref).ExtraConfig()[hostapi.KeyPublished])
	h.must(err)
	for _, p := range all {
		ports = append(ports, p.HostPort)
	}
	return ports
}

// TestSwitchFollowsItsVMs: a switch runs as long as a VM that is on has a connected card in its network, and is told all of them.
func TestSwitchFollowsItsVMs(t *testing.T) {
	h, blue := netHost(t, vmtest.Idle, func(o *vmhost.Options) {
		o.HostGateway = []hostapi.PortRange{{Protocol: hostapi.TCP, First: 5432, Last: 5432}}
	})
	one := h.create(at("one", bridged, vm.DefaultNetwork), nil)
	two := h.create(at("two", `{"endpoints":[{"network":"cvm-blue","addresses":["172.18.0.2"]},
		{"network":"VM Network","addresses":["172.17.0.3"],"names":["two"]}],"hostGateway":true}`, vm.DefaultNetwork, blue), nil)
	three := h.create(at("three", `{"endpoints":[{"network":"cvm-blue","addresses":["172.18.0.3","fd00::3"],"names":["three"]}]}`, blue), nil)
	if n := h.hv.StartedSwitches(); n != 0 {
		t.Errorf("%d switches for VMs that are off", n)
	}
	for _, ref := range []string{one, two, three} {
		h.must(h.PowerOn(t.Context(), ref))
	}
	h.awaitSwitch(vm.DefaultNetwork, has(one, two))
	s := h.awaitSwitch(blue, has(two, three))
	if h.hv.Machine(one).Spec.NICs[0].Frames != filepath.Join(h.dir, "net", vm.DefaultNetwork, "frames.sock") {
		t.Errorf("the machine's cards: %+v", h.hv.Machine(one).Spec.NICs)
	}
	told := s.Config()
	if told.Name != "cvm-blue" || len(told.Gateways) != 2 || len(told.HostGateway) != 1 || len(told.Denied) != 1 || told.Denied[0].String() != "172.17.0.0/16" {
		t.Errorf("the switch was told %+v", told)
	}
	first := told.Endpoints[0]
	if first.MAC != h.vm(two).NICs[1].MAC || !first.HostGateway || first.Addresses[0].String() != "172.18.0.2" || len(first.Others) != 2 || first.Others[0].Name != "one" {
		t.Errorf("the endpoint is %+v", first)
	}
	state := h.Switches.State()
	if len(state.Networks) != 2 || state.Networks[1].Switch != s.PID() || state.Networks[1].Cards != 2 || len(state.HostGateway) != 1 {
		t.Errorf("state %+v", state)
	}
	h.must(h.PowerOff(t.Context(), one))
	h.awaitSwitch(vm.DefaultNetwork, has(two))
	off := false
	h.must(h.Reconfigure(t.Context(), two, vm.Change{Cards: vm.CardChanges{Edit: map[int32]vm.CardEdit{4000: {Connected: &off}}}}))
	h.awaitSwitch(vm.DefaultNetwork, gone)
	h.must(h.PowerOff(t.Context(), two))
	h.must(h.PowerOff(t.Context(), three))
	h.awaitSwitch(blue, gone)
	if _, err := os.Stat(filepath.Join(h.dir, "net", blue)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the switch's directory: %v", err)
	}
}

// TestFrozenVMsAreInNoNetwork: a template stands still; its children are in their networks as themselves.
func TestFrozenVMsAreInNoNetwork(t *testing.T) {
	h, blue := netHost(t, freezer)
	source := h.create(at("template", "", vm.DefaultNetwork), nil)
	h.must(h.PowerOn(t.Context(), source))
	h.wait(source, frozen)
	h.awaitSwitch(vm.DefaultNetwork, gone)
	child, err := h.InstantClone(t.Context(), source, vm.CloneSpec{Name: "child", Extra: map[string]string{hostapi.KeyNet: web}})
	h.must(err)
	s := h.awaitSwitch(vm.DefaultNetwork, has(child))
	if told := s.Config(); told.Endpoints[0].MAC == h.vm(source).NICs[0].MAC || told.Endpoints[0].Names[0] != "web" {
		t.Errorf("the switch was told %+v", told)
	}
	if got := h.published(child); len(got) != 2 || got[0] != 8080 {
		t.Errorf("published %v", got)
	}
	var port *vm.PortError
	if _, err := h.InstantClone(t.Context(), source, vm.CloneSpec{Name: "second", Extra: map[string]string{hostapi.KeyNet: web}}); !errors.As(err, &port) {
		t.Errorf("a port that is taken: %v", err)
	}
	if len(h.List()) != 2 || h.exists("second") {
		t.Error("something is left of the clone")
	}
	other, err := h.InstantClone(t.Context(), source, vm.CloneSpec{
		Name: "second", Cards: vm.CardChanges{Edit: map[int32]vm.CardEdit{4000: {Network: blue}}},
	})
	h.must(err)
	h.awaitSwitch(blue, has(other))
	h.must(h.PowerOff(t.Context(), child))
	h.wantPorts()
}

// TestPublications: a VM's ports are bound before it is on, stay as they are, and are free when it is off. One that is taken fails the
// start with Docker's words and changes nothing.
func TestPublications(t *testing.T) {
	h, _ := netHost(t, vmtest.Idle)
	ref := h.create(at("web", web, vm.DefaultNetwork), nil)
	h.hv.TakePort("tcp", 8080, true)
	before := h.vm(ref)
	var port *vm.PortError
	err := h.PowerOn(t.Context(), ref)
	if !errors.As(err, &port) || err.Error() != "Bind for 0.0.0.0:8080 failed: port is already allocated" {
		t.Errorf("a port that is taken: %v", err)
	}
	h.wantPorts()
	if now := h.vm(ref); now.Version != before.Version || !maps.Equal(now.Extra, before.Extra) {
		t.Errorf("the VM was changed: %v, it was %v", now.Extra, before.Extra)
	}
	h.hv.TakePort("tcp", 8080, false)
	h.must(h.PowerOn(t.Context(), ref))
	h.wantPorts("tcp/40000", "tcp/8080")
	if got := h.published(ref); !slices.Equal(got, []uint16{8080, 40000}) {
		t.Errorf("published %v", got)
	}
	h.restart()
	h.awaitSwitch(vm.DefaultNetwork, has(ref))
	if got := h.published(ref); !slices.Equal(got, []uint16{8080, 40000}) {
		t.Errorf("published after a restart %v", got)
	}
	h.hv.Machine(ref).Kill()
	h.wait(ref, off)
	h.wantPorts() // who sees the VM off finds its ports free
	if got := h.published(ref); got != nil {
		t.Errorf("published when it is off: %v", got)
	}
	h.hv.FailStart(errors.New("no QEMU"))
	if err := h.PowerOn(t.Context(), ref); err == nil {
		t.Error("power-on succeeded")
	}
	h.wantPorts()
	if v := h.vm(ref); v.Published != nil {
		t.Errorf("published after a failed start: %v", v.Published)
	}
}

// TestPublicationsChange: ports come and go while the VM runs; those that stay keep what they were given. They are bound before the
// guest is told.
func TestPublicationsChange(t *testing.T) {
	h, blue := netHost(t, vmtest.Idle)
	ref := h.create(at("web", web, vm.DefaultNetwork), nil)
	h.must(h.PowerOn(t.Context(), ref))
	next := strings.Replace(web, "8080", "9090", 1)
	told := false
	h.hv.On(vmtest.Tell, func() error {
		told = true
		if ports := h.hv.Ports(); len(ports) != 3 { // the old one until it has succeeded
			t.Errorf("ports when the guest is told: %v", ports)
		}
		return nil
	})
	h.must(h.Reconfigure(t.Context(), ref, vm.Change{Extra: map[string]string{hostapi.KeyNet: next, "guestinfo.gate": "open"}}))
	h.hv.On(vmtest.Tell, nil)
	if got := h.published(ref); !told || !slices.Equal(got, []uint16{9090, 40000}) {
		t.Errorf("published %v", got)
	}
	h.wantPorts("tcp/40000", "tcp/9090")
	h.hv.TakePort("tcp", 7070, true)
	before := h.vm(ref)
	var port *vm.PortError
	if err := h.Reconfigure(t.Context(), ref, vm.Change{Extra: map[string]string{hostapi.KeyNet: strings.Replace(web, "8080", "7070", 1)}}); !errors.As(err, &port) {
		t.Errorf("a port that is taken: %v", err)
	}
	h.wantPorts("tcp/40000", "tcp/9090")
	if now := h.vm(ref); !reflect.DeepEqual(now.Config, before.Config) || !slices.Equal(now.Published, before.Published) { // it may boot on
		t.Errorf("the VM was changed: %+v, was %+v", now, before)
	}
	h.hv.On(vmtest.Tell, func() error { return errors.New("no answer") })
	if err := h.Reconfigure(t.Context(), ref, vm.Change{Extra: map[string]string{hostapi.KeyNet: web, "guestinfo.gate": ""}}); err == nil {
		t.Error("the change succeeded")
	}
	h.hv.On(vmtest.Tell, nil)
	h.wantPorts("tcp/40000", "tcp/9090")
	// a port goes with its VM from one network to another, in one change
	moved := `{"endpoints":[{"network":"cvm-blue","addresses":["172.18.0.2"]}],"publish":[{"protocol":"tcp","hostIP":"0.0.0.0","hostPort":9090,"port":80}]}`
	h.must(h.Reconfigure(t.Context(), ref, vm.Change{
		Extra: map[string]string{hostapi.KeyNet: moved},
		Cards: vm.CardChanges{Remove: []int32{4000}, Add: []vm.Card{{Network: blue, NIC: vm.NIC{Connected: true}}}},
	}))
	h.wantPorts("tcp/9090")
	h.awaitSwitch(vm.DefaultNetwork, gone)
	h.must(h.Reconfigure(t.Context(), ref, vm.Change{Extra: map[string]string{hostapi.KeyNet: ""}}))
	h.wantPorts()
}

// TestNetRefusals: what a VM wants to be where it is not is refused with the reason.
func TestNetRefusals(t *testing.T) {
	h, blue := netHost(t, vmtest.Idle)
	inner, err := h.CreateNetwork("inner")
	h.must(err)
	h.must(h.SetNetwork(inner, hostapi.NetworkSettings{Internal: true, Gateways: []netip.Prefix{netip.MustParsePrefix("172.19.0.1/16")}}))
	bare, err := h.CreateNetwork("bare")
	h.must(err)
	port := `"publish":[{"protocol":"tcp","hostIP":"0.0.0.0","hostPort":8080,"port":80}]`
	for text, tc := range map[string]struct{ net, network string }{
		`no network adapter in network "cvm-blue"`: {`{"endpoints":[{"network":"cvm-blue"}]}`, vm.DefaultNetwork},
		`it is internal`: {`{"endpoints":[{"network":"inner","addresses":["172.19.0.2"]}],` + port + `}`, inner},
		`no address there that its gateway reaches`:   {`{"endpoints":[{"network":"cvm-blue"}],` + port + `}`, blue},
		`no address there that its gateway reaches. `: {`{"endpoints":[{"network":"bare","addresses":["172.20.0.2"]}],` + port + `}`, bare},
	} {
		ref := h.create(at("x", tc.net, tc.network), nil)
		var argument *vm.ArgumentError
		if err := h.PowerOn(t.Context(), ref); !errors.As(err, &argument) || !strings.Contains(err.Error(), strings.TrimSuffix(text, ". ")) {
			t.Errorf("%s: %v", text, err)
		}
		h.must(h.Destroy(t.Context(), ref))
	}
	var inUse *vm.InUseError
	ref := h.create(at("x", "", inner), nil)
	if err := h.RemoveNetwork(inner); !errors.As(err, &inUse) {
		t.Errorf("a network with a card: %v", err)
	}
	h.must(h.Destroy(t.Context(), ref))
	h.must(h.RemoveNetwork(inner))
	if _, err := h.Create(t.Context(), at("x", "", inner), nil); !errors.As(err, new(*vm.NetworkError)) {
		t.Errorf("a card in a network that is gone: %v", err)
	}
	if err := h.SetNetwork(blue, hostapi.NetworkSettings{MTU: 1}); !errors.As(err, new(*vm.ArgumentError)) {
		t.Errorf("an MTU of 1: %v", err)
	}
}

// TestSwitchKilled: a switch that is killed is started again, with the same cards and ports. So is one that hangs.
func TestSwitchKilled(t *testing.T) {
	h, _ := netHost(t, vmtest.Idle)
	ref := h.create(at("web", web, vm.DefaultNetwork), nil)
	h.must(h.PowerOn(t.Context(), ref))
	for n := range 3 {
		s := h.hv.Switch(vm.DefaultNetwork)
		s.Forge(int64(n))
		s.Kill()
		again := h.awaitSwitch(vm.DefaultNetwork, func(s2 *vmtest.Switch, told netswitch.Config) bool {
			return s2 != nil && s2 != s && len(told.Endpoints) == 1
		})
		if again.PID() == s.PID() {
			t.Error("the same switch")
		}
	}
	h.wantPorts("tcp/40000", "tcp/8080")
	if c := h.Switches.Counts(t.Context()); c.Running != 1 || c.Restarts != 3 {
		t.Errorf("counts %+v", c)
	}
	h.hv.On(vmtest.Apply, func() error { return errors.New("the switch ends") })
	second := h.create(at("second", "", vm.DefaultNetwork), nil)
	h.must(h.PowerOn(t.Context(), second)) // it waits for nothing
	h.hv.On(vmtest.Apply, nil)
	h.awaitSwitch(vm.DefaultNetwork, has(ref, second))
}

// TestSwitchDiesUnderAnOperation: a start whose switch dies, or is not to be had, gets another one, or an error that leaves nothing.
func TestSwitchDiesUnderAnOperation(t *testing.T) {
	h, _ := netHost(t, vmtest.Idle)
	ref := h.create(at("web", web, vm.DefaultNetwork), nil)
	times := 0
	h.hv.On(vmtest.Apply, func() error {
		if times++; times == 1 {
			return errors.New("the switch ends")
		}
		return nil
	})
	h.must(h.PowerOn(t.Context(), ref))
	h.wantPorts("tcp/40000", "tcp/8080")
	h.must(h.PowerOff(t.Context(), ref))
	h.awaitSwitch(vm.DefaultNetwork, gone)
	h.hv.On(vmtest.StartSwitch, func() error { return errors.New("no cvm-switch") })
	if err := h.PowerOn(t.Context(), ref); err == nil || !strings.Contains(err.Error(), "no cvm-switch") {
		t.Errorf("a switch that is not to be had: %v", err)
	}
	h.hv.On(vmtest.StartSwitch, nil)
	h.must(h.PowerOn(t.Context(), ref))
}

// TestSwitchHangs: a switch that does not answer is replaced, under an operation too, which succeeds.
func TestSwitchHangs(t *testing.T) {
	h, _ := netHost(t, vmtest.Idle, func(o *vmhost.Options) { o.Patience = 20 * time.Millisecond })
	quiet := h.create(at("quiet", "", vm.DefaultNetwork), nil)
	h.must(h.PowerOn(t.Context(), quiet))
	s := h.awaitSwitch(vm.DefaultNetwork, has(quiet))
	var hangs atomic.Bool
	hangs.Store(true)
	h.hv.On(vmtest.Apply, func() error {
		if hangs.Load() && h.hv.Switch(vm.DefaultNetwork) == s {
			return vmtest.ErrHang
		}
		return nil
	})
	ref := h.create(at("web", web, vm.DefaultNetwork), nil)
	h.must(h.PowerOn(t.Context(), ref))
	h.wantPorts("tcp/40000", "tcp/8080")
	if again := h.awaitSwitch(vm.DefaultNetwork, has(quiet, ref)); again == s {
		t.Error("the switch that hangs is still there")
	}
	h.hv.On(vmtest.Apply, func() error { return vmtest.ErrHang })
	other := h.create(at("other", strings.Replace(web, "8080", "8081", 1), vm.DefaultNetwork), nil)
	if err := h.PowerOn(t.Context(), other); !errors.Is(err, context.DeadlineExceeded) || !off(h.vm(other)) {
		t.Errorf("no switch answers: %v", err)
	}
	h.hv.On(vmtest.Apply, nil)
	h.awaitSwitch(vm.DefaultNetwork, has(quiet, ref))
	h.wantPorts("tcp/40000", "tcp/8080")
}

// TestLostPortComesBack: a port that another program took while the switch was away is lost to its VM, which stays in its network,
// and is bound again with the next switch.
func TestLostPortComesBack(t *testing.T) {
	h, _ := netHost(t, vmtest.Idle)
	ref := h.create(at("web", web, vm.DefaultNetwork), nil)
	h.must(h.PowerOn(t.Context(), ref))
	s := h.hv.Switch(vm.DefaultNetwork)
	h.hv.On(vmtest.StartSwitch, func() error {
		h.hv.TakePort("tcp", 8080, true)
		return nil
	})
	s.Kill()
	again := h.awaitSwitch(vm.DefaultNetwork, func(s2 *vmtest.Switch, told netswitch.Config) bool {
		return s2 != nil && s2 != s && len(told.Endpoints) == 1 && len(told.Endpoints[0].Publish) == 1
	})
	h.wantPorts("tcp/40000")
	h.hv.On(vmtest.StartSwitch, nil)
	h.hv.TakePort("tcp", 8080, false)
	again.Kill()
	h.awaitSwitch(vm.DefaultNetwork, func(s2 *vmtest.Switch, told netswitch.Config) bool {
		return s2 != nil && s2 != again && len(told.Endpoints) == 1 && len(told.Endpoints[0].Publish) == 2
	})
	h.wantPorts("tcp/40000", "tcp/8080")
}

// TestDaemonFindsItsSwitches: a daemon that was killed finds the switches that run, starts those that do not, and ends those that nobody
// needs; nothing that stays the same is touched.
func TestDaemonFindsItsSwitches(t *testing.T) {
	h, blue := netHost(t, vmtest.Idle)
	one := h.create(at("one", web, vm.DefaultNetwork), nil)
	two := h.create(at("two", "", blue), nil)
	h.must(h.PowerOn(t.Context(), one))
	h.must(h.PowerOn(t.Context(), two))
	kept := h.awaitSwitch(vm.DefaultNetwork, has(one))
	dead := h.awaitSwitch(blue, has(two))
	h.must(errors.Join(h.Close(), h.journal.Close(), h.store.Close()))
	dead.Kill()
	stray, err := h.hv.StartSwitch(context.Background(), filepath.Join(h.dir, "net", "network-99"), "stray")
	h.must(err)
	h.open()
	h.awaitSwitch("network-99", gone)
	<-stray.Done()
	if s := h.awaitSwitch(vm.DefaultNetwork, has(one)); s != kept {
		t.Error("the switch was not adopted")
	}
	if s := h.awaitSwitch(blue, has(two)); s == dead {
		t.Error("the switch is dead")
	}
	h.wantPorts("tcp/40000", "tcp/8080")
	h.must(h.PowerOff(t.Context(), one))
	h.must(h.PowerOff(t.Context(), two))
	h.must(errors.Join(h.Close(), h.journal.Close(), h.store.Close()))
	if h.hv.Switch(vm.DefaultNetwork) != nil || h.hv.Switch(blue) != nil {
		t.Error("a switch that nobody needs outlives the daemon")
	}
	h.open()
}

// TestCardsOfAnAdoptedMachine: what a daemon that was killed has done to a machine's cards, and not recorded, the next one undoes.
func TestCardsOfAnAdoptedMachine(t *testing.T) {
	h, blue := netHost(t, vmtest.Idle)
	ref := h.create(at("one", bridged, vm.DefaultNetwork), nil)
	h.must(h.PowerOn(t.Context(), ref))
	before := h.hv.Machine(ref).NICs()[0]
	m, err := h.Machine(ref)
	h.must(err)
	h.must(m.SetNIC(t.Context(), 0, vm.NIC{}))
	h.must(m.SetNIC(t.Context(), 3, vm.NIC{MAC: "02:42:ac:12:00:02", Connected: true, Frames: h.Switches.Socket(blue)}))
	h.restart()
	if nics := h.hv.Machine(ref).NICs(); nics[0] != before || nics[3] != (vm.NIC{}) {
		t.Errorf("cards %+v", nics)
	}
}

// TestPortsAtOnce: of many starts that want one port one gets it, and the others are refused; those that want others all get them.
func TestPortsAtOnce(t *testing.T) {
	h, blue := netHost(t, vmtest.Idle, func(o *vmhost.Options) { o.HostMemoryMiB = 10_000 })
	for what, port := range map[string]func(n int) string{
		"one":    func(int) string { return "8080" },
		"others": func(n int) string { return strconv.Itoa(9000 + n) },
	} {
		var all sync.WaitGroup
		var on atomic.Int32
		for n := range 20 {
			network, name := vm.DefaultNetwork, "VM Network"
			address := fmt.Sprintf("172.17.1.%d", n+2)
			if n%2 == 0 {
				network, name, address = blue, "cvm-blue", fmt.Sprintf("172.18.1.%d", n+2)
			}
			ref := h.create(at(fmt.Sprint(what, n), `{"endpoints":[{"network":"`+name+`","addresses":["`+address+`"]}],
				"publish":[{"protocol":"tcp","hostIP":"0.0.0.0","hostPort":`+port(n)+`,"port":80}]}`, network), nil)
			all.Go(func() {
				err := h.PowerOn(t.Context(), ref)
				if err == nil {
					on.Add(1)
				} else if !errors.As(err, new(*vm.PortError)) {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if want := map[string]int32{"one": 1, "others": 20}[what]; on.Load() != want {
			t.Errorf("%s: %d VMs are on, want %d", what, on.Load(), want)
		}
	}
	if ports := h.hv.Ports(); len(ports) != 21 {
		t.Errorf("ports %v", ports)
	}
}

// TestCardsAreUndone: a change of cards that fails leaves the machine's cards, and the switches, as they were.
func TestCardsAreUndone(t *testing.T) {
	h, blue := netHost(t, vmtest.Idle)
	ref := h.create(at("one", bridged, vm.DefaultNetwork), nil)
	h.must(h.PowerOn(t.Context(), ref))
	before := h.hv.Machine(ref).NICs()
	change := vm.Change{
		Cards: vm.CardChanges{Remove: []int32{4000}, Add: []vm.Card{{Key: 4002, Network: blue, NIC: vm.NIC{Connected: true}}}},
		Extra: map[string]string{hostapi.KeyNet: "", "guestinfo.x": "1"},
	}
	told := 0 // the second time it is told what was before
	h.hv.On(vmtest.Tell, func() error {
		nics := h.hv.Machine(ref).NICs()
		if told++; told == 1 && (nics[0] != before[0] || nics[2].MAC == "") { // the new one is there, and the old one still
			t.Errorf("cards when the guest is told: %+v", nics)
		}
		return errors.New("no answer")
	})
	if err := h.Reconfigure(t.Context(), ref, change); err == nil {
		t.Fatal("the change succeeded")
	}
	if nics := h.hv.Machine(ref).NICs(); nics[0] != before[0] || nics[2] != (vm.NIC{}) || len(h.vm(ref).NICs) != 1 {
		t.Errorf("cards after it: %+v", nics)
	}
	h.awaitSwitch(blue, gone)
	h.hv.On(vmtest.Tell, nil)
	h.must(h.Reconfigure(t.Context(), ref, change))
	if nics := h.hv.Machine(ref).NICs(); nics[0] != (vm.NIC{}) || nics[2].Frames != h.Switches.Socket(blue) {
		t.Errorf("cards after it: %+v", nics)
	}
	h.awaitSwitch(blue, has(ref))
	h.awaitSwitch(vm.DefaultNetwork, gone)
}
