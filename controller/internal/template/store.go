package template

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/containervm/containervm/controller/internal/network"
	"github.com/containervm/containervm/controller/internal/record"
	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/tether/link"
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
	// Warm is how many warm VMs are kept, of the template that was used last.
	Warm int
	// Networks give a warm VM its place in the network in which most containers are; nil: it has none.
	Networks *network.Service
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
// made. What exists is in the host's inventory; the package comment says what is here.
type Store struct {
	host Host
	opt  Options
	log  *slog.Logger

	mu        sync.Mutex           // guards all below; nobody waits for the host while it is held
	templates map[string]*state    // by name; also of templates that are only wanted, or that were removed while a clone went on
	queue     []*job               // the jobs that Run has not begun
	claimed   map[string]bool      // children that a create, or the pool itself, is at work on: by name
	unready   map[string]time.Time // when a warm VM was first seen that has not rehearsed yet: by name
	busy      int                  // creates and starts in flight
	closed    bool                 // no more templates: see Quiesce
	changed   chan struct{}        // closed and replaced when any of this has changed, or the host's templates have
}

// state is what the store knows of a template beside the host's inventory.
type state struct {
	leases    int       // not released yet
	failures  int       // clones in a row that failed, perhaps by the template's fault
	removing  bool      // no leases any more
	lastUse   time.Time // when a lease was last taken for a container
	lastIndex uint32    // of the latest child; 0: not known
	job       *job      // nil: it is not being made
	failure   *failure  // of the last attempt to make it; nil: that succeeded, or there was none
}

// New returns the templates of a host.
func New(host Host, opt Options, log *slog.Logger) *Store {
	opt.Timeout = cmp.Or(opt.Timeout, defaultTimeout)
	return &Store{
		host: host, opt: opt, log: log, templates: map[string]*state{},
		claimed: map[string]bool{}, unready: map[string]time.Time{}, changed: make(chan struct{}),
	}
}

// inputsOf says what the template of a size is made of.
func (s *Store) inputsOf(size Size) inputs {
	boot := s.host.Boot()
	return inputs{Kernel: boot.Kernel, Initrd: boot.Initrd, MemoryMiB: size.MemoryMiB, CPUs: size.CPUs}
}

// stateLocked returns the state of a template, which the caller may change.
func (s *Store) stateLocked(name string) *state {
	t := s.templates[name]
	if t == nil {
		t = &state{}
		s.templates[name] = t
	}
	return t
}

// forgetLocked drops what is known of a template that does not exist, but for what its making needs.
func (s *Store) forgetLocked(name string) {
	t := s.templates[name]
	switch {
	case t == nil || t.leases > 0:
	case t.job == nil && t.failure == nil:
		delete(s.templates, name)
	default:
		*t = state{job: t.job, failure: t.failure}
	}
}

// notifyLocked tells all who wait for a change.
func (s *Store) notifyLocked() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// List returns all templates, also those that are only being made, the one used last first.
func (s *Store) List() []Template {
	children := s.children()
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Template
	planned := map[string]inputs{}
	for name, st := range s.templates {
		if st.job != nil {
			planned[name] = st.job.in
		}
	}
	for _, vm := range s.host.VMs() {
		t, _ := parse(vm)
		if t.Name == "" {
			continue
		}
		delete(planned, t.Name)
		c := children[t.Name]
		t.Children, t.Warm, t.Forks = c.containers, c.warm, c.refs
		if st := s.templates[t.Name]; st != nil {
			t.Used = st.lastUse
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

// children are the VMs that were forked from a template and exist.
type children struct {
	containers, warm int
	refs             []vsphere.Ref
}

// children returns the children of each template, by its name.
func (s *Store) children() map[string]children {
	all := map[string]children{}
	for _, vm := range s.host.VMs() {
		source, role := Source(vm), vm.Extra[record.KeyRole]
		if source == "" || role == record.RoleTemplate {
			continue
		}
		c := all[source]
		if role == record.RoleWarm {
			c.warm++
		} else {
			c.containers++
		}
		c.refs = append(c.refs, vm.Ref)
		all[source] = c
	}
	return all
}

// Busy says that a container is being made or started, until done is called: warm VMs are not made meanwhile.
func (s *Store) Busy() (done func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.busy--; s.busy == 0 {
			s.notifyLocked()
		}
	}
}

// highestIndex is the highest index among the children of a template that exist.
func (s *Store) highestIndex(name string) uint32 {
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
