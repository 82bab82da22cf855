package container

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/containervm/containervm/controller/internal/image"
	"github.com/containervm/containervm/controller/internal/record"
	"github.com/containervm/containervm/controller/internal/template"
	"github.com/containervm/containervm/controller/internal/vsphere"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// restarted is a host of one VM that is started again while its first run's end makes the container be removed.
type restarted struct {
	scripted
	events  chan vsphere.VMEvent
	onGet   func() // at the next Get
	removed chan struct{}
}

func (h *restarted) Subscribe(context.Context) <-chan vsphere.VMEvent { return h.events }

func (h *restarted) VMs() []vsphere.VM { return nil }

func (h *restarted) Get(name string) (vsphere.VM, bool) {
	vm, ok := h.scripted.Get(name)
	if f := h.onGet; f != nil {
		h.onGet = nil
		f()
	}
	return vm, ok
}

func (h *restarted) Destroy(context.Context, vsphere.Ref) error {
	h.vm.Name = "" // it is not found any more
	close(h.removed)
	return nil
}

type noImages struct{ Images }

func (noImages) Released(context.Context, digest.Digest, image.InUse) error { return nil }

// TestAutoRemoveAfterRestart: a container that is to be removed was started again just in time, and the end of that run is seen before
// the removal has ended that came to nothing.
func TestAutoRemoveAfterRestart(t *testing.T) {
	exited := says(&tetherv1.Status{State: tetherv1.State_EXITED, Exit: &tetherv1.Exit{}})
	h := &restarted{events: make(chan vsphere.VMEvent), removed: make(chan struct{})}
	h.vm = vmWith(t, vsphere.PoweredOff, nil, "")
	h.vm.Extra[record.KeyContainer] = `{"hostConfig":{"AutoRemove":true}}`
	h.apply(all(begins(1), exited, ends))
	first := h.vm
	if c, err := Parse(first); err != nil || !c.HostConfig.AutoRemove {
		t.Fatalf("%+v, %v", c.HostConfig, err)
	}
	log := slog.New(slog.DiscardHandler)
	s := New(h, noImages{}, template.New(h, template.Options{}, log), nil, nil, nil, NewMetrics(prometheus.NewRegistry()), Timeouts{}.WithDefaults(), log)
	release, err := s.AcquireStart(t.Context(), first.Name)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		s.Run(ctx)
		close(ended)
	}()
	h.events <- vsphere.VMEvent{After: &first}
	h.apply(begins(2))
	h.onGet = func() {
		h.apply(all(exited, ends))
		second := h.vm
		h.events <- vsphere.VMEvent{After: &second}
	}
	release()
	select {
	case <-h.removed:
	case <-time.After(5 * time.Second): // only when the test fails
		t.Error("the container stays")
	}
	cancel()
	close(h.events)
	<-ended
}
