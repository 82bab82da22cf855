package image

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/containervm/containervm/controller/internal/record"
	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// Size of an unpacker VM. The memory holds the page cache of what is being written. A second CPU gains nothing: a Debian root of 177 MB took 4.0 s
// in the guest with two, 4.1 s with one.
const (
	unpackerCPUs      = 1
	unpackerMemoryMiB = 512
)

// Bounds of waits that have no other end.
const (
	bootTimeout    = time.Minute
	destroyTimeout = time.Minute
)

// unpacker is a VM that extracts layers of one chain.
type unpacker struct {
	s      *Store
	ref    vsphere.Ref
	name   string
	booted chan struct{} // closed when link and err are set
	link   *link.Client
	err    error
	cancel context.CancelFunc
	close  func() // removes the VM, also when it never came up, and frees its slot; may be called again
}

// startUnpacker waits for a free slot and begins to boot a VM; use waits for it. The caller must close it.
func (s *Store) startUnpacker(ctx context.Context) (*unpacker, error) {
	select {
	case s.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	id := make([]byte, 32)
	rand.Read(id)
	u := &unpacker{s: s, name: "cvm-unpacker-" + hex.EncodeToString(id[:4]), booted: make(chan struct{})}
	u.close = sync.OnceFunc(u.remove)
	ctx, u.cancel = context.WithTimeout(ctx, bootTimeout)
	go func() {
		defer close(u.booted)
		if err := u.boot(ctx, hex.EncodeToString(id)); err != nil {
			u.err = fmt.Errorf("cannot start the VM that unpacks layers: %w", err)
		}
	}()
	return u, nil
}

func (u *unpacker) boot(ctx context.Context, id string) (err error) {
	spec, err := link.EncodeSpec(&tetherv1.Spec{Mode: tetherv1.Mode_UNPACK, Id: id, Hostname: u.name})
	if err != nil {
		return err
	}
	host, files := u.s.host, u.s.host.Boot()
	// Without cancel: when ctx ended during the call, the VM would exist but its reference would be unknown here.
	u.ref, err = host.CreateVM(context.WithoutCancel(ctx), vsphere.VMSpec{
		Name: u.name, UUID: fmt.Sprintf("%s-%s-%s-%s-%s", id[:8], id[8:12], id[12:16], id[16:20], id[20:32]),
		CPUs: unpackerCPUs, MemoryMiB: unpackerMemoryMiB,
		Kernel: files.Kernel, Initrd: files.Initrd,
		ExtraConfig: map[string]string{record.KeyRole: record.RoleUnpacker, link.KeySpec: spec},
	})
	if err != nil {
		return err
	}
	if err := host.PowerOn(ctx, u.ref); err != nil {
		return err
	}
	if err := u.ready(ctx); err != nil {
		return err
	}
	u.link, err = host.Link(ctx, u.ref)
	return err
}

// ready waits until the tether says that it serves.
func (u *unpacker) ready(ctx context.Context) error {
	var st *tetherv1.Status
	vm, err := u.s.host.Wait(ctx, u.ref, func(vm vsphere.VM) bool {
		st, _ = link.DecodeStatus(vm.Extra[link.KeyStatus])
		return st != nil && st.State != tetherv1.State_STARTING || vm.PowerState != vsphere.PoweredOn
	})
	switch {
	case err != nil:
		return fmt.Errorf("it is not ready: %w; its tether hangs in phase %q; the end of its console:\n%s",
			err, cmp.Or(vm.Extra[link.KeyPhase], "before the first"), u.s.host.ConsoleTail(context.WithoutCancel(ctx), u.name))
	case st.GetState() == tetherv1.State_FAILED:
		return errors.New(st.GetFailure().GetMessage())
	case st.GetState() != tetherv1.State_RUNNING:
		return fmt.Errorf("it ended in boot phase %q: %s", vm.Extra[link.KeyPhase], vm.Extra[hostapi.KeyExit])
	}
	return nil
}

// extract makes the disk partial, a delta of parent, and has the tether extract into it the tar that feed writes. When
// it fails the unpacker must not be used again, since the disk may still be in its slot.
func (u *unpacker) extract(ctx context.Context, partial, parent string, feed func(io.Writer) error) (*tetherv1.UnpackResponse, error) {
	select {
	case <-u.booted:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if u.err != nil {
		return nil, u.err
	}
	if err := u.s.host.AttachDelta(ctx, u.ref, partial, parent); err != nil {
		return nil, fmt.Errorf("cannot make a disk: %w", err)
	}
	res, err := u.stream(ctx, feed)
	if err != nil {
		return nil, err
	}
	if err := u.s.host.DetachDisk(ctx, u.ref); err != nil {
		return nil, fmt.Errorf("cannot detach the disk: %w", err)
	}
	return res, nil
}

// stream runs the tether's Unpack and feeds it. Of the two ends' errors it returns the one that came first, since the
// other follows from it; when the tether stops reading, its own error tells why.
func (u *unpacker) stream(ctx context.Context, feed func(io.Writer) error) (*tetherv1.UnpackResponse, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	id := rand.Text()
	up, err := u.link.Upload(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("cannot reach the unpacker: %w", err)
	}
	defer up.Close()
	defer context.AfterFunc(ctx, func() { up.Close() })()

	var res *tetherv1.UnpackResponse
	done := make(chan error, 1)
	go func() {
		var err error
		res, err = u.link.Tether().Unpack(ctx, &tetherv1.UnpackRequest{Upload: id, MaxBytes: MaxLayerBytes, MaxEntries: MaxLayerEntries})
		if err != nil {
			err = invalid("%v", err)
			cancel(err)
		}
		done <- err
	}()
	w := &sink{w: up}
	if err := feed(w); err != nil && w.err == nil {
		cancel(err) // the source is at fault, not the way to the tether
	}
	if w.err == nil && ctx.Err() == nil {
		w.err = up.CloseWrite()
	} else {
		up.Close()
	}
	rpcErr := <-done
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return res, errors.Join(rpcErr, w.err)
}

// sink remembers that writing failed.
type sink struct {
	w   io.Writer
	err error
}

func (s *sink) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	if err != nil {
		s.err = fmt.Errorf("lost the unpacker: %w", err)
	}
	return n, err
}

func (u *unpacker) remove() {
	u.cancel()
	<-u.booted
	defer func() { <-u.s.slots }()
	if u.ref == (vsphere.Ref{}) {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), destroyTimeout)
	defer cancel()
	if err := u.s.destroy(ctx, u.ref); err != nil {
		u.s.log.Error("an unpacker is left behind; the next start removes it", "vm", u.name, "err", err)
	}
}

// destroy pulls the plug of a VM and removes it.
func (s *Store) destroy(ctx context.Context, vm vsphere.Ref) error {
	if err := s.host.PowerOff(ctx, vm); err != nil {
		return fmt.Errorf("cannot remove the unpacker: %w", err)
	}
	if err := s.host.Destroy(ctx, vm); err != nil {
		return fmt.Errorf("cannot remove the unpacker: %w", err)
	}
	return nil
}
