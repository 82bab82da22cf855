package daemon_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/containervm/containervm/hostd-bridge/daemon"
	"github.com/containervm/containervm/hostd-bridge/daemon/daemontest"
	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/frames"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/vmtest"
)

// withSwitches are machines in memory with switches that are processes.
type withSwitches struct {
	*vmtest.Hypervisor
	switches vm.Switches
}

func (b withSwitches) StartSwitch(ctx context.Context, dir, name string) (vm.Switch, error) {
	return b.switches.StartSwitch(ctx, dir, name)
}

func (b withSwitches) AdoptSwitch(ctx context.Context, dir string) (vm.Switch, error) {
	return b.switches.AdoptSwitch(ctx, dir)
}

// realNet is a daemon with real switches, and the one VM, which publishes a port.
type realNet struct {
	*daemontest.Host
	t    *testing.T
	port string
}

func (r *realNet) state() hostapi.NetworkState {
	r.t.Helper()
	var all hostapi.Networks
	if err := json.Unmarshal(body(r.t, r.Endpoint, connect(r.t, r.Endpoint), hostapi.RouteNetworks), &all); err != nil {
		r.t.Fatal(err)
	}
	return all.Networks[0]
}

// await asks again and again until holds: no event tells of switches, since they are no VMs.
func (r *realNet) await(what string, holds func(hostapi.NetworkState) bool) hostapi.NetworkState {
	r.t.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		state := r.state()
		if holds(state) {
			return state
		}
		if time.Now().After(end) {
			r.t.Fatalf("waited for: %s; the network is %+v", what, state)
		}
	}
}

// listens says whether somebody takes connections to the port. The switch resets them, since there is no guest.
func (r *realNet) listens() bool {
	c, err := net.DialTimeout("tcp", "127.0.0.1:"+r.port, 5*time.Second)
	if err == nil {
		_ = c.Close()
	}
	return !errors.Is(err, syscall.ECONNREFUSED)
}

