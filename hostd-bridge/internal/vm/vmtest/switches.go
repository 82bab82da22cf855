package vmtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/netswitch"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
)

// firstPort is where the ports begin that switches in memory choose: nobody listens on any of theirs.
const firstPort = 40000

// Switch is a network's switch in memory, as its process would be.
type Switch struct {
	hv   *Hypervisor
	pid  int
	dir  string
	done chan struct{}

	// guarded by Hypervisor.mu
	config  netswitch.Config
	applies int
	forged  int64
}

// switches are those in memory, and the ports that are taken on the host that they pretend to be on.
type switches struct {
	byDir   map[string]*Switch
	started int
	taken   map[string]string // who has a port: the directory of a switch, or "" for another program
}

// switchHandle is a hold on a switch; it implements vm.Switch.
type switchHandle struct {
	*Switch
	once   sync.Once
	closed chan struct{}
}

var _ vm.Switches = (*Hypervisor)(nil)

// StartSwitch implements vm.Switches.
func (h *Hypervisor) StartSwitch(_ context.Context, dir, _ string) (vm.Switch, error) {
	if err := h.at(StartSwitch); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.switches.byDir[dir] != nil {
		return nil, errors.New("a switch lives in " + dir)
	}
	h.switches.started++
	s := &Switch{hv: h, pid: 1_000_000 + h.switches.started, dir: dir, done: make(chan struct{})}
	h.switches.byDir[dir] = s
	defer h.changed.Wake()
	return newSwitchHandle(s), nil
}

// AdoptSwitch implements vm.Switches.
func (h *Hypervisor) AdoptSwitch(_ context.Context, dir string) (vm.Switch, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s := h.switches.byDir[dir]; s != nil {
		return newSwitchHandle(s), nil
	}
	return nil, os.RemoveAll(dir)
}

func newSwitchHandle(s *Switch) *switchHandle {
	return &switchHandle{Switch: s, closed: make(chan struct{})}
}

// Switch returns the running switch of the network with a moref value; nil: there is none.
func (h *Hypervisor) Switch(ref string) *Switch {
	h.mu.Lock()
	defer h.mu.Unlock()
	for dir, s := range h.switches.byDir {
		if filepath.Base(dir) == ref {
			return s
		}
	}
	return nil
}

// AwaitSwitch waits until the switch of a network, nil when there is none, satisfies holds. holds gets what it was told.
func (h *Hypervisor) AwaitSwitch(ctx context.Context, ref string, holds func(s *Switch, told netswitch.Config) bool) (*Switch, error) {
	for {
		changed := h.changed.Changed()
		s := h.Switch(ref)
		var told netswitch.Config
		if s != nil {
			told = s.Config()
		}
		if holds(s, told) {
			return s, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return s, fmt.Errorf("the switch of %s was told %+v: %w", ref, told, ctx.Err())
		}
	}
}

// StartedSwitches is how many switches were ever started.
func (h *Hypervisor) StartedSwitches() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.switches.started
}

// TakePort has another program of the host take a port, or give it back.
func (h *Hypervisor) TakePort(protocol string, port uint16, taken bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if delete(h.switches.taken, portKey(protocol, port)); taken {
		h.switches.taken[portKey(protocol, port)] = ""
	}
}

// Ports are the ports that switches have, as "tcp/80".
func (h *Hypervisor) Ports() (ports []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for port, by := range h.switches.taken {
		if by != "" {
			ports = append(ports, port)
		}
	}
	return ports
}

func portKey(protocol string, port uint16) string { return fmt.Sprintf("%s/%d", protocol, port) }

// PID implements vm.Switch. It is nobody's.
func (s *Switch) PID() int { return s.pid }

// Config is what the switch was told last.
func (s *Switch) Config() netswitch.Config {
	s.hv.mu.Lock()
	defer s.hv.mu.Unlock()
	return s.config
}

// Applies is how often the switch was told something.
func (s *Switch) Applies() int {
	s.hv.mu.Lock()
	defer s.hv.mu.Unlock()
	return s.applies
}

// Forge counts frames that a card has sent from another address.
func (s *Switch) Forge(frames int64) {
	s.hv.mu.Lock()
	defer s.hv.mu.Unlock()
	s.forged += frames
}

