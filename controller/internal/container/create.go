package container

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/moby/moby/api/types/container"

	"github.com/containervm/containervm/controller/internal/ident"
	"github.com/containervm/containervm/controller/internal/image"
	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/tether/link"
)

// Request says what container to make, as the API got it. Config and HostConfig are changed by Create.
type Request struct {
	Name       string // empty: chosen
	Config     *container.Config
	HostConfig *container.HostConfig
}

// Create makes a container that is not started, and says what of the request has no effect.
func (s *Service) Create(ctx context.Context, req Request) (id string, warnings []string, err error) {
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
	name, named, err := s.claimName(req.Name)
	if err != nil {
		return "", nil, err
	}
	defer named()
	spec, err := s.vmSpec(ident.New(), name, req, img)
	if err != nil {
		return "", nil, err
	}
	if _, err := s.host.CreateVM(ctx, spec); err != nil {
		return "", nil, err
	}
	return spec.Name, warningsFor(req.HostConfig, req.Config), nil
}

// vmSpec says what VM a container is.
func (s *Service) vmSpec(id, name string, req Request, img image.Image) (vsphere.VMSpec, error) {
	if req.Config.Hostname == "" {
		req.Config.Hostname = id[:12]
	}
	rec := record{Created: time.Now().UTC(), ImageID: img.ID, Config: *req.Config, HostConfig: *req.HostConfig}
	size := sizeOf(&rec.HostConfig.Resources)
	text, err := json.Marshal(rec)
	if err != nil {
		return vsphere.VMSpec{}, fmt.Errorf("cannot encode %s: %w", keyRecord, err)
	}
	tether, err := tetherSpec(id, &rec)
	if err != nil {
		return vsphere.VMSpec{}, err
	}
	guest, err := link.EncodeSpec(tether)
	if err != nil {
		return vsphere.VMSpec{}, invalid("%v", err) // too large: the client's command, environment or labels are
	}
	boot := s.host.Boot()
	return vsphere.VMSpec{
		Name: id, UUID: ident.UUID(id), CPUs: size.cpus, MemoryMiB: size.memoryMiB,
		Kernel: boot.Kernel, Initrd: boot.Initrd, RootParent: img.TopDisk, NoNetwork: !networked(&rec),
		ExtraConfig: map[string]string{
			keyRole: roleContainer, keyName: name, keyRecord: string(text), link.KeySpec: guest,
		},
	}, nil
}
