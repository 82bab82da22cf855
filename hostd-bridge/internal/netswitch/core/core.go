package core

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/containervm/containervm/hostd-bridge/internal/frames"
	"github.com/containervm/containervm/hostd-bridge/internal/netswitch"
)

// gatewayMAC is the gateway's address in every network: it is the same after a switch was started again, so no guest has to ask anew.
// It is locally administered (06), and says "cvm".
var gatewayMAC = frames.Address{0x06, 'c', 'v', 'm', 0, 1}

// core is the switch without its process: cards, the gateway, published ports.
//
// apply, and nothing else, changes what the switch was told, under its lock; everyone else reads the table that it publishes.
type core struct {
	log     *slog.Logger
	outside outside
	gateway *gateway
	dns     *resolver
	table   atomic.Pointer[table]
	ctx     context.Context // of all that the core has started
	cancel  context.CancelFunc
	running sync.WaitGroup
	totals  totals

	applying sync.Mutex

	entering sync.Mutex
	closed   bool
}

// enter counts a goroutine that close waits for: it calls running.Done. False: nothing begins any more.
func (c *core) enter() bool {
	c.entering.Lock()
	defer c.entering.Unlock()
	if !c.closed {
		c.running.Add(1)
	}
	return !c.closed
}

// totals are the core's own counters and limits.
type totals struct {
	sessions atomic.Int64
	queries  atomic.Int64
	asking   atomic.Int64 // questions that wait for the host's resolvers
}

// table is what the switch was told: never changed once it is published.
type table struct {
	config  netswitch.Config
	cards   map[frames.Address]*card
	byAddr  map[netip.Addr]*card
	order   []*card // those of the Config that were taken
	never   []netip.Prefix
	names   map[string][]netip.Addr
	reverse map[netip.Addr]string
}

// card is one endpoint: what it was told is new with each table, and what runs is its member's.
type card struct {
	netswitch.Endpoint
	mac    frames.Address
	others map[string][]netip.Addr
	back   map[netip.Addr]string
	*member
}

// newCore returns a switch without endpoints.
func newCore(log *slog.Logger, o outside) (*core, error) {
	ctx, cancel := context.WithCancel(context.Background())
	c := &core{log: log, outside: o, ctx: ctx, cancel: cancel}
	c.table.Store(&table{})
	var err error
	if c.gateway, err = newGateway(c); err != nil {
		cancel()
		return nil, err
	}
	c.dns = newResolver(c)
	return c, nil
}

// close ends everything and returns when it has ended.
func (c *core) close() {
	c.applying.Lock()
	defer c.applying.Unlock()
	for _, card := range c.table.Load().order {
		card.leave()
	}
	c.table.Store(&table{})
	c.cancel()
	c.entering.Lock()
	c.closed = true
	c.entering.Unlock()
	c.gateway.close()
	c.running.Wait()
}

// apply makes the switch as cfg says.
func (c *core) apply(cfg netswitch.Config) (netswitch.Result, error) {
	c.applying.Lock()
	defer c.applying.Unlock()
	if err := check(cfg); err != nil {
		return netswitch.Result{}, fmt.Errorf("cannot use the settings of network %q: %w", cfg.Name, err)
	}
	if c.ctx.Err() != nil {
		return netswitch.Result{}, errors.New("the switch ends")
	}
	before := c.table.Load()
	if err := c.gateway.settings(before.config, cfg); err != nil {
		return netswitch.Result{}, fmt.Errorf("cannot be the gateway of network %q: %w", cfg.Name, err)
	}
	a := &application{core: c, before: before, result: netswitch.Result{Endpoints: map[string]netswitch.Outcome{}}}
	a.endpoints(cfg)
	next := newTable(cfg, a.cards)
	c.gateway.neighbours(before, next)
	for _, e := range next.order {
		e.member.card.Store(e)
	}
	c.table.Store(next)
	a.settle(next)
	return a.result, nil
}

// newTable makes what is looked up of what was said.
func newTable(cfg netswitch.Config, cards []*card) *table {
	t := &table{
		config: cfg, order: cards, never: never(),
		cards: map[frames.Address]*card{}, byAddr: map[netip.Addr]*card{}, names: map[string][]netip.Addr{}, reverse: map[netip.Addr]string{},
	}
	for _, e := range cards {
		t.cards[e.mac] = e
		for _, a := range e.Addresses {
			if t.byAddr[a] == nil {
				t.byAddr[a] = e
			}
			if len(e.Names) > 0 {
				t.reverse[a] = e.Names[0]
			}
		}
		for _, name := range e.Names {
			key := nameKey(name)
			t.names[key] = appendNew(t.names[key], e.Addresses)
		}
	}
	return t
}

