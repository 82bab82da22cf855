// Package publish binds the ports that containers publish where their host does not (hostapi.ExtensionNetworks), and leads what comes
// there to them through the link. The ports are bound on the controller's machine, by its process: they are free while it does not run,
// and its connections end with it.
package publish

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/tether/link"
)

// maxConnections of a container are led at a time, half of the streams that a link session has (link.MaxStreams): the others wait, and
// exec goes on. A peer of a udp port counts as one.
const maxConnections = link.MaxStreams / 2

// Linker reaches the tethers of VMs: *vsphere.Client.
type Linker interface {
	Link(ctx context.Context, vm vsphere.Ref) (*link.Client, error)
}

// Ports are those that are bound. Its methods may be called by several goroutines.
type Ports struct {
	linker Linker
	log    *slog.Logger

	mu    sync.Mutex
	bound map[vsphere.Ref]*binding
}

// New returns Ports of which none is bound.
func New(linker Linker, log *slog.Logger) *Ports {
	return &Ports{linker: linker, log: log, bound: map[vsphere.Ref]*binding{}}
}

// binding is what one container publishes in one run.
type binding struct {
	run       hostapi.Run
	published []hostapi.Publication
	sockets   []io.Closer
	ctx       context.Context // of its connections
	end       context.CancelFunc
	work      sync.WaitGroup
	slots     chan struct{}
}

// errNowhere says why a connection is refused.
var errNowhere = errors.New("the container is in no network that leads out")

// TakenError says that a port which was wanted is another one's.
type TakenError struct{ Address netip.AddrPort }

func (e *TakenError) Error() string {
	return fmt.Sprintf("Bind for %s failed: port is already allocated", e.Address)
}

// Bind binds the ports that a VM publishes in a run, all or none, and leads each connection to the address that the VM has then. It returns
// how they were bound. What an earlier run had is released first. The error is a *TakenError when somebody else has a port.
func (p *Ports) Bind(vm vsphere.Ref, run hostapi.Run, to func() netip.Addr, wanted []hostapi.Publication) ([]hostapi.Publication, error) {
	p.release(vm, func(*binding) bool { return true })
	b := &binding{run: run, slots: make(chan struct{}, maxConnections)}
	b.ctx, b.end = context.WithCancel(context.Background())
	for len(wanted) > 0 {
		group := wanted[:alike(wanted)]
		wanted = wanted[len(group):]
		sockets, at, err := bindAlike(group)
		if err != nil {
			b.close()
			return nil, err
		}
		for i, s := range sockets {
			p.serve(b, vm, s, to, at[i].Port)
			b.sockets = append(b.sockets, s)
		}
		b.published = append(b.published, at...)
	}
	p.mu.Lock()
	p.bound[vm] = b
	p.mu.Unlock()
	return slices.Clone(b.published), nil
}

// alike counts the publications at the beginning that differ by the host's address alone: one binding for both families, which gets one
// port.
func alike(all []hostapi.Publication) int {
	first := all[0]
	if !first.HostIP.IsUnspecified() || len(all) == 1 {
		return 1
	}
	second := all[1]
	second.HostIP = first.HostIP
	if second != first || !all[1].HostIP.IsUnspecified() || all[1].HostIP == first.HostIP {
		return 1
	}
	return 2
}

// Release releases what a VM publishes, unless it is that of a later run.
func (p *Ports) Release(vm vsphere.Ref, run hostapi.Run) {
	p.release(vm, func(b *binding) bool { return b.run <= run })
}

// ReleaseIf releases what those runs publish of which ended is true.
func (p *Ports) ReleaseIf(ended func(vm vsphere.Ref, run hostapi.Run) bool) {
	p.mu.Lock()
	all := maps.Clone(p.bound)
	p.mu.Unlock()
	for vm, b := range all {
		if ended(vm, b.run) {
			p.Release(vm, b.run)
		}
	}
}

// ReleaseAll releases what a VM publishes.
func (p *Ports) ReleaseAll(vm vsphere.Ref) { p.release(vm, func(*binding) bool { return true }) }

func (p *Ports) release(vm vsphere.Ref, which func(*binding) bool) {
	p.mu.Lock()
	b := p.bound[vm]
	if b == nil || !which(b) {
		p.mu.Unlock()
		return
	}
	delete(p.bound, vm)
	p.mu.Unlock()
	b.close()
}

// Close releases everything.
func (p *Ports) Close() {
	p.mu.Lock()
	all := p.bound
	p.bound = map[vsphere.Ref]*binding{}
	p.mu.Unlock()
	for _, b := range all {
		b.close()
	}
}

// close ends the sockets and the connections, and waits for them.
func (b *binding) close() {
	b.end()
	for _, s := range b.sockets {
		s.Close()
	}
	b.work.Wait()
}

// serve leads what comes to a socket to a port in the VM.
func (p *Ports) serve(b *binding, vm vsphere.Ref, socket io.Closer, to func() netip.Addr, port uint16) {
	lead := leader{binding: b, log: p.log.With("vm", vm.Value, "port", port), dial: func(ctx context.Context, network string) (*link.ForwardStream, error) {
		client, err := p.linker.Link(ctx, vm)
		if err != nil {
			return nil, err
		}
		at := to()
		if !at.IsValid() {
			return nil, errNowhere
		}
		return client.Forward(ctx, network, netip.AddrPortFrom(at, port).String())
	}}
	b.work.Go(func() { lead.serve(socket) })
}