// Kill ends the switch as by SIGKILL: its directory stays.
func (s *Switch) Kill() {
	s.hv.mu.Lock()
	defer s.hv.mu.Unlock()
	s.endLocked()
}

func (s *Switch) endLocked() {
	if s.hv.switches.byDir[s.dir] != s {
		return
	}
	delete(s.hv.switches.byDir, s.dir)
	s.freeLocked("")
	close(s.done)
	s.hv.changed.Wake()
}

// freeLocked gives back the ports of a VM, "" of all. The caller holds mu.
func (s *Switch) freeLocked(vm string) {
	for port, by := range s.hv.switches.taken {
		if by == s.dir+"/"+vm || (vm == "" && filepath.Dir(by) == s.dir) {
			delete(s.hv.switches.taken, port)
		}
	}
}

// Apply implements vm.Switch.
func (s *switchHandle) Apply(ctx context.Context, c netswitch.Config) (netswitch.Result, error) {
	if err := s.hv.at(Apply); errors.Is(err, ErrHang) {
		<-ctx.Done()
		return netswitch.Result{}, ctx.Err()
	} else if err != nil {
		return netswitch.Result{}, err
	}
	s.hv.mu.Lock()
	defer s.hv.mu.Unlock()
	if s.hv.switches.byDir[s.dir] != s.Switch {
		return netswitch.Result{}, errors.New("the switch is gone")
	}
	before := map[string]netswitch.Endpoint{}
	for _, e := range s.config.Endpoints {
		before[e.VM] = e
	}
	wanted := map[string]bool{}
	for _, e := range c.Endpoints {
		wanted[e.VM] = true
	}
	for vm := range before {
		if !wanted[vm] {
			s.freeLocked(vm)
		}
	}
	s.config = c
	s.config.Endpoints = nil
	s.applies++
	result := netswitch.Result{Endpoints: map[string]netswitch.Outcome{}}
	for _, e := range c.Endpoints {
		o := s.publishLocked(e)
		if old, was := before[e.VM]; o.Failed == nil {
			e.Publish = o.Published
			s.config.Endpoints = append(s.config.Endpoints, e)
		} else if was {
			s.publishLocked(old)
			s.config.Endpoints = append(s.config.Endpoints, old)
		}
		result.Endpoints[e.VM] = o
	}
	s.hv.changed.Wake()
	return result, nil
}

// publishLocked takes the ports of an endpoint in the place of those that it has. The caller holds mu.
func (s *Switch) publishLocked(e netswitch.Endpoint) netswitch.Outcome {
	s.freeLocked(e.VM)
	taken, me := s.hv.switches.taken, s.dir+"/"+e.VM
	var o netswitch.Outcome
	for _, p := range e.Publish {
		from, to := p.HostPort, max(p.HostPort, p.HostPortEnd)
		if from == 0 {
			from, to = firstPort, firstPort+1000
		}
		bound := hostapi.Publication{}
		for port := from; port <= to && bound.HostPort == 0; port++ {
			if _, is := taken[portKey(p.Protocol, port)]; !is {
				taken[portKey(p.Protocol, port)] = me
				bound = p
				bound.HostPort = port
			}
		}
		if bound.HostPort == 0 {
			s.freeLocked(e.VM)
			return netswitch.Outcome{Failed: &netswitch.Failure{Publication: p, Errno: syscall.EADDRINUSE, Text: "address already in use"}}
		}
		o.Published = append(o.Published, bound)
	}
	return o
}

// Stats implements vm.Switch.
func (s *switchHandle) Stats(context.Context) (netswitch.Stats, error) {
	s.hv.mu.Lock()
	defer s.hv.mu.Unlock()
	return netswitch.Stats{PID: s.pid, Endpoints: map[string]netswitch.EndpointStats{"vm-1": {Forged: s.forged}}}, nil
}

// Done implements vm.Switch.
func (s *switchHandle) Done() <-chan struct{} { return s.done }

// Stop implements vm.Switch.
func (s *switchHandle) Stop(context.Context) error {
	err := os.RemoveAll(s.dir)
	s.Kill()
	return err
}

// Close implements vm.Switch. Nobody looks at Done after it.
func (s *switchHandle) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

// ErrHang is what a hook of the stage Apply returns for a switch that does not answer.
var ErrHang = errors.New("the switch hangs")
