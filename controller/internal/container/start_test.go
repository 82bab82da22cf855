package container

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/containervm/containervm/controller/internal/template"
	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// scripted is a host of one VM whose operations change it as a script says.
type scripted struct {
	machines
	vm     vsphere.VM
	script map[string][]change // by operation: "gate", "on"; what becomes of the VM then, in the order in which it is seen
	seen   []change            // still to be seen
	did    []string
}

// machines are the operations that no start needs.
type machines interface {
	Host
	template.Host
}

// change is what happens to the VM.
type change func(*vsphere.VM)

func (h *scripted) do(operation string) {
	h.did = append(h.did, operation)
	changes := h.script[operation]
	if len(changes) > 0 {
		h.apply(changes[0])
		h.seen = changes[1:]
	}
}

func (h *scripted) apply(c change) {
	h.vm.Extra = maps.Clone(h.vm.Extra)
	c(&h.vm)
}

func (h *scripted) Seq() uint64 { return 0 }

func (h *scripted) VMs() []vsphere.VM { return []vsphere.VM{h.vm} }

func (h *scripted) Get(name string) (vsphere.VM, bool) { return h.vm, name == h.vm.Name }

func (h *scripted) Wait(ctx context.Context, _ vsphere.Ref, until func(vsphere.VM) bool) (vsphere.VM, error) {
	for !until(h.vm) {
		if len(h.seen) == 0 {
			<-ctx.Done()
			return h.vm, ctx.Err()
		}
		h.apply(h.seen[0])
		h.seen = h.seen[1:]
	}
	return h.vm, nil
}

func (h *scripted) Change(_ context.Context, _ vsphere.Ref, change vsphere.Change) error {
	extra := change.Extra
	h.apply(func(vm *vsphere.VM) {
		for k, v := range extra {
			if vm.Extra[k] = v; v == "" {
				delete(vm.Extra, k)
			}
		}
	})
	if extra[link.KeyGate] == link.GateOpen {
		h.do("gate")
	}
	return nil
}

func (*scripted) Has(string) bool { return true }

func (h *scripted) PowerOn(context.Context, vsphere.Ref) error {
	h.do("on")
	return nil
}

func (h *scripted) PowerOff(context.Context, vsphere.Ref) error {
	h.did = append(h.did, "off")
	return nil
}

func (h *scripted) ConsoleTail(context.Context, string) string { return "" }

// begins is the run n of a machine that is on and has said nothing.
func begins(n int) change {
	return func(vm *vsphere.VM) {
		vm.PowerState = vsphere.PoweredOn
		for _, key := range []string{link.KeyStatus, link.KeyReceipt, hostapi.KeyExit} {
			delete(vm.Extra, key)
		}
		vm.Extra[hostapi.KeyRun] = fmt.Sprint(n)
	}
}

// numbered is a run that has its number before the machine is on.
func numbered(n int) change {
	return func(vm *vsphere.VM) {
		begins(n)(vm)
		vm.PowerState = vsphere.PoweredOff
	}
}

func says(st *tetherv1.Status) change {
	return func(vm *vsphere.VM) {
		text, err := link.EncodeStatus(st)
		if err != nil {
			panic(err)
		}
		vm.Extra[link.KeyStatus] = text
	}
}

// ends is the end of the machine. The host's clock is an hour ahead: no start may go by it.
func ends(vm *vsphere.VM) {
	vm.PowerState = vsphere.PoweredOff
	vm.Extra[hostapi.KeyExit] = fmt.Sprintf(`{"run":%s,"at":%q,"reason":"killed"}`, vm.Extra[hostapi.KeyRun], time.Now().Add(time.Hour).Format(time.RFC3339))
}

func all(changes ...change) change {
	return func(vm *vsphere.VM) {
		for _, c := range changes {
			c(vm)
		}
	}
}

// isFork makes the VM one that was forked.
func isFork(vm *vsphere.VM) {
	text, err := link.EncodeFork(&tetherv1.Fork{Generation: 1, Index: 1, Source: "cvm-template-1"})
	if err != nil {
		panic(err)
	}
	vm.Extra[link.KeyFork] = text
}

