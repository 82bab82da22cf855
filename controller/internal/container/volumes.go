package container

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"path"
	"slices"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"

	"github.com/containervm/containervm/controller/internal/record"
	"github.com/containervm/containervm/controller/internal/volume"
	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// LabelForkedFrom is on a fork's copy of a volume: the name of the volume.
const LabelForkedFrom = "com.containervm.forked-from"

// mountAll makes what a request mounts: volumes that are not there are made, and held. What it refuses it refuses before it makes any.
func (s *Service) mountAll(ctx context.Context, hold *volume.Hold, req Request, rec *record.Container) error {
	from, files, err := s.volumesFrom(req.HostConfig.VolumesFrom)
	if err != nil {
		return err
	}
	all, err := mounts(req.Config, req.HostConfig, from)
	if err != nil {
		return err
	}
	wants := slices.SortedFunc(maps.Values(all), byTarget)
	for _, w := range wants {
		if err := w.check(); err != nil {
			return err
		}
	}
	if err := s.checkDisks(wants); err != nil {
		return err
	}
	if rec.Files, err = copyIn(wants, files, req.HostFiles); err != nil {
		return err
	}
	for _, w := range wants {
		m, err := s.mount(ctx, hold, w)
		if err != nil {
			return err
		}
		rec.Mounts = append(rec.Mounts, m)
	}
	giveUnits(rec.Mounts)
	return nil
}

// check refuses a volume that cannot be made.
func (w wanted) check() error {
	if w.shared != nil || w.Type != mount.TypeVolume {
		return nil
	}
	r := w.request()
	if err := volume.CheckDriver(r.Driver); err != nil {
		return invalid("%v", err) // a 404 here is a missing image to Docker's command line
	}
	return r.Check()
}

// checkDisks refuses more volumes that are disks than a machine can have.
func (s *Service) checkDisks(wants []wanted) error {
	anonymous, named := 0, map[string]bool{}
	for _, w := range wants {
		switch {
		case w.Type != mount.TypeVolume:
		case w.shared != nil:
			named[w.shared.Volume] = w.shared.Disk != nil
		case w.Source == "":
			anonymous++
		default:
			place, err := volume.ParseOptions(w.request().Options)
			if v, missing := s.volumes.Get(w.Source); missing == nil {
				place, err = v.Place, nil
			}
			named[w.Source] = err == nil && place.Kind == volume.KindDisk
		}
	}
	n := anonymous
	for _, disk := range named {
		if disk {
			n++
		}
	}
	if n > hostapi.MaxDataDisks {
		return invalid("a containerVM has at most %d volumes that are disks, and this one wants %d: volumes of type nfs and tmpfs are none", hostapi.MaxDataDisks, n)
	}
	return nil
}

func (w wanted) request() volume.Request {
	r := volume.Request{Name: w.Source}
	if o := w.VolumeOptions; o != nil {
		r.Labels = o.Labels
		if o.DriverConfig != nil {
			r.Driver, r.Options = o.DriverConfig.Name, o.DriverConfig.Options
		}
	}
	return r
}

// volumesFrom returns the mounts of other containers, by target, and the files that were copied into those.
func (s *Service) volumesFrom(specs []string) (map[string]wanted, []record.File, error) {
	all := map[string]wanted{}
	var files []record.File
	for _, text := range specs {
		ref, readOnly, err := parseVolumesFrom(text)
		if err != nil {
			return nil, nil, err
		}
		c, err := s.Get(ref)
		if err != nil {
			return nil, nil, invalid("%v", err)
		}
		for _, m := range c.Mounts {
			if m.ForkedFrom != "" {
				return nil, nil, invalid("cannot use the volumes of %s: it is a fork, and its %s is a copy of volume %s on its own storage", &c, m.Target, m.ForkedFrom)
			}
			m.ReadOnly = m.ReadOnly || readOnly
			m.NoCopy = true
			all[m.Target] = wanted{Mount: mount.Mount{Type: m.Type, Source: m.Source, Target: m.Target, ReadOnly: m.ReadOnly}, shared: &m}
		}
		files = append(files, c.CopiedFiles()...)
	}
	return all, files, nil
}

