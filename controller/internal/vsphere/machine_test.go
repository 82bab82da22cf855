package vsphere

import (
	"maps"
	"testing"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
)

// TestBegun: on a host that counts runs a power-on has been seen when a later run shows, on or with its end; never by what the run
// before has left.
func TestBegun(t *testing.T) {
	const exit = `{"run":1}`
	for _, c := range []struct {
		what      string
		power     PowerState
		run, exit string
		last      hostapi.Run
		want      bool
	}{
		{"no numbers, off", PoweredOff, "", "", 0, false},
		{"no numbers, on", PoweredOn, "", "", 0, true},
		{"before the first run", PoweredOff, "", "", 0, false},
		{"the first run", PoweredOn, "1", "", 0, true},
		{"the first run has ended", PoweredOff, "1", exit, 0, true},
		{"the run before, still on", PoweredOn, "1", "", 1, false},
		{"the run before", PoweredOff, "1", exit, 1, false},
		{"a number without a machine yet", PoweredOff, "2", "", 1, false},
		{"the next run", PoweredOn, "2", "", 1, true},
		{"the next run has ended", PoweredOff, "2", exit, 1, true},
		{"after a start that failed", PoweredOn, "3", "", 1, true},
	} {
		vm := &VM{PowerState: c.power, Extra: map[string]string{hostapi.KeyRun: c.run, hostapi.KeyExit: c.exit}}
		if got := begun(vm, c.last); got != c.want {
			t.Errorf("%s: %v", c.what, got)
		}
	}
}

// TestCloneExtra: what a clone does not inherit is removed where a host would keep it, unless it is set anew.
func TestCloneExtra(t *testing.T) {
	c := &Client{inventory: newInventory()}
	source := Ref{Type: "VirtualMachine", Value: "vm-1"}
	c.apply(types.ObjectUpdate{Obj: source, Kind: types.ObjectUpdateKindEnter, ChangeSet: []types.PropertyChange{{
		Name: propExtra, Val: types.ArrayOfOptionValue{OptionValue: optionValues(map[string]string{
			hostapi.KeyKernel: "k", hostapi.KeyRun: "1", hostapi.KeyTimeline: "[]", "annotation": "a", "cvm.role": "template", "guestinfo.x": "1",
			"guestinfo.y": "2",
		})},
	}}})
	got := c.cloneExtra(source, map[string]string{"cvm.role": "warm", "new": "n"})
	want := map[string]string{"cvm.role": "warm", "new": "n", "guestinfo.x": "", "guestinfo.y": ""}
	if !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