// appendNew appends what is not there yet.
func appendNew(to, addresses []netip.Addr) []netip.Addr {
	for _, a := range addresses {
		if !slices.Contains(to, a) {
			to = append(to, a)
		}
	}
	return to
}

// application is one apply on its way.
type application struct {
	core   *core
	before *table
	cards  []*card
	left   []*member // that are to end when the new table is in force
	result netswitch.Result
}

// endpoints takes those of the Config that can be taken. What leaves is ended first, so that its ports are free.
func (a *application) endpoints(cfg netswitch.Config) {
	old := map[string]*card{}
	for _, e := range a.before.order {
		old[e.VM] = e
	}
	wanted, taken := map[string]bool{}, map[frames.Address]bool{}
	fresh := make([]*card, 0, len(cfg.Endpoints))
	for _, e := range cfg.Endpoints {
		mac, err := checkEndpoint(cfg, e)
		if err == nil && taken[mac] {
			err = fmt.Errorf("two endpoints have the MAC address %v", mac)
		}
		if err != nil {
			a.fail(e.VM, &netswitch.Failure{Text: err.Error()})
			continue
		}
		wanted[e.VM], taken[mac] = true, true
		fresh = append(fresh, newCard(e, mac))
	}
	for vm, e := range old {
		if !wanted[vm] && a.result.Endpoints[vm].Failed == nil {
			e.unpublish() // its ports may be wanted by others of this Config
			a.left = append(a.left, e.member)
		}
	}
	a.take(fresh, old, cfg)
}

// take gives each card its member and its ports. Ports that one card gives up in favour of another may be free only afterwards: what
// finds a port taken is tried once more.
func (a *application) take(fresh []*card, old map[string]*card, cfg netswitch.Config) {
	var again []*card
	for _, e := range fresh {
		if was := old[e.VM]; was != nil && was.mac == e.mac {
			e.member = was.member
		} else {
			e.member = newMember(a.core)
		}
		if !a.attempt(e, old[e.VM], cfg) {
			again = append(again, e)
		}
	}
	for _, e := range again {
		a.attempt(e, old[e.VM], cfg)
	}
	for vm, was := range old { // those that could not be made otherwise stay as they were
		if a.result.Endpoints[vm].Failed != nil {
			a.cards = append(a.cards, was)
		}
	}
	for _, e := range again {
		if a.result.Endpoints[e.VM].Failed != nil && (old[e.VM] == nil || old[e.VM].member != e.member) {
			e.leave() // it was never there
		}
	}
}

// attempt binds a card's ports, and says whether it could. The ports that was had and e has not are free then.
func (a *application) attempt(e, was *card, cfg netswitch.Config) bool {
	var before *member
	if was != nil {
		before = was.member
	}
	outcome := e.publish(before, cfg)
	a.result.Endpoints[e.VM] = outcome
	if outcome.Failed != nil {
		return false
	}
	a.cards = append(a.cards, e)
	if before != nil && before != e.member {
		a.left = append(a.left, before)
	}
	return true
}

func (a *application) fail(vm string, f *netswitch.Failure) {
	a.result.Endpoints[vm] = netswitch.Outcome{Failed: f}
}

// settle ends what is not in the new table.
func (a *application) settle(now *table) {
	for _, m := range a.left {
		m.leave()
	}
	for _, e := range now.order {
		was := slices.IndexFunc(a.before.order, func(b *card) bool { return b.member == e.member })
		if was < 0 {
			continue
		}
		if lost := a.before.order[was]; now.config.Internal && !a.before.config.Internal ||
			slices.ContainsFunc(lost.Addresses, func(addr netip.Addr) bool { return !slices.Contains(e.Addresses, addr) }) {
			e.renew()
		}
	}
}

// has reports whether an address is the card's own.
func (e *card) has(a netip.Addr) bool { return slices.Contains(e.Addresses, a) }

func newCard(e netswitch.Endpoint, mac frames.Address) *card {
	c := &card{Endpoint: e, mac: mac, others: map[string][]netip.Addr{}, back: map[netip.Addr]string{}}
	for _, o := range e.Others {
		key := nameKey(o.Name)
		c.others[key] = appendNew(c.others[key], o.Addresses)
		for _, a := range o.Addresses {
			if c.back[a] == "" {
				c.back[a] = o.Name
			}
		}
	}
	return c
}

// stats collects the counters.
func (c *core) stats() netswitch.Stats {
	t := c.table.Load()
	s := netswitch.Stats{PID: os.Getpid(), Endpoints: map[string]netswitch.EndpointStats{}}
	for _, e := range t.order {
		s.Endpoints[e.VM] = e.stats()
	}
	s.Gateway = netswitch.GatewayStats{Queries: c.totals.queries.Load(), Sessions: c.totals.sessions.Load(), Memory: memoryInUse()}
	return s
}