// CopiedFiles are the files of the host that were copied into a container.
func (c *Container) CopiedFiles() []record.File {
	spec, err := link.DecodeSpec(c.VM.Extra[link.KeySpec])
	if err != nil {
		return nil
	}
	var all []record.File
	for _, f := range spec.GetFiles() {
		all = append(all, record.File{Path: f.GetPath(), Mode: f.GetMode(), UID: f.GetUid(), GID: f.GetGid(), Content: f.GetContent()})
	}
	return all
}

// mount makes the volume of a mount, if it is of one, and holds it.
func (s *Service) mount(ctx context.Context, hold *volume.Hold, w wanted) (record.Mount, error) {
	if w.shared != nil {
		if w.Type == mount.TypeVolume {
			if _, err := hold.Have(w.shared.Volume); err != nil {
				return record.Mount{}, invalid("cannot use the volume of another container: %v", err)
			}
		}
		return *w.shared, nil
	}
	m := record.Mount{Type: w.Type, Target: w.Target, ReadOnly: w.ReadOnly, Mode: w.mode}
	switch w.Type {
	case mount.TypeBind:
		m.Source = path.Clean(w.Source)
		return m, nil
	case mount.TypeTmpfs:
		options, err := tmpfsOptions(w.TmpfsOptions)
		m.Tmpfs = &options
		return m, err
	}
	v, err := hold.Get(ctx, w.request())
	if err != nil {
		return m, err
	}
	if m.Mode == "" && w.Source != "" {
		m.Mode = "z" // as Docker shows it
	}
	m.Volume, m.Source, m.Anonymous, m.NoCopy = v.Name, v.Mountpoint, w.Source == "", w.noCopy
	if o := w.VolumeOptions; o != nil {
		m.Subpath = o.Subpath
	}
	return m, place(&m, v)
}

// place says where the data of a mount's volume is.
func place(m *record.Mount, v volume.Volume) error {
	switch v.Place.Kind {
	case volume.KindDisk:
		m.Disk = &record.Disk{Path: v.Disk}
	case volume.KindNFS:
		m.NFS = &record.NFS{Address: v.Place.Address, Path: path.Join(v.Place.Path, m.Subpath), Options: v.Place.Options}
	case volume.KindTmpfs:
		m.Tmpfs = &v.Place.Options
		if m.Subpath != "" {
			return invalid("volume %s is of type tmpfs: it has no directory %s", v.Name, m.Subpath)
		}
	}
	return nil
}

// giveUnits numbers the disks of a container's volumes, in the order of their targets. Mounts of one volume share a disk, which is read-only
// if they all are.
func giveUnits(all []record.Mount) {
	disks := map[string]*record.Disk{}
	for i, m := range all {
		if m.Disk == nil {
			continue
		}
		d := disks[m.Disk.Path]
		if d == nil {
			d = &record.Disk{Unit: unit(len(disks)), Path: m.Disk.Path, ReadOnly: true}
			disks[d.Path] = d
		}
		d.ReadOnly = d.ReadOnly && m.ReadOnly
		all[i].Disk = d
	}
}

// controllerUnit is the unit number that vSphere keeps for a SCSI controller itself.
const controllerUnit = 7

// unit is the unit number of the nth data disk, from 0.
func unit(n int) int {
	if n+1 < controllerUnit {
		return n + 1
	}
	return n + 2
}

// Disks are the disks of a container's volumes.
func Disks(rec *record.Container) []vsphere.DataDisk {
	var all []vsphere.DataDisk
	for _, m := range rec.Mounts {
		if m.Disk == nil || slices.ContainsFunc(all, func(d vsphere.DataDisk) bool { return d.Unit == m.Disk.Unit }) {
			continue
		}
		all = append(all, vsphere.DataDisk{Unit: m.Disk.Unit, Path: m.Disk.Path, ReadOnly: m.Disk.ReadOnly})
	}
	return all
}

