package files

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	ctr "github.com/containervm/containervm/controller/internal/container"
	"github.com/containervm/containervm/controller/internal/guest"
	"github.com/containervm/containervm/controller/internal/ident"
	"github.com/containervm/containervm/controller/internal/record"
	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

const (
	// helperCPUs and helperMemoryMiB are a helper's size: it copies, and needs room for the page cache of that.
	helperCPUs      = 1
	helperMemoryMiB = 256
	// idleTime is how long a helper waits for someone else who wants the same container's files.
	idleTime = 5 * time.Second
	// startGrace is how long a start of the container waits for those who read and write its files. Then it ends them.
	startGrace = 10 * time.Second
	// bootTime bounds how long a helper may take to serve, and endTime how long to end.
	bootTime = time.Minute
	endTime  = 30 * time.Second
)

// helper is a machine that has the disks of a container which does not run. Who uses it counts; when nobody has for a while it ends. It is
// ended also when the container is to start or to be removed.
type helper struct {
	s      *Service
	id     string // of the container
	mounts bool   // it has what is mounted over the root
	vm     vsphere.Ref
	name   string
	ended  chan struct{} // closed when the machine is gone
	unused chan struct{} // has a token when the last user left

	users  int         // guarded by mu of Service
	ending bool        // likewise: nobody begins to use it any more
	idle   *time.Timer // likewise; nil: it is in use
}

// use returns a helper of a container, and makes one if there is none. The error is of class errdefs.ErrNotModified when the container runs by
// then.
func (s *Service) use(ctx context.Context, c ctr.Container, mounts bool) (*helper, func(), error) {
	mounts = mounts && len(c.Mounts) > 0
	for _, m := range c.Mounts {
		if mounts && m.NFS != nil {
			return nil, nil, errdefs.ErrConflict.WithMessage(fmt.Sprintf(
				"cannot copy from or to %s: it has the NFS volume %s at %s, which only a container that runs can reach: start it first", &c, m.Volume, m.Target))
		}
	}
	for {
		h, other := s.enter(c.ID, mounts)
		if h != nil {
			return h, h.leave, nil
		}
		if other != nil { // it ends, or has not what is needed
			if err := other.wait(ctx); err != nil {
				return nil, nil, err
			}
			continue
		}
		err := s.containers.Lend(ctx, c.ID, func(ctx context.Context, c ctr.Container) (ctr.TakeBack, error) {
			if h, other := s.enter(c.ID, mounts); h != nil || other != nil { // someone else was faster
				if h != nil {
					h.leave()
				}
				return nil, nil
			}
			return s.start(ctx, c, mounts)
		})
		if err != nil {
			return nil, nil, err
		}
	}
}

// enter is a use of the helper of a container, or another one that has to end first; or there is none.
func (s *Service) enter(id string, mounts bool) (h, other *helper) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h = s.helpers[id]
	switch {
	case h == nil:
		return nil, nil
	case h.ending:
		return nil, h
	case mounts && !h.mounts:
		if h.users == 0 {
			h.ending = true
			go h.end()
		}
		return nil, h
	}
	if h.idle != nil {
		h.idle.Stop()
		h.idle = nil
	}
	h.users++
	return h, nil
}

