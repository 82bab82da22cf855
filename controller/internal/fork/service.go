package fork

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/containervm/containervm/controller/internal/container"
	"github.com/containervm/containervm/controller/internal/guest"
	"github.com/containervm/containervm/controller/internal/record"
	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/tether/link"
)

// Host is what forks need of a vSphere host: *vsphere.Client.
type Host interface {
	guest.Host
	container.Waiter
	VMs() []vsphere.VM
	InstantClone(ctx context.Context, source vsphere.Ref, spec vsphere.CloneSpec) (vsphere.Ref, error)
	PowerOff(ctx context.Context, vm vsphere.Ref) error
	Destroy(ctx context.Context, vm vsphere.Ref) error
	CanClone() bool
	DatastorePath(path string) string
	ConsoleTail(ctx context.Context, vm string) string
}

// Containers is what forks need of the containers: *container.Service.
type Containers interface {
	GetRunning(ref string) (container.Container, error)
	ClaimName(name string) (claimed string, release func(), err error)
	AcquireStart(ctx context.Context, id string) (release func(), err error)
	SetMarks(id string, marks []record.Mark)
	ReserveLike(c *container.Container) (endpoints []record.Endpoint, release func(), err error)
	Describe(id, name string, rec *record.Container, endpoints []record.Endpoint) (map[string]string, error)
	PublishFork(ctx context.Context, c *container.Container) error
	HostNet(id, name string, rec *record.Container, endpoints []record.Endpoint) (string, error)
}

// Templates makes nothing ahead of time while something is busy: *template.Store.
type Templates interface{ Busy() (done func()) }

// Service forks the running containers of one host. Its methods may be called by several goroutines. Errors have the class
// (package errdefs) that Docker's API has a status for.
type Service struct {
	host       Host
	containers Containers
	templates  Templates
	log        *slog.Logger
	seconds    *prometheus.HistogramVec
	times      container.Timeouts
	calls      guest.Caller

	left []vsphere.VM // fork points of an earlier controller
}

// New returns the forks of a host's containers, which are counted in a registry. times has no zero fields.
func New(host Host, containers Containers, templates Templates, r prometheus.Registerer, times container.Timeouts, log *slog.Logger) *Service {
	seconds := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "cvm_container_fork_seconds", Help: "Time to fork a running container, by whether all children run (ok, failed).", Buckets: container.Seconds(),
	}, []string{"result"})
	r.MustRegister(seconds)
	return &Service{
		host: host, containers: containers, templates: templates, log: log, seconds: seconds, times: times,
		calls: guest.Caller{Host: host, Within: times.Link},
		left:  slices.DeleteFunc(host.VMs(), func(vm vsphere.VM) bool { return vm.Extra[record.KeyRole] != record.RoleForkSource }),
	}
}

// Sweep removes the fork points that a controller left which died in a fork, and lets their containers go on.
func (s *Service) Sweep(ctx context.Context) {
	for _, vm := range s.left {
		s.log.Warn("removing what is left of a fork that was not finished", "vm", vm.Name)
		fork, _ := link.DecodeFork(vm.Extra[link.KeyFork])
		if c, err := s.containers.GetRunning(fork.GetSource()); err == nil {
			s.letGo(ctx, c)
		}
		s.discard(vm.Ref, vm.Name)
	}
}

// discard removes a machine that no container is, whatever its state. What cannot be removed the next controller removes.
func (s *Service) discard(ref vsphere.Ref, name string) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*s.times.Off)
	defer cancel()
	err := s.host.PowerOff(ctx, ref)
	if err == nil {
		err = s.host.Destroy(ctx, ref)
	}
	if err != nil && !errdefs.IsNotFound(err) {
		s.log.Error("a machine is left behind", "vm", name, "err", err)
	}
}

func (s *Service) count(children []Child, begun time.Time) {
	result := "ok"
	if slices.ContainsFunc(children, func(c Child) bool { return c.Err != nil }) {
		result = "failed"
	}
	s.seconds.WithLabelValues(result).Observe(time.Since(begun).Seconds())
}