// TestRealSwitch: a real switch is started for a VM, holds its port, knows its card, outlives its daemon, is started again when it
// is killed itself, and ends with its VM.
func TestRealSwitch(t *testing.T) {
	h := daemontest.StartOn(t, nil, func(hv *vmtest.Hypervisor) daemon.Backend {
		return withSwitches{hv, daemon.RealSwitches(os.Args[0], slog.New(slog.DiscardHandler))}
	})
	r := &realNet{Host: h, t: t}
	c := connect(t, h.Endpoint)
	put(t, h.Endpoint, c, hostapi.RouteNetworks+"/VM%20Network", `{"gateways":["172.17.0.1/16"]}`, 204)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, r.port, _ = net.SplitHostPort(taken.Addr().String())
	s := spec(t, h.Endpoint, "web")
	addDevice(&types.VirtualVmxnet3{})(&s)
	s.ExtraConfig = append(s.ExtraConfig, &types.OptionValue{Key: hostapi.KeyNet, Value: `{"endpoints":[{"network":"VM Network","addresses":["172.17.0.2"]}],
		"publish":[{"protocol":"tcp","hostIP":"127.0.0.1","hostPort":` + r.port + `,"port":80}]}`})
	ref, err := create(t, c, s)
	if err != nil {
		t.Fatal(err)
	}
	refuses(t, h.Endpoint, "Bind for 127.0.0.1:"+r.port+" failed: port is already allocated", "vm.power", "-on", "web")
	if v := retrieve(t, c, ref); v.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOff {
		t.Errorf("the VM is %s", v.Runtime.PowerState)
	}
	_ = taken.Close()
	t.Cleanup(func() {
		if log, err := os.ReadFile(filepath.Join(h.Config().RunDir, "net", "network-10", "switch.log")); t.Failed() {
			t.Logf("the switch's log: %s, %v", log, err)
		}
	})
	mustGovc(t, h.Endpoint, "vm.power", "-on", "web")
	if !r.listens() {
		t.Error("nobody listens on the published port")
	}
	r.joins(ref.Value)

	first := r.await("a switch", func(n hostapi.NetworkState) bool { return n.Switch != 0 }).Switch
	h.Stop()
	if !r.listens() {
		t.Error("nobody listens on the published port while there is no daemon")
	}
	h.Run()
	if now := r.await("the switch is adopted", func(n hostapi.NetworkState) bool { return n.Switch != 0 }).Switch; now != first {
		t.Errorf("switch %d, was %d", now, first)
	}
	if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	r.await("another switch", func(n hostapi.NetworkState) bool { return n.Switch != 0 && n.Switch != first && r.listens() })
	r.joins(ref.Value)
	wants(t, string(body(t, h.Endpoint, connect(t, h.Endpoint), hostapi.RouteMetrics)), "containervm_switches 1", "containervm_switch_restarts_total 1", "containervm_forged_frames_total 0")

	mustGovc(t, h.Endpoint, "vm.power", "-off", "web")
	if r.listens() {
		t.Error("somebody listens on the port of a VM that is off")
	}
	last := r.state().Switch
	h.Stop()
	for syscall.Kill(last, 0) == nil { // until it is reaped
		time.Sleep(time.Millisecond)
	}
	if left, _ := filepath.Glob(filepath.Join(h.Config().RunDir, "net", "*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	h.Run()
}

// joins has the VM's card join the switch as its supervisor does: it tries again until the switch knows the card.
func (r *realNet) joins(ref string) {
	r.t.Helper()
	nic := r.Hypervisor.Machine(ref).NICs()[0]
	var err error
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if err = r.tryToJoin(ref, nic); err == nil {
			return
		}
	}
	r.t.Fatalf("the card %+v cannot join: %v", nic, err)
}

// tryToJoin joins and has the gateway answer a question for its address.
func (r *realNet) tryToJoin(ref string, nic vm.NIC) error {
	conn, err := frames.Dial(r.t.Context(), filepath.Dir(nic.Frames), frames.Hello{VM: ref, MAC: nic.MAC})
	if err != nil {
		return err
	}
	defer conn.Close()
	mac, err := net.ParseMAC(nic.MAC)
	if err != nil {
		return err
	}
	arp := append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, mac...)
	arp = append(arp, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1) // RFC 826: who has 172.17.0.1
	arp = append(append(arp, mac...), 172, 17, 0, 2, 0, 0, 0, 0, 0, 0, 172, 17, 0, 1)
	if _, err := conn.Write(frames.Append(nil, arp)); err != nil {
		return err
	}
	_ = conn.SetReadDeadline(time.Now().Add(2 * time.Second))
	batch, err := frames.NewReader(conn).Batch()
	if err != nil {
		return err
	}
	for f := range frames.All(batch) {
		if len(f) >= 42 && string(f[28:32]) == "\xac\x11\x00\x01" {
			return nil
		}
	}
	return fmt.Errorf("%d bytes, and no answer: %w", len(batch), io.ErrUnexpectedEOF)
}

// TestNetworkRoutes: the settings of networks are set and shown; what they cannot be is refused.
func TestNetworkRoutes(t *testing.T) {
	h := daemontest.Start(t, nil, func(c *daemon.Config) {
		c.HostGateway = []hostapi.PortRange{{Protocol: hostapi.TCP, First: 1, Last: 2}}
	})
	c := connect(t, h.Endpoint)
	path := hostapi.RouteNetworks + "/VM%20Network"
	put(t, h.Endpoint, c, path, `{"gateways":["172.17.0.1/16","fd00::1/64"],"mtu":1400}`, 204)
	h.Stop()
	h.Run()
	c = connect(t, h.Endpoint)
	want := `{"networks":[{"name":"VM Network","network":"network-10","settings":{"gateways":["172.17.0.1/16","fd00::1/64"],"mtu":1400},"cards":0}],` +
		`"hostGateway":[{"protocol":"tcp","first":1,"last":2}]}`
	if got := strings.TrimSpace(string(body(t, h.Endpoint, c, hostapi.RouteNetworks))); got != want {
		t.Errorf("networks %s", got)
	}
	put(t, h.Endpoint, c, path, `{"gateway":"172.17.0.1/16"}`, 400)
	put(t, h.Endpoint, c, path, `{"mtu":67}`, 400)
	put(t, h.Endpoint, c, path, `{}{}`, 400)
	put(t, h.Endpoint, c, path, `{"mtu":`+strings.Repeat(" ", hostapi.MaxNetworkSettings)+`1400}`, 400)
	put(t, h.Endpoint, c, hostapi.RouteNetworks+"/nope", `{}`, 404)
	put(t, h.Endpoint, nil, path, `{}`, 401)
}
