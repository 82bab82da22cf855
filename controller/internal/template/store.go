package template

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/containervm/containervm/controller/internal/record"
	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// Host is what templates need of a vSphere host: *vsphere.Client.
type Host interface {
	VMs() []vsphere.VM
	Get(name string) (vsphere.VM, bool)
	Wait(ctx context.Context, vm vsphere.Ref, until func(vsphere.VM) bool) (vsphere.VM, error)
	Subscribe(ctx context.Context) <-chan vsphere.VMEvent
	CreateVM(ctx context.Context, spec vsphere.VMSpec) (vsphere.Ref, error)
	InstantClone(ctx context.Context, source vsphere.Ref, spec vsphere.CloneSpec) (vsphere.Ref, error)
	PowerOn(ctx context.Context, vm vsphere.Ref) error
	PowerOff(ctx context.Context, vm vsphere.Ref) error
	Destroy(ctx context.Context, vm vsphere.Ref) error
	Boot() vsphere.BootFiles
	CanClone() bool
	ConsoleTail(ctx context.Context, vm string) string
}

// Options are the limits of a Store.
type Options struct {
	// Most is how many templates there may be; 0: none, every container boots.
	Most int
	// Warm is how many machines are kept forked ahead of time from the template that was used last.
	Warm int
	// Interfaces are those that the containers will have: a template is configured for them.
	Interfaces []*tetherv1.Interface
	// First is the size of the template that is made when the Store begins to run; the zero Size: none.
	First Size
	// Timeout is how long a template may take from power-on to its freeze; zero: 2 min.
	Timeout time.Duration
}

// DefaultMost is how many templates a host has room for by default: each holds on to the memory that a guest touches while
// it boots, some 50 MiB.
const DefaultMost = 4

// defaultTimeout is far above what a guest under emulation on a busy host takes.
const defaultTimeout = 2 * time.Minute

// Store is the templates of one host. Its methods may be called by several goroutines; Run must run for any template to be
// made.
type Store struct {
	host Host
	opt  Options
	log  *slog.Logger

	mu      sync.Mutex
	uses    map[string]*use      // by template name
	jobs    map[string]*job      // templates being made, by name
	queue   []*job               // of jobs, those that Run has not begun
	failed  map[string]*failure  // why a template could not be made last, by name
	claimed map[string]bool      // warm machines that a create has in hand, by name
	since   map[string]time.Time // when a warm machine was first seen that is not ready yet, by name
	busy    int                  // creates and starts under way
	closed  bool                 // no more templates: see Quiesce
	changed chan struct{}        // closed and replaced when any of this has changed, or the host's templates have
}

// use is who uses a template, and since when.
type use struct {
	clones   int       // being taken at this moment
	failures int       // clones in a row that failed, perhaps by the template's fault
	leaving  bool      // it is being removed
	last     time.Time // when a clone was last begun
	index    uint32    // of the latest child; 0: not known
}

// New returns the templates of a host.
func New(host Host, opt Options, log *slog.Logger) *Store {
	opt.Timeout = cmp.Or(opt.Timeout, defaultTimeout)
	return &Store{
		host: host, opt: opt, log: log, uses: map[string]*use{}, jobs: map[string]*job{}, failed: map[string]*failure{},
		claimed: map[string]bool{}, since: map[string]time.Time{}, changed: make(chan struct{}),
	}
}

// inputsOf says what the template of a size is made of.
func (s *Store) inputsOf(size Size) inputs {
	boot := s.host.Boot()
	return inputs{Kernel: boot.Kernel, Initrd: boot.Initrd, MemoryMiB: size.MemoryMiB, CPUs: size.CPUs}
}

// use returns the note on a template; the caller holds mu.
func (s *Store) use(name string) *use {
	u := s.uses[name]
	if u == nil {
		u = &use{}
		s.uses[name] = u
	}
	return u
}

// notify tells all who wait for a change; the caller holds mu.
func (s *Store) notify() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// List returns all templates, also those that are only being made, the one used last first.
func (s *Store) List() []Template {
	forks := s.forks()
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Template
	planned := map[string]inputs{}
	for name, j := range s.jobs {
		planned[name] = j.in
	}
	for _, vm := range s.host.VMs() {
		t, _ := parse(vm)
		if t.Name == "" {
			continue
		}
		delete(planned, t.Name)
		f := forks[t.Name]
		t.Children, t.Warm, t.Forks = f.children, f.warm, f.refs
		if u := s.uses[t.Name]; u != nil {
			t.Used = u.last
		}
		t.Used = later(t.Used, t.Created)
		all = append(all, t)
	}
	for name, in := range planned {
		all = append(all, Template{Name: name, Size: in.size(), Kernel: in.Kernel, Initrd: in.Initrd, State: StateMaking})
	}
	slices.SortStableFunc(all, func(a, b Template) int { return cmp.Or(b.Used.Compare(a.Used), cmp.Compare(a.Name, b.Name)) })
	return all
}

// offspring is what was forked from a template and exists: containers, and machines without a container.
type offspring struct {
	children, warm int
	refs           []vsphere.Ref
}

// forks returns the offspring of each template, by its name.
func (s *Store) forks() map[string]offspring {
	all := map[string]offspring{}
	for _, vm := range s.host.VMs() {
		source, role := Source(vm), vm.Extra[record.KeyRole]
		if source == "" || role == record.RoleTemplate {
			continue
		}
		o := all[source]
		if role == record.RoleWarm {
			o.warm++
		} else {
			o.children++
		}
		o.refs = append(o.refs, vm.Ref)
		all[source] = o
	}
	return all
}

// Busy says that a container is being made or started, until done is called: work ahead of time waits.
func (s *Store) Busy() (done func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.busy--; s.busy == 0 {
			s.notify()
		}
	}
}

// lastIndex finds the highest index among the children of a template that exist.
func (s *Store) lastIndex(name string) uint32 {
	var last uint32
	for _, vm := range s.host.VMs() {
		if vm.Extra[link.KeyFork] == "" {
			continue
		}
		if fork, err := link.DecodeFork(vm.Extra[link.KeyFork]); err == nil && fork.GetSource() == name {
			last = max(last, fork.GetIndex())
		}
	}
	return last
}
