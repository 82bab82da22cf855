package main

import (
	"context"
	"fmt"
	"log/slog"

	"golang.org/x/sys/unix"

	"github.com/containervm/containervm/tether/internal/boot"
	"github.com/containervm/containervm/tether/internal/health"
	"github.com/containervm/containervm/tether/internal/identity"
	"github.com/containervm/containervm/tether/internal/mounts"
	"github.com/containervm/containervm/tether/internal/process"
	"github.com/containervm/containervm/tether/internal/rootfs"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// instance is a container on this machine: who it is, its disk, its root and its processes. A rehearsal has one of its own.
type instance struct {
	spec      *tetherv1.Spec
	disk      rootfs.Disk
	mounted   bool
	swap      rootfs.Swap
	covers    *rootfs.Covers     // nil without a root
	container *process.Container // nil without a root
	mounts    *mounts.Set        // nil: there are none
	hold      *hold              // nil until the process is to run
	main      *process.Session   // nil until the process runs
	health    *health.Monitor    // nil: it is not checked
}

// mountDisk waits for the root disk and mounts it. reread forgets what the kernel has cached of another disk in the same slot.
func (i *instance) mountDisk(ctx context.Context, reread bool) (err error) {
	ctx, cancel := context.WithTimeout(ctx, rootfs.DiskWait)
	defer cancel()
	if i.disk, err = rootfs.WaitDisk(ctx); err == nil && reread {
		err = i.disk.Reread()
	}
	if err == nil {
		err = i.disk.Mount(diskDir, 0, rootfs.DurableOptions)
	}
	if err != nil {
		return &process.Error{Reason: tetherv1.Failure_ROOT_DISK, Err: err}
	}
	i.mounted = true
	return nil
}

// unmountDisk lets go of the disk, if it is mounted.
func (i *instance) unmountDisk() error {
	if !i.mounted {
		return nil
	}
	if err := i.swap.Off(); err != nil {
		return err
	}
	if err := unix.Unmount(diskDir, 0); err != nil {
		return fmt.Errorf("cannot unmount the root disk: %w", err)
	}
	i.mounted = false
	return nil
}

// place is where a container's root is made: namespaces, and files that can lie over the container's. It depends on no container.
type place struct {
	space  *process.Space
	covers *rootfs.Covers
}

func newPlace(base rootfs.Root) (*place, error) {
	covers, err := newCovers()
	if err != nil {
		return nil, err
	}
	space, err := process.NewSpace(base.Stage)
	if err != nil {
		covers.Close()
		return nil, err
	}
	return &place{space, covers}, nil
}

func newCovers() (*rootfs.Covers, error) {
	return rootfs.NewCovers(boot.Covers, identity.BootIDPath, pathHostname, pathHosts, pathResolver, pathMachineID)
}

// enterRoot makes p the container's, with its root made from base. It owns p, also when it fails.
func (i *instance) enterRoot(base rootfs.Root, p *place, reaper *process.Reaper) (err error) {
	i.covers = p.covers
	if err := p.space.Do(i.root(base).Enter); err != nil {
		p.space.Close()
		i.covers.Close()
		return &process.Error{Reason: tetherv1.Failure_ROOT_DISK, Err: err}
	}
	i.container, err = process.NewContainer(p.space, reaper, i.spec.Hostname, rootfs.Cgroup)
	return err
}

// mountAll mounts what lies over the container's root, which is made from base.
func (i *instance) mountAll(ctx context.Context, base rootfs.Root) error {
	root := i.root(base)
	i.mounts = &mounts.Set{
		Dir: mountsDir, Image: diskDir, Resolver: i.spec.Resolver, Hosts: i.spec.Hosts,
		InRoot: func(f func() error) error {
			return i.container.Do(func() error { return root.Writable(f) })
		},
	}
	err := i.mounts.Make(ctx, i.spec.Mounts, i.spec.Files)
	if err == nil && mounts.Covers(i.spec.Mounts, "/etc") { // the tether's own files lie over it, too
		var fresh *rootfs.Covers
		if fresh, err = newCovers(); err == nil {
			i.covers.Close()
			i.covers = fresh
			err = i.container.Do(i.root(base).Rewrite)
		}
	}
	if err != nil {
		return &process.Error{Reason: tetherv1.Failure_MOUNT, Err: err}
	}
	return nil
}

// unmountAll lets go of what lay over the root, which leaveRoot has left.
func (i *instance) unmountAll() error {
	if i.mounts == nil {
		return nil
	}
	return i.mounts.Close()
}

// start runs p as the main process. It may ask for its fork point from its first instruction on.
func (i *instance) start(p *tetherv1.Process, console *slog.Logger) (err error) {
	if i.hold, err = newHold(i.container, console); err != nil {
		return err
	}
	if i.main, err = i.container.Start(link.MainSession, p, process.Options{}); err != nil {
		return err
	}
	return i.hold.serve(i.main.PID)
}

// leaveRoot lets go of the container's namespaces, whose processes have ended with their PID 1.
func (i *instance) leaveRoot() {
	if i.hold != nil {
		i.hold.close()
		i.hold = nil
	}
	if i.container != nil {
		i.container.Close()
		i.container = nil
	}
	if i.covers != nil {
		i.covers.Close()
		i.covers = nil
	}
}

// Files that the tether writes for the container.
const (
	pathHostname  = "/etc/hostname"
	pathHosts     = "/etc/hosts"
	pathResolver  = "/etc/resolv.conf"
	pathMachineID = "/etc/machine-id"
)

// root is base with what is the container's own.
func (i *instance) root(base rootfs.Root) rootfs.Root {
	spec := i.spec
	base.ReadOnly, base.ShmBytes, base.Covers = spec.ReadOnlyRoot, spec.ShmBytes, i.covers
	base.Files = []rootfs.File{
		{Path: pathHostname, Text: identity.Hostname(spec)},
		{Path: pathHosts, Text: identity.Hosts(spec)},
		{Path: pathResolver, Text: identity.ResolvConf(spec.Resolver)},
		{Path: pathMachineID, Text: identity.MachineID(spec.Id)},
	}
	return base
}
