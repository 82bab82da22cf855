// Package prestart starts QEMUs ahead of time for the clones of frozen VMs: prestarted machines, which are no VMs yet.
//
// A template, here, is a frozen VM in use: one that froze, or was cloned, in the last templateIdle. Each has Options.PerTemplate
// prestarted machines, within Options.MemoryMiB for all; where that is too little, the template that was used last comes first.
package prestart

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/admission"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/inventory"
)

const (
	templateIdle = 10 * time.Minute
	// machineMiB is counted for a prestarted machine: QEMU's own memory, since it has no guest's yet.
	machineMiB = 25
	// quiet is for how long no operation may have been in flight before a machine is prestarted: what a user waits for goes on
	// after its operations have ended, up to the first byte of a process, and is not to share its CPUs.
	quiet = 250 * time.Millisecond
	// dirPrefix begins the names of their directories, beside those of running machines.
	dirPrefix = "pre-"
)

// Options is what a Pool works with.
type Options struct {
	Inventory   *inventory.Inventory
	Admission   *admission.Admission
	Hypervisor  vm.Hypervisor
	RunDir      string // as of vmhost.Options
	PerTemplate int
	MemoryMiB   int
	Log         *slog.Logger
}

// Pool is the pre-start pool of a host: prestarted machines by their templates, and the goroutine that fills it (see keep).
type Pool struct {
	opt    Options
	stop   context.CancelFunc
	keeper sync.WaitGroup
	used   chan struct{} // tells the keeper that a template was used

	mu        sync.Mutex
	templates map[string]*template // by the moref values of their VMs
	closed    bool
}

// template is what the pool has for a frozen VM.
type template struct {
	used  time.Time
	ready []*Machine
}

// Machine is a prestarted machine that belongs to its caller, who starts, returns or discards it.
type Machine struct {
	waiting vm.Prestarted
	cid     uint32
	dir     string
}

// CID is the context ID that the machine has, which is leased for its VM.
func (m *Machine) CID() uint32 { return m.cid }

// New returns an empty pool.
func New(opt Options) *Pool {
	return &Pool{opt: opt, templates: map[string]*template{}, used: make(chan struct{}, 1), stop: func() {}}
}

// Use marks a frozen VM as a template in use.
func (p *Pool) Use(ref string) {
	p.mu.Lock()
	p.useLocked(ref)
	p.mu.Unlock()
	select {
	case p.used <- struct{}{}:
	default: // the keeper has not yet looked at the use before
	}
}

func (p *Pool) useLocked(ref string) *template {
	t := p.templates[ref]
	if t == nil {
		t = &template{}
		p.templates[ref] = t
	}
	t.used = time.Now()
	return t
}

// Take marks a frozen VM as a template in use, and takes a machine that was prestarted for it; nil: there is none.
func (p *Pool) Take(ref string) *Machine {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := p.useLocked(ref)
	if len(t.ready) == 0 {
		return nil
	}
	m := t.ready[0]
	t.ready = slices.Delete(t.ready, 0, 1)
	return m
}

// Return puts a machine that was not started into the pool.
func (p *Pool) Return(ref string, m *Machine) {
	p.mu.Lock()
	t := p.templates[ref]
	keep := t != nil && !p.closed
	if keep {
		t.ready = append(t.ready, m)
	}
	p.mu.Unlock()
	if !keep {
		p.Discard(m)
	}
}

// Discard ends machines that are not started.
func (p *Pool) Discard(all ...*Machine) {
	for _, m := range all {
		if err := m.discard(); err != nil {
			p.opt.Log.Warn("cannot end a prestarted machine", "err", err)
		}
		p.opt.Inventory.ReturnCID(m.cid)
	}
}

// discard ends a machine, and then removes its directory, which shows what is left if it does not end.
func (m *Machine) discard() error {
	if err := m.waiting.Close(); err != nil {
		return err
	}
	return os.RemoveAll(m.dir)
}

// Drop ends what was prestarted for a VM, which is no template any more until it is used again.
func (p *Pool) Drop(ref string) {
	p.mu.Lock()
	t := p.templates[ref]
	delete(p.templates, ref)
	p.mu.Unlock()
	if t != nil {
		p.Discard(t.ready...)
	}
}

// Prestart starts a machine that waits for the state of the fork point of src. cid is leased, or that of the VM that it will be.
func (p *Pool) Prestart(ctx context.Context, at vm.ForkPoint, src *vm.VM, cid uint32) (*Machine, error) {
	m := &Machine{cid: cid, dir: filepath.Join(p.opt.RunDir, dirPrefix+rand.Text()[:8])} // short, because it holds sockets
	err := os.MkdirAll(m.dir, 0o700)
	if err == nil {
		m.waiting, err = p.opt.Hypervisor.Prestart(ctx, at, vm.PrestartSpec{
			RunDir: m.dir, CPUs: src.CPUs, MemoryMiB: src.MemoryMiB, Machine: src.Extra[hostapi.KeyMachine], CID: cid,
		})
	}
	if err != nil {
		p.opt.Inventory.ReturnCID(cid)
		return nil, errors.Join(fmt.Errorf("cannot prestart a machine: %w", err), os.RemoveAll(m.dir))
	}
	return m, nil
}

// Start has a machine go on as the VM of spec. Nothing is left of it when that fails.
func (m *Machine) Start(ctx context.Context, spec vm.MachineSpec) (vm.Machine, error) {
	running, err := m.waiting.Start(ctx, spec)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(m.dir))
	}
	return running, nil
}

// Status returns what the pool has for each frozen VM, oldest first.
func (p *Pool) Status() []hostapi.Pool {
	out := []hostapi.Pool{}
	for _, v := range p.opt.Inventory.List() {
		if v.Frozen {
			out = append(out, hostapi.Pool{Template: v.Ref})
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	wants := p.wantsLocked()
	for n := range out {
		of := &out[n]
		of.Want = wants[of.Template]
		if t := p.templates[of.Template]; t != nil {
			of.Prestarted = len(t.ready)
		}
	}
	return out
}

// wantsLocked says how many machines each template should have. The caller holds mu.
func (p *Pool) wantsLocked() map[string]int {
	left := max(p.opt.MemoryMiB, 0) / machineMiB
	out := map[string]int{}
	for _, ref := range p.byUseLocked() {
		out[ref] = min(p.opt.PerTemplate, left)
		left -= out[ref]
	}
	return out
}

// byUseLocked returns the templates, that which was used last first. The caller holds mu.
func (p *Pool) byUseLocked() []string {
	refs := make([]string, 0, len(p.templates))
	for ref := range p.templates {
		refs = append(refs, ref)
	}
	slices.SortFunc(refs, func(a, b string) int {
		return cmp.Or(p.templates[b].used.Compare(p.templates[a].used), cmp.Compare(a, b))
	})
	return refs
}

// Close stops the keeper and ends all machines of the pool. What is returned later is discarded.
func (p *Pool) Close() {
	p.mu.Lock()
	p.closed = true
	var ready []*Machine
	for _, t := range p.templates {
		ready = append(ready, t.ready...)
		t.ready = nil
	}
	p.mu.Unlock()
	p.stop()
	p.keeper.Wait()
	p.Discard(ready...)
}
