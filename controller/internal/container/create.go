package container

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/moby/moby/api/types/container"
	dockernet "github.com/moby/moby/api/types/network"

	"github.com/containervm/containervm/controller/internal/ident"
	"github.com/containervm/containervm/controller/internal/image"
	"github.com/containervm/containervm/controller/internal/logconf"
	"github.com/containervm/containervm/controller/internal/network"
	"github.com/containervm/containervm/controller/internal/record"
	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/tether/link"
)

// Request says what container to make, as the API got it. Config, HostConfig and Networking are changed by Create.
type Request struct {
	Name       string // empty: chosen
	Config     *container.Config
	HostConfig *container.HostConfig
	// HostFiles: the client could read the files of this host itself, so that it may have them copied into the container.
	HostFiles  bool
	Networking *dockernet.NetworkingConfig // nil: the network of the mode
}

// Create makes a container that is not started, and says what of the request has no effect.
func (s *Service) Create(ctx context.Context, req Request) (id string, warnings []string, err error) {
	begun := time.Now()
	defer s.templates.Busy()()
	if req.Config == nil {
		return "", nil, invalid("config cannot be empty in order to create a container")
	}
	if req.HostConfig == nil {
		req.HostConfig = &container.HostConfig{}
	}
	img, release, err := s.images.Acquire(req.Config.Image)
	if err != nil {
		return "", nil, err
	}
	defer release()
	merge(req.Config, img)
	if err := check(req.Config, req.HostConfig); err != nil {
		return "", nil, err
	}
	attached, err := s.attachments(ctx, req)
	if err != nil {
		return "", nil, err
	}
	name, named, err := s.ClaimName(req.Name)
	if err != nil {
		return "", nil, err
	}
	defer named()
	p := newPlan(name, req, img, begun)
	p.attachments = attached
	defer p.release()
	hold := s.volumes.Hold()
	defer hold.Release()
	if err := s.mountAll(ctx, hold, req, &p.rec); err != nil {
		return "", nil, err
	}
	if id, err = s.make(ctx, p); err != nil {
		return "", nil, err
	}
	if err := hold.Keep(ctx); err != nil { // the container has them: the next start sees that
		s.log.Error("the volumes of a container are not seen until the next start", "container", id, "err", err)
	}
	s.metrics.created(p.way, time.Since(begun))
	return id, slices.Concat(limitWarnings(req.HostConfig), s.sizeWarnings(p.size), p.warnings(), s.networks.Warnings(p.endpoints)), nil
}

// plan is a container that is to be made. Its ID is that of the machine it gets, which may have one already.
type plan struct {
	name  string
	rec   record.Container
	image image.Image
	size  size
	begun time.Time
	way   string // how its machine was made: one of the ways
	why   string // it is made another way than asked for

	attachments []attachment      // to networks
	endpoints   []record.Endpoint // what is reserved for them, one for each
	reserved    []func()          // end the reservations: the VM has them, or there is none
}

// Ways in which a container gets its machine.
const (
	wayBoot = "boot"
	wayFork = "fork"
	wayWarm = "warm" // a warm VM
)

func newPlan(name string, req Request, img image.Image, begun time.Time) *plan {
	size := sizeOf(&req.HostConfig.Resources)
	return &plan{
		name: name, image: img, size: size, begun: begun,
		rec: record.Container{Created: begun.UTC(), ImageID: img.ID, Config: *req.Config, HostConfig: *req.HostConfig},
	}
}

// warnings says what became of a wish for a fork, and of ports that nothing leads to.
func (p *plan) warnings() []string {
	var all []string
	if p.rec.HostConfig.Runtime == RuntimeFork && p.way == wayBoot {
		all = append(all, "The container is not forked: "+p.why+".")
	}
	ports, _ := publications(&p.rec.Config, &p.rec.HostConfig) // they were checked
	if len(ports) > 0 && wayIn(p.endpoints) == "" {
		all = append(all, "Published ports are discarded: the container is in no network that leads out.")
	}
	return all
}

// startNote is the plan's value of record.KeyStart.
func (p *plan) startNote(marks ...record.Mark) string {
	return record.Start{Why: p.why, Marks: append([]record.Mark{record.MarkAt("api", p.begun)}, marks...)}.Encode()
}

// extra says in extraConfig who the machine with an ID is that is planned.
func (s *Service) extra(id string, p *plan) (map[string]string, error) {
	rec := p.rec
	if rec.Config.Hostname == "" {
		rec.Config.Hostname = id[:12]
	}
	return s.Describe(id, p.name, &rec, p.endpoints)
}

// Describe says in extraConfig which container a VM is: one with an ID and a name that was made with rec and is that in its networks.
func (s *Service) Describe(id, name string, rec *record.Container, endpoints []record.Endpoint) (map[string]string, error) {
	text, err := rec.Encode()
	if err != nil {
		return nil, err
	}
	if n := len(text); n > hostapi.MaxExtraValue {
		return nil, tooMuch(rec, fmt.Errorf("%d bytes as JSON, at most %d are possible", n, hostapi.MaxExtraValue))
	}
	networks, err := record.EncodeNetworks(endpoints)
	if err != nil {
		return nil, err
	}
	spec, err := s.encodeSpec(id, rec, endpoints)
	if err != nil {
		return nil, err
	}
	log, err := logconf.Host(rec.HostConfig.LogConfig)
	if err != nil {
		return nil, err
	}
	extra := map[string]string{
		record.KeyRole: record.RoleContainer, record.KeyName: name, record.KeyContainer: text, record.KeyNetworks: networks, link.KeySpec: spec,
	}
	if text := log.Encode(); text != "" { // one without has the default
		extra[hostapi.KeyLog] = text
	}
	return extra, nil
}

func (s *Service) encodeSpec(id string, rec *record.Container, endpoints []record.Endpoint) (string, error) {
	tether, err := tetherSpec(id, rec, endpoints, s.networks.Nameservers(endpoints))
	if err != nil {
		return "", err
	}
	tether.Hosts = append(tether.Hosts, s.linked(endpoints)...)
	spec, err := link.EncodeSpec(tether)
	if err != nil {
		return "", tooMuch(rec, err)
	}
	return spec, nil
}

// boot makes a machine that is off.
func (s *Service) boot(ctx context.Context, p *plan) (id string, err error) {
	id, p.way = ident.New(), wayBoot
	if err := s.reserve(p, nil); err != nil {
		return "", err
	}
	extra, err := s.extra(id, p)
	if err != nil {
		return "", err
	}
	if extra[hostapi.KeyNet], err = s.HostNet(id, p.name, &p.rec, p.endpoints); err != nil {
		return "", err
	}
	asked := record.MarkAt("createRequested", time.Now())
	extra[record.KeyStart] = p.startNote(asked)
	data := Disks(&p.rec)
	if len(data) > 0 {
		extra[record.KeyDisks] = record.Attached
	}
	boot := s.host.Boot()
	_, err = s.host.CreateVM(ctx, vsphere.VMSpec{
		Name: id, UUID: ident.UUID(id), CPUs: p.size.cpus, CPULimit: s.limit(p), MemoryMiB: p.size.memoryMiB,
		Kernel: boot.Kernel, Initrd: boot.Initrd, RootParent: p.image.TopDisk, Disks: data, Cards: network.Cards(p.endpoints), ExtraConfig: extra,
	})
	if err == nil {
		s.clock.set(id, []record.Mark{record.MarkAt("api", p.begun), asked, record.MarkAt("createDone", time.Now())})
	}
	return id, err
}
