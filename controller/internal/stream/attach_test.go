package stream

import (
	"context"
	"testing"
	"time"

	"github.com/containervm/containervm/controller/internal/container"
	"github.com/containervm/containervm/controller/internal/record"
	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// pictures is a host of one VM that is seen as each of them, one after the other.
type pictures struct {
	Host
	vms []vsphere.VM
}

func (p *pictures) Wait(ctx context.Context, _ vsphere.Ref, until func(vsphere.VM) bool) (vsphere.VM, error) {
	for !until(p.vms[0]) {
		if len(p.vms) == 1 {
			<-ctx.Done()
			return p.vms[0], ctx.Err()
		}
		p.vms = p.vms[1:]
	}
	return p.vms[0], nil
}

// TestIdleEndsWithItsRun: an attachment to stdin alone ends with the run that it was made for, also when the watch shows that run only
// once it has ended.
func TestIdleEndsWithItsRun(t *testing.T) {
	picture := func(run string, power vsphere.PowerState, state tetherv1.State) vsphere.VM {
		vm := vsphere.VM{Ref: vsphere.Ref{Value: "vm-1"}, Name: "id", PowerState: power, Extra: map[string]string{record.KeyContainer: "{}"}}
		if run != "" {
			vm.Extra[hostapi.KeyRun] = run
		}
		if state != tetherv1.State_STARTING {
			text, err := link.EncodeStatus(&tetherv1.Status{State: state, Exit: &tetherv1.Exit{}})
			if err != nil {
				t.Fatal(err)
			}
			vm.Extra[link.KeyStatus], vm.Extra[hostapi.KeyExit] = text, `{"at":"2026-01-02T03:04:05Z"}`
		}
		return vm
	}
	off := func(run string) vsphere.VM { return picture(run, vsphere.PoweredOff, tetherv1.State_EXITED) }
	for name, vms := range map[string][]vsphere.VM{
		"first run":         {picture("", vsphere.PoweredOff, tetherv1.State_STARTING), off("1")},
		"next run":          {off("1"), off("2")},
		"seen while it ran": {off("1"), picture("2", vsphere.PoweredOn, tetherv1.State_RUNNING), off("2")},
	} {
		c, err := container.Parse(vms[0])
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second) // it takes that long only when the test fails
		a := &Attachment{Container: c, s: &Service{host: &pictures{vms: vms}}, opt: AttachOptions{Stdin: true, Stream: true}}
		if err := a.idle(ctx, nil, nil); err != nil || ctx.Err() != nil {
			t.Errorf("%s: %v, %v", name, err, ctx.Err())
		}
		cancel()
	}
}
