package container

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/containervm/containervm/controller/internal/feed"
	"github.com/containervm/containervm/controller/internal/guest"
	"github.com/containervm/containervm/controller/internal/image"
	"github.com/containervm/containervm/controller/internal/network"
	"github.com/containervm/containervm/controller/internal/publish"
	"github.com/containervm/containervm/controller/internal/record"
	"github.com/containervm/containervm/controller/internal/template"
	"github.com/containervm/containervm/controller/internal/volume"
	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/tether/link"
)

// Host is what containers need of a vSphere host: *vsphere.Client.
type Host interface {
	Inventory
	Machines
	Streams
}

// Inventory shows the VMs of a host.
type Inventory interface {
	Waiter
	VMs() []vsphere.VM
	Get(name string) (vsphere.VM, bool)
	Subscribe(ctx context.Context) <-chan vsphere.VMEvent
	Seq() uint64
}

// Machines makes, drives and removes VMs.
type Machines interface {
	CreateVM(ctx context.Context, spec vsphere.VMSpec) (vsphere.Ref, error)
	PowerOn(ctx context.Context, vm vsphere.Ref) error
	PowerOff(ctx context.Context, vm vsphere.Ref) error
	Destroy(ctx context.Context, vm vsphere.Ref) error
	InstantClone(ctx context.Context, source vsphere.Ref, spec vsphere.CloneSpec) (vsphere.Ref, error)
	Change(ctx context.Context, vm vsphere.Ref, change vsphere.Change) error
	Reconfigure(ctx context.Context, vm vsphere.Ref, extra map[string]string) error
	DetachDisks(ctx context.Context, vm vsphere.Ref, units []int, extra map[string]string) error
	HostNetworks(ctx context.Context) (hostapi.Networks, error)
	Boot() vsphere.BootFiles
	CanClone() bool
	LimitsCPUs() bool
	Has(extension string) bool
}

// Streams reaches into VMs.
type Streams interface {
	Link(ctx context.Context, vm vsphere.Ref) (*link.Client, error)
	Stat(ctx context.Context, path string) (vsphere.FileInfo, error)
	ConsoleTail(ctx context.Context, vm string) string
}

// Images finds what containers are made from, and is told when they are gone: *image.Store.
type Images interface {
	Acquire(ref string) (img image.Image, release func(), err error)
	SizeOf(id digest.Digest) int64
	Released(ctx context.Context, id digest.Digest, inUse image.InUse) error
}

// Service is the containers of one host: it makes, starts, stops and removes them, and tells of them. Its methods may be called by several goroutines. Errors have the class (package
// errdefs) and the words that Docker's clients expect.
type Service struct {
	host      Host
	images    Images
	templates *template.Store
	volumes   *volume.Service
	networks  *network.Service
	log       *slog.Logger
	metrics   *Metrics
	times     Timeouts
	calls     guest.Caller
	starts    *starts
	clock     *clock
	loans     loans
	teller    *teller
	ports     *publish.Ports // that this process publishes in the host's place

	pruning chan struct{} // has an element while a prune goes on
	closing atomic.Bool   // the host is about to be shut down: what ends is not restarted, and what is stopped was not stopped by someone

	mu      sync.Mutex
	claimed map[string]bool // names of containers that are being made or renamed
}

// New returns the containers of a host, of which it tells events. times has no zero fields. Run must be called, for events to be told and for
// containers with AutoRemove to be removed.
func New(host Host, images Images, templates *template.Store, volumes *volume.Service, networks *network.Service, events *feed.Feed, metrics *Metrics, times Timeouts, log *slog.Logger) *Service {
	return &Service{
		host: host, images: images, templates: templates, volumes: volumes, networks: networks, metrics: metrics, log: log,
		times: times, calls: guest.Caller{Host: host, Within: times.Link},
		starts: newStarts(), pruning: make(chan struct{}, 1), clock: newClock(), teller: &teller{feed: events}, ports: publish.New(host, log), claimed: map[string]bool{},
	}
}

// All returns all containers, newest first.
func (s *Service) All() []Container {
	var all []Container
	for _, vm := range s.host.VMs() {
		if vm.Extra[record.KeyRole] != record.RoleContainer {
			continue
		}
		c, err := Parse(vm)
		if err != nil {
			s.log.Warn("a VM with the role of a container cannot be read", "vm", vm.Name, "err", err)
			continue
		}
		c.doomed = s.starts.isDoomed(c.ID)
		all = append(all, c)
	}
	slices.SortStableFunc(all, func(a, b Container) int { return b.Created.Compare(a.Created) })
	return all
}

// Get finds a container by ID, name or unique prefix of its ID, in this order.
func (s *Service) Get(ref string) (Container, error) {
	if vm, ok := s.host.Get(ref); ok && vm.Extra[record.KeyRole] == record.RoleContainer {
		c, err := Parse(vm)
		c.doomed = s.starts.isDoomed(c.ID)
		return c, err
	}
	name := strings.TrimPrefix(ref, "/")
	var byPrefix []Container
	for _, c := range s.All() {
		if c.Name == name {
			return c, nil
		}
		if ref != "" && strings.HasPrefix(c.ID, ref) {
			byPrefix = append(byPrefix, c)
		}
	}
	switch len(byPrefix) {
	case 1:
		return byPrefix[0], nil
	case 0:
		return Container{}, errdefs.ErrNotFound.WithMessage("No such container: " + ref)
	default:
		return Container{}, errdefs.ErrInvalidArgument.WithMessage("multiple IDs found with provided prefix: " + ref)
	}
}

// GetRunning finds a container that runs; the error's words are Docker's.
func (s *Service) GetRunning(ref string) (Container, error) {
	c, err := s.Get(ref)
	switch {
	case err != nil:
	case c.ComesBack():
		err = errdefs.ErrConflict.WithMessage("Container " + c.ID + " is restarting, wait until the container is running")
	case !c.Running():
		err = errdefs.ErrConflict.WithMessage("container " + c.ID + " is not running")
	}
	return c, err
}

// ImageUsers tells which containers use an image.
func (s *Service) ImageUsers(id digest.Digest) []image.User {
	var users []image.User
	for _, c := range s.holders() {
		if c.ImageID == id {
			users = append(users, image.User{Container: c.ID, Running: c.Running()})
		}
	}
	return users
}

// holders are the containers and the fork points of containers: their disks need the image's layers.
func (s *Service) holders() []Container {
	all := s.All()
	for _, vm := range s.host.VMs() {
		if vm.Extra[record.KeyRole] != record.RoleForkSource {
			continue
		}
		if c, err := Parse(vm); err == nil {
			all = append(all, c)
		}
	}
	return all
}
