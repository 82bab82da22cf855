// Package networks runs the switches of a host's networks: one process for each network in which a VM that is on has a connected
// card. What a switch is told (netswitch.Config) follows from the inventory and from what operations in flight are about to make of
// their VMs, each time anew and as a whole: no switch's state is kept anywhere else, so a daemon that died and a switch that died
// are the same case.
//
// Each network in use has an owner, a goroutine that brings its switch to what it should be whenever something has changed. An
// operation whose VM publishes ports does that itself, under the owner's lock, because it fails when a port is taken; any other
// waits for nothing.
package networks

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/frames"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/inventory"
)

// DefaultLinger is for how long a switch goes on after the last card left: the next container of a network often comes soon.
const DefaultLinger = 10 * time.Second

// DefaultPatience bounds an Apply, which takes milliseconds. A switch that takes longer is killed, and another one is started.
const DefaultPatience = 5 * time.Second

// Options is what Networks work with.
type Options struct {
	Inventory *inventory.Inventory
	Switches  vm.Switches
	Dir       string // of the switches: one directory each, named by the network's moref value
	// HostGateway is which ports of its loopback the host lets VMs reach that ask for it.
	HostGateway []hostapi.PortRange
	Linger      time.Duration // 0: DefaultLinger
	Patience    time.Duration // what a switch may take for an Apply; 0: DefaultPatience
	Log         *slog.Logger
}

// Networks runs the switches of a host.
type Networks struct {
	opt     Options
	ctx     context.Context // of all goroutines
	stop    context.CancelFunc
	running sync.WaitGroup
	changed chan struct{} // holds one token when the owners have to look again

	mu       sync.Mutex
	intents  map[string]*intent // by the moref values of VMs: what operations in flight are about to make of them
	leaving  map[string]hostapi.Run
	owners   map[string]*owner // by the moref values of networks
	decoded  map[string]decoded
	restarts int
	forged   int64 // of switches that have ended
	closed   bool
}

// decoded is a VM's hostapi.KeyNet, read once.
type decoded struct {
	text string
	net  hostapi.Net
}

// New returns the networks of a host. No switch is started before Run, unless an operation publishes a port.
func New(opt Options) *Networks {
	if opt.Linger == 0 {
		opt.Linger = DefaultLinger
	}
	if opt.Patience == 0 {
		opt.Patience = DefaultPatience
	}
	n := &Networks{
		opt: opt, changed: make(chan struct{}, 1), intents: map[string]*intent{}, leaving: map[string]hostapi.Run{},
		owners: map[string]*owner{}, decoded: map[string]decoded{},
	}
	n.ctx, n.stop = context.WithCancel(context.Background())
	return n
}

// Run adopts the switches of an earlier daemon, ends those that nobody needs, and from then on has them follow what changes, until
// Close.
func (n *Networks) Run() error {
	dirs, err := os.ReadDir(n.opt.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, dir := range dirs {
		n.owner(dir.Name()).look()
	}
	n.running.Go(n.dispatch)
	n.Changed()
	return nil
}

// Changed has all switches follow what has changed. It returns at once.
func (n *Networks) Changed() {
	select {
	case n.changed <- struct{}{}:
	default: // they have not yet looked at the change before
	}
}

// dispatch wakes the owners of networks. Those that are not in use have none.
func (n *Networks) dispatch() {
	for {
		select {
		case <-n.changed:
		case <-n.ctx.Done():
			return
		}
		for _, v := range n.members() {
			for _, card := range v.NICs {
				if card.Connected {
					n.owner(card.Network)
				}
			}
		}
		for _, o := range n.list() {
			o.look()
		}
	}
}

// owner returns the owner of a network, and makes it if there is none.
func (n *Networks) owner(ref string) *owner {
	n.mu.Lock()
	defer n.mu.Unlock()
	o := n.owners[ref]
	if o == nil {
		o = newOwner(n, ref)
		n.owners[ref] = o
		if !n.closed {
			n.running.Go(o.run)
		}
	}
	return o
}

func (n *Networks) list() []*owner {
	n.mu.Lock()
	defer n.mu.Unlock()
	all := make([]*owner, 0, len(n.owners))
	for _, o := range n.owners {
		all = append(all, o)
	}
	return all
}

// Close ends the switches that no VM which is on needs, and lets go of the others, which go on.
func (n *Networks) Close() error {
	n.mu.Lock()
	n.closed = true
	n.mu.Unlock()
	n.stop()
	n.running.Wait()
	var errs []error
	for _, o := range n.list() {
		errs = append(errs, o.close())
	}
	return errors.Join(errs...)
}

// Socket is the path of the socket by which the cards of a network's VMs reach its switch.
func (n *Networks) Socket(ref string) string { return filepath.Join(n.dir(ref), frames.Socket) }

func (n *Networks) dir(ref string) string { return filepath.Join(n.opt.Dir, ref) }

// State says how all networks are.
func (n *Networks) State() hostapi.Networks {
	cards := map[string]int{}
	for _, v := range n.opt.Inventory.List() {
		for _, card := range v.NICs {
			if v.Power == vm.PoweredOn {
				cards[card.Network]++
			}
		}
	}
	out := hostapi.Networks{Networks: []hostapi.NetworkState{}, HostGateway: n.opt.HostGateway}
	for _, network := range n.opt.Inventory.Networks() {
		state := hostapi.NetworkState{Name: network.Name, Network: network.Ref, Settings: network.Settings, Cards: cards[network.Ref]}
		if s := n.live(network.Ref); s != nil {
			state.Switch = s.PID()
		}
		out.Networks = append(out.Networks, state)
	}
	return out
}

// live returns the running switch of a network, or nil.
func (n *Networks) live(ref string) vm.Switch {
	n.mu.Lock()
	defer n.mu.Unlock()
	if o := n.owners[ref]; o != nil {
		return o.live
	}
	return nil
}

// Counts is what is counted of all switches.
type Counts struct {
	Running  int
	Restarts int   // of switches that ended by themselves
	Forged   int64 // frames with a source that was not their card's address
}

// Counts asks all switches for what they count. Of one that does not answer until ctx ends it is what it said last.
func (n *Networks) Counts(ctx context.Context) Counts {
	var c Counts
	var all sync.WaitGroup
	owners := n.list()
	for _, o := range owners {
		n.mu.Lock()
		live := o.live
		n.mu.Unlock()
		if live == nil {
			continue
		}
		c.Running++
		all.Go(func() {
			if stats, err := live.Stats(ctx); err == nil {
				o.counted(live, stats)
			}
		})
	}
	all.Wait()
	n.mu.Lock()
	defer n.mu.Unlock()
	c.Restarts, c.Forged = n.restarts, n.forged
	for _, o := range owners {
		c.Forged += o.lastSaid
	}
	return c
}

// subnets are those of all networks but one.
func (n *Networks) subnets(but string) (out []netip.Prefix) {
	for _, network := range n.opt.Inventory.Networks() {
		if network.Ref == but {
			continue
		}
		for _, g := range network.Settings.Gateways {
			out = append(out, g.Masked())
		}
	}
	return out
}