// wait waits until a helper is gone, or its last user leaves it.
func (h *helper) wait(ctx context.Context) error {
	select {
	case <-h.ended:
		return nil
	case <-h.unused:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (h *helper) leave() {
	h.s.mu.Lock()
	defer h.s.mu.Unlock()
	if h.users--; h.users > 0 {
		return
	}
	select {
	case h.unused <- struct{}{}:
	default:
	}
	if !h.ending {
		h.idle = time.AfterFunc(idleTime, h.endIdle)
	}
}

func (h *helper) endIdle() {
	h.s.mu.Lock()
	if h.users > 0 || h.ending {
		h.s.mu.Unlock()
		return
	}
	h.ending = true
	h.s.mu.Unlock()
	h.end()
}

// takeBack ends a helper, since its container is to start or to be removed. It waits a while for those who use it.
func (h *helper) takeBack(ctx context.Context, grace bool) {
	h.s.mu.Lock()
	mine := !h.ending
	h.ending = true
	users := h.users
	h.s.mu.Unlock()
	if !mine {
		<-h.ended
		return
	}
	if users > 0 && grace {
		select {
		case <-h.unused:
		case <-time.After(startGrace):
		case <-ctx.Done():
		}
	}
	h.end()
}

// start makes a container's helper.
func (s *Service) start(ctx context.Context, c ctr.Container, mounts bool) (ctr.TakeBack, error) {
	h := &helper{
		s: s, id: c.ID, mounts: mounts || len(c.Mounts) == 0, ended: make(chan struct{}), unused: make(chan struct{}, 1),
		name: "cvm-files-" + c.ID[:12] + "-" + ident.New()[:6],
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), bootTime)
	defer cancel()
	if err := h.boot(ctx, c); err != nil {
		h.remove()
		return nil, fmt.Errorf("cannot start the machine that has the files of %s: %w", &c, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.helpers[c.ID] = h
	h.idle = time.AfterFunc(idleTime, h.endIdle)
	return h.takeBack, nil
}

func (h *helper) boot(ctx context.Context, c ctr.Container) (err error) {
	spec, err := filesSpec(c, h.mounts)
	if err != nil {
		return err
	}
	boot := h.s.host.Boot()
	machine := vsphere.VMSpec{
		Name: h.name, UUID: ident.UUID(ident.New()), CPUs: helperCPUs, MemoryMiB: helperMemoryMiB, Kernel: boot.Kernel, Initrd: boot.Initrd,
		RootDisk:    c.ID + "/" + hostapi.RootDisk,
		ExtraConfig: map[string]string{record.KeyRole: record.RoleFiles, link.KeySpec: spec},
	}
	if h.mounts {
		machine.Disks = ctr.Disks(&c.Container)
	}
	if h.vm, err = h.s.host.CreateVM(ctx, machine); err != nil {
		return err
	}
	if err := h.s.host.PowerOn(ctx, h.vm); err != nil {
		return err
	}
	return h.ready(ctx)
}

// filesSpec says what a helper's tether is to do.
func filesSpec(c ctr.Container, mounts bool) (string, error) {
	own, err := link.DecodeSpec(c.VM.Extra[link.KeySpec])
	if err != nil {
		return "", err
	}
	spec := &tetherv1.Spec{Mode: tetherv1.Mode_FILES, Id: own.Id, Hostname: own.Hostname, Domainname: own.Domainname, ReadOnlyRoot: own.ReadOnlyRoot}
	if mounts {
		spec.Files = own.Files
		for _, m := range own.Mounts {
			if m.GetVolume() != nil { // memory is there only while a container runs
				spec.Mounts = append(spec.Mounts, m)
			}
		}
	}
	return link.EncodeSpec(spec)
}

// ready waits until the tether says that it serves.
func (h *helper) ready(ctx context.Context) error {
	var st *tetherv1.Status
	vm, err := h.s.host.Wait(ctx, h.vm, func(vm vsphere.VM) bool {
		st, _ = link.DecodeStatus(vm.Extra[link.KeyStatus])
		return st != nil && st.State != tetherv1.State_STARTING || vm.PowerState != vsphere.PoweredOn
	})
	switch {
	case err != nil:
		return fmt.Errorf("it is not ready: %w; its tether hangs in phase %q%s",
			err, cmp.Or(vm.Extra[link.KeyPhase], "before the first"), guest.Quote(h.s.host.ConsoleTail(context.WithoutCancel(ctx), h.name)))
	case st.GetState() == tetherv1.State_FAILED:
		return errors.New(st.GetFailure().GetMessage())
	case st.GetState() != tetherv1.State_RUNNING:
		return fmt.Errorf("it ended in boot phase %q: %s", vm.Extra[link.KeyPhase], vm.Extra[hostapi.KeyExit])
	}
	return nil
}

// end ends a helper. It is called once, with ending set.
func (h *helper) end() {
	h.s.stop(h.vm, h.name)
	h.remove()
	h.s.mu.Lock()
	delete(h.s.helpers, h.id)
	h.s.mu.Unlock()
	h.s.containers.Returned(h.id)
	close(h.ended)
}

// stop ends a helper's machine in order: its file systems are clean then.
func (s *Service) stop(vm vsphere.Ref, name string) {
	ctx, cancel := context.WithTimeout(context.Background(), endTime)
	defer cancel()
	err := s.calls.Call(ctx, vm, func(ctx context.Context, t tetherv1.TetherService) error {
		_, err := t.Stop(ctx, &tetherv1.StopRequest{})
		return err
	})
	if err == nil {
		_, err = s.host.Wait(ctx, vm, func(vm vsphere.VM) bool { return vm.PowerState != vsphere.PoweredOn })
	}
	if err != nil && !errdefs.IsNotFound(err) {
		s.log.Warn("the machine that has a container's files does not end in order", "vm", name, "err", err)
	}
}

// remove removes a helper's machine, if there is one.
func (h *helper) remove() {
	if h.vm == (vsphere.Ref{}) {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), endTime)
	defer cancel()
	if err := h.s.destroy(ctx, h.vm); err != nil {
		h.s.log.Error("the machine that had a container's files is left behind; the next start removes it", "vm", h.name, "err", err)
	}
}

// destroy pulls the plug of a helper, takes its disks from it, which are a container's, and removes it.
func (s *Service) destroy(ctx context.Context, vm vsphere.Ref) error {
	if now, ok := s.vm(vm); ok && now.PowerState == vsphere.PoweredOn {
		if err := s.host.PowerOff(ctx, vm); err != nil {
			return err
		}
	}
	var units []int
	for unit := range hostapi.MaxDataDisks + 2 {
		units = append(units, unit)
	}
	if err := s.host.DetachDisks(ctx, vm, units, nil); err != nil {
		return err
	}
	return s.host.Destroy(ctx, vm)
}

func (s *Service) vm(ref vsphere.Ref) (vsphere.VM, bool) {
	for _, vm := range s.host.VMs() {
		if vm.Ref == ref {
			return vm, true
		}
	}
	return vsphere.VM{}, false
}

// Sweep removes the helpers of an earlier run. It is called before containers are started or removed.
func (s *Service) Sweep(ctx context.Context) {
	for _, vm := range s.host.VMs() {
		if vm.Extra[record.KeyRole] != record.RoleFiles {
			continue
		}
		s.log.Info("removing a machine that had a container's files in an earlier run", "vm", vm.Name)
		if vm.PowerState == vsphere.PoweredOn {
			s.stop(vm.Ref, vm.Name)
		}
		if err := s.destroy(ctx, vm.Ref); err != nil {
			s.log.Warn("cannot remove it", "vm", vm.Name, "err", err)
		}
	}
}

// Close ends all helpers, and waits for that.
func (s *Service) Close() {
	s.mu.Lock()
	var all []*helper
	for _, h := range s.helpers {
		all = append(all, h)
	}
	s.mu.Unlock()
	var ends sync.WaitGroup
	for _, h := range all {
		ends.Go(func() { h.takeBack(context.Background(), false) })
	}
	ends.Wait()
}
