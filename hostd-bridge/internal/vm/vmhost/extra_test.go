package vmhost_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/vmtest"
)

// TestExtraFitsTheJournal: extraConfig is bounded as it is written down, where a control character has six bytes, so a VM with as much of it as
// there can be is renamed, ends and is destroyed.
func TestExtraFitsTheJournal(t *testing.T) {
	big := strings.Repeat("\x01", hostapi.MaxExtraValue)
	h := newHost(t, func(ctx context.Context, m *vmtest.Machine) {
		m.Set("guestinfo.a", big[:hostapi.MaxExtraValue/3]) // 1 MiB as JSON, which is all that a supervisor takes
		<-ctx.Done()
	})
	c := config("big")
	if c.Extra == nil {
		c.Extra = map[string]string{}
	}
	for n := range 3 {
		c.Extra[fmt.Sprint("key", n)] = big
	}
	var refused *vm.ArgumentError
	if _, err := h.Create(t.Context(), c, nil); !errors.As(err, &refused) || !strings.Contains(err.Error(), "8192 KiB") {
		t.Errorf("9 MiB of extraConfig: %v", err)
	}
	delete(c.Extra, "key2")
	ref, err := h.Create(t.Context(), c, nil)
	h.must(err)
	if err := h.Reconfigure(t.Context(), ref, vm.Change{Extra: map[string]string{"key3": big}}); !errors.As(err, &refused) {
		t.Errorf("9 MiB by a change: %v", err)
	}
	h.must(h.PowerOn(t.Context(), ref))
	h.wait(ref, func(v *vm.VM) bool { return v.Guest["guestinfo.a"] != "" })
	h.must(h.Reconfigure(t.Context(), ref, vm.Change{Name: "renamed"}))
	h.must(h.PowerOff(t.Context(), ref))
	h.must(h.Destroy(t.Context(), ref))
}
