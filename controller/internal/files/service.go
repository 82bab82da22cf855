package files

import (
	"context"
	"log/slog"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"
	"github.com/opencontainers/go-digest"

	ctr "github.com/containervm/containervm/controller/internal/container"
	"github.com/containervm/containervm/controller/internal/guest"
	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/tether/link"
)

// Host is what this package needs of a vSphere host: *vsphere.Client.
type Host interface {
	guest.Host
	ctr.Waiter
	VMs() []vsphere.VM
	CreateVM(ctx context.Context, spec vsphere.VMSpec) (vsphere.Ref, error)
	PowerOn(ctx context.Context, vm vsphere.Ref) error
	PowerOff(ctx context.Context, vm vsphere.Ref) error
	Destroy(ctx context.Context, vm vsphere.Ref) error
	AttachDisks(ctx context.Context, vm vsphere.Ref, disks []vsphere.DataDisk, extra map[string]string) error
	DetachDisks(ctx context.Context, vm vsphere.Ref, units []int, extra map[string]string) error
	Boot() vsphere.BootFiles
	ConsoleTail(ctx context.Context, vm string) string
}

// Containers finds containers, and lends their disks: *container.Service.
type Containers interface {
	Get(ref string) (ctr.Container, error)
	AcquireStart(ctx context.Context, id string) (release func(), err error)
	Lend(ctx context.Context, id string, take func(context.Context, ctr.Container) (ctr.TakeBack, error)) error
	Returned(id string)
	Tell(c *ctr.Container, action events.Action, more map[string]string)
}

// Images knows what containers are made of: *image.Store.
type Images interface {
	DiskOf(id digest.Digest) string
}

// Service is the files of one host's containers. Its methods may be called by several goroutines. Errors have the class (package errdefs)
// and the words that Docker's clients expect.
type Service struct {
	host       Host
	containers Containers
	images     Images
	calls      guest.Caller
	times      ctr.Timeouts
	log        *slog.Logger

	mu      sync.Mutex
	helpers map[string]*helper // by container
}

// New returns the files of a host's containers. times has no zero fields.
func New(host Host, containers Containers, images Images, times ctr.Timeouts, log *slog.Logger) *Service {
	return &Service{
		host: host, containers: containers, images: images, times: times, log: log,
		calls: guest.Caller{Host: host, Within: times.Link}, helpers: map[string]*helper{},
	}
}

// access is a machine that has a container's files, for a while.
type access struct {
	c      ctr.Container
	ref    string // as the client named it
	vm     vsphere.Ref
	link   *link.Client
	helper *helper // nil: the container's own machine
}

// reach finds the machine that has a container's files: its own while it runs, and else a helper. mounts: what is mounted over the root is
// needed, too. The caller calls done.
func (s *Service) reach(ctx context.Context, ref string, mounts bool) (a access, done func(), err error) {
	for try := 1; ; try++ {
		c, err := s.containers.Get(ref)
		if err != nil {
			return access{}, nil, err
		}
		a, done = access{c: c, ref: ref, vm: c.VM.Ref}, func() {}
		if c.Phase() != ctr.PhaseRunning {
			h, release, err := s.use(ctx, c, mounts)
			if errdefs.IsNotModified(err) && try < maxTries { // it has been started meanwhile
				continue
			}
			if err != nil {
				return access{}, nil, err
			}
			a.helper, a.vm, done = h, h.vm, release
		}
		if a.link, err = s.host.Link(ctx, a.vm); err != nil {
			done()
			return access{}, nil, err
		}
		return a, done, nil
	}
}

// maxTries is how often the machine that has a container's files is looked for while the container starts and ends.
const maxTries = 5