// tetherMounts says what a container's tether is to mount.
func tetherMounts(rec *record.Container) []*tetherv1.Mount {
	var all []*tetherv1.Mount
	for _, m := range rec.Mounts {
		t := &tetherv1.Mount{Target: m.Target, ReadOnly: m.ReadOnly}
		switch {
		case m.Disk != nil:
			t.Source = &tetherv1.Mount_Volume{Volume: &tetherv1.Volume{
				Serial: hostapi.DiskSerial(m.Disk.Unit), CopyUp: !m.NoCopy && !m.ReadOnly, Subpath: m.Subpath,
			}}
		case m.NFS != nil:
			t.Source = &tetherv1.Mount_Nfs{Nfs: &tetherv1.Nfs{Address: m.NFS.Address, Path: m.NFS.Path, Options: m.NFS.Options}}
		case m.Tmpfs != nil:
			t.Source = &tetherv1.Mount_Tmpfs{Tmpfs: &tetherv1.Tmpfs{Options: *m.Tmpfs}}
		default:
			continue // a file
		}
		all = append(all, t)
	}
	for _, target := range slices.Sorted(maps.Keys(rec.HostConfig.Tmpfs)) {
		all = append(all, &tetherv1.Mount{Target: path.Clean(target), Source: &tetherv1.Mount_Tmpfs{
			Tmpfs: &tetherv1.Tmpfs{Options: rec.HostConfig.Tmpfs[target]},
		}})
	}
	return all
}

// tetherFiles are the files that a container's tether is to write.
func tetherFiles(rec *record.Container) []*tetherv1.File {
	var all []*tetherv1.File
	for _, f := range rec.Files {
		all = append(all, &tetherv1.File{Path: f.Path, Mode: f.Mode, Uid: f.UID, Gid: f.GID, Content: f.Content})
	}
	return all
}

// MountPoints are the mounts as an inspection shows them.
func (c *Container) MountPoints() []container.MountPoint {
	all := []container.MountPoint{}
	for _, m := range c.Mounts {
		p := container.MountPoint{Type: m.Type, Name: m.Volume, Source: m.Source, Destination: m.Target, Mode: m.Mode, RW: !m.ReadOnly}
		switch m.Type {
		case mount.TypeVolume:
			p.Driver = volume.Driver
		case mount.TypeBind:
			p.Propagation = mount.PropagationRPrivate
		}
		all = append(all, p)
	}
	return all
}

// HasVolume reports whether a container has a volume, by its name, or something at a target.
func (c *Container) HasVolume(nameOrTarget string) bool {
	return slices.ContainsFunc(c.Mounts, func(m record.Mount) bool {
		return m.Volume != "" && m.Volume == nameOrTarget || m.Target == nameOrTarget
	})
}

// VolumeUsers tells which containers have a volume. The machine that stands at a container's fork point has it only as long as a fork takes,
// and its host lets nobody take it away.
func (s *Service) VolumeUsers(name string) []string {
	var users []string
	for _, c := range s.All() {
		if slices.ContainsFunc(c.Mounts, func(m record.Mount) bool { return m.Volume == name }) && !slices.Contains(users, c.ID) {
			users = append(users, c.ID)
		}
	}
	return users
}

// OwnVolumes are the volumes that are no volumes of the datastore: the copies that forks have on their own storage, and that go with them.
func (s *Service) OwnVolumes() []volume.Volume {
	var all []volume.Volume
	for _, c := range s.All() {
		for _, m := range c.Mounts {
			if m.ForkedFrom == "" || m.Disk == nil || slices.ContainsFunc(all, func(v volume.Volume) bool { return v.Name == m.Volume }) {
				continue
			}
			all = append(all, volume.Volume{
				Name: m.Volume, Created: c.Created, Disk: m.Disk.Path, Mountpoint: m.Source, Place: volume.Place{Kind: volume.KindDisk},
				Labels: map[string]string{volume.AnonymousLabel: "", LabelForkedFrom: m.ForkedFrom},
			})
		}
	}
	return all
}

// ForkMounts are the mounts of a fork of a container: it has copies of its own of the volumes that can be written. path says where in the
// datastore its machine's disk with a unit number is, and display how people are told of a path.
func ForkMounts(id string, all []record.Mount, display func(path string) string) []record.Mount {
	all = slices.Clone(all)
	for i, m := range all {
		if m.Disk == nil || m.Disk.ReadOnly {
			continue
		}
		own := record.Disk{Unit: m.Disk.Unit, Path: fmt.Sprintf("%s/volume-%d.vmdk", id, m.Disk.Unit)}
		sum := sha256.Sum256([]byte("containervm volume " + own.Path))
		all[i].Disk, all[i].Source, all[i].Volume = &own, display(own.Path), hex.EncodeToString(sum[:])
		all[i].Anonymous, all[i].ForkedFrom = true, m.Volume
	}
	return all
}