// TestStartByRunAndPhase holds the table of start.
func TestStartByRunAndPhase(t *testing.T) {
	starting, runs := &tetherv1.Status{State: tetherv1.State_STARTING}, &tetherv1.Status{State: tetherv1.State_RUNNING}
	exited := &tetherv1.Status{State: tetherv1.State_EXITED, Exit: &tetherv1.Exit{}}
	failed := &tetherv1.Status{State: tetherv1.State_FAILED, Failure: &tetherv1.Failure{Reason: tetherv1.Failure_NOT_FOUND}}
	unfit := &tetherv1.Status{State: tetherv1.State_FAILED, Failure: &tetherv1.Failure{Reason: tetherv1.Failure_FORK}}
	on := func(n int, then ...change) []change { return append([]change{begins(n)}, then...) }
	for _, c := range []struct {
		name   string
		from   change
		script map[string][]change
		did    string
		says   string // in the error
	}{
		{"never started", all(), map[string][]change{"on": on(1, says(starting), says(runs))}, "on", ""},
		{"numbered before it is on", all(begins(1), says(exited), ends), map[string][]change{"on": {numbered(2), begins(2), says(runs)}}, "on", ""},
		{"too short to be seen running", all(begins(1), ends), map[string][]change{"on": {all(begins(2), says(exited), ends)}}, "on", ""},
		{"a power-on that the picture does not show yet", all(begins(4), ends), map[string][]change{"on": {all(), begins(5), says(runs)}}, "on", ""},
		{"cannot run its command", all(), map[string][]change{"on": on(1, all(says(failed), ends))}, "on", "executable file not found"},
		{"ends before its process runs", all(), map[string][]change{"on": on(1, ends)}, "on", "before the process ran: killed"},
		{"hangs", all(), map[string][]change{"on": on(1)}, "on off", "its process does not run after"},
		{"parked", all(begins(1), isFork), map[string][]change{"gate": {all(), says(runs)}}, "gate", ""},
		{"parked, and ended at its gate", all(begins(1), isFork), map[string][]change{"gate": {ends}, "on": on(2, says(runs))}, "gate on", ""},
		{"parked, and ended at its gate with a word", all(begins(1), isFork, says(starting)), map[string][]change{"gate": {ends}, "on": on(2, says(runs))}, "gate on", ""},
		{"parked, and ends behind its gate", all(begins(1), isFork), map[string][]change{"gate": {all(), ends}}, "gate", "before the process ran: killed"},
		{"boots, and ends, after it ended at its gate", all(begins(1), isFork), map[string][]change{"gate": {ends}, "on": on(2, ends)}, "gate on", "before the process ran: killed"},
		{"could not become the container", all(begins(1), isFork, says(unfit), ends), nil, "gate", "failed to create task"},
		{"forked, and off since", all(begins(1), isFork, ends), map[string][]change{"on": on(2, says(runs))}, "on", ""},
		{"on a host that numbers no runs", all(), map[string][]change{"on": {func(vm *vsphere.VM) { vm.PowerState = vsphere.PoweredOn }, says(runs)}}, "on", ""},
	} {
		h := &scripted{vm: vmWith(t, vsphere.PoweredOff, nil, ""), script: c.script}
		h.apply(c.from)
		log := slog.New(slog.DiscardHandler)
		times := Timeouts{Start: 50 * time.Millisecond, Off: 10 * time.Millisecond}.WithDefaults()
		s := New(h, nil, template.New(h, template.Options{}, log), nil, nil, nil, NewMetrics(prometheus.NewRegistry()), times, log)
		err := s.Start(t.Context(), h.vm.Name)
		if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", c.name, err, c.says)
		}
		if did := strings.Join(h.did, " "); did != c.did {
			t.Errorf("%s: it did %q, want %q", c.name, did, c.did)
		}
		if again := s.Start(t.Context(), h.vm.Name); err == nil && h.vm.PowerState == vsphere.PoweredOn && !errdefs.IsNotModified(again) {
			t.Errorf("%s: a second start: %v", c.name, again)
		}
	}
}

// TestEventsBelongToRuns: a run's start and end are told once for it, whatever changes the watch joins into one.
func TestEventsBelongToRuns(t *testing.T) {
	runs := &tetherv1.Status{State: tetherv1.State_RUNNING, StartedUnixNano: 1}
	exited := func(code int32) *tetherv1.Status {
		return &tetherv1.Status{State: tetherv1.State_EXITED, StartedUnixNano: 1, Exit: &tetherv1.Exit{Code: code}}
	}
	for _, c := range []struct {
		name    string
		changes []change
		want    string
	}{
		{"step by step", []change{numbered(1), begins(1), says(runs), says(exited(3)), ends}, "start die3"},
		{"numbered, then at once over", []change{numbered(1), all(begins(1), says(exited(3)), ends)}, "start die3"},
		{"whole runs at once, of the same words", []change{all(begins(1), says(exited(3)), ends), all(begins(2), says(exited(3)), ends)}, "start die3 start die3"},
		{"killed", []change{begins(1), says(runs), ends}, "start die137"},
		{"a failed start leaves the run before as it was", []change{all(begins(1), says(exited(3)), ends), numbered(2), all(begins(1), says(exited(3)), ends)}, "start die3"},
		{"ended at its gate, and boots", []change{
			all(begins(1), isFork), ends, func(vm *vsphere.VM) { delete(vm.Extra, link.KeyFork) }, numbered(2), begins(2), says(runs), ends,
		}, "start die137"},
		{"ended at its gate, which is opened then", []change{all(begins(1), isFork), ends, func(vm *vsphere.VM) { vm.Extra[link.KeyGate] = link.GateOpen }}, ""},
		{"ended at its gate", []change{all(begins(1), isFork), ends}, ""},
	} {
		before := vmWith(t, vsphere.PoweredOff, nil, "")
		var got []string
		for _, change := range c.changes {
			after := before
			after.Extra = maps.Clone(before.Extra)
			change(&after)
			for _, m := range eventsOf(pictures{}.of(&before), pictures{}.of(&after), time.Now()) {
				got = append(got, string(m.Action)+m.Actor.Attributes["exitCode"])
			}
			before = after
		}
		if text := strings.Join(got, " "); text != c.want {
			t.Errorf("%s: %q, want %q", c.name, text, c.want)
		}
	}
}
