package container

import (
	"maps"
	"strings"
	"testing"

	"github.com/containervm/containervm/controller/internal/record"
	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// TestForkedState: a machine that waits at its gate is a created container, and so is one that ended there.
func TestForkedState(t *testing.T) {
	encode := func(text string, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	fork := encode(link.EncodeFork(&tetherv1.Fork{Generation: 1, Index: 2, Source: "cvm-template-1"}))
	done := encode(link.EncodeReceipt(&tetherv1.Receipt{Items: []*tetherv1.ReceiptItem{{Name: "clock", Outcome: tetherv1.ReceiptItem_DONE}}}))
	bad := encode(link.EncodeReceipt(&tetherv1.Receipt{Items: []*tetherv1.ReceiptItem{
		{Name: "mac", Outcome: tetherv1.ReceiptItem_FAILED, Detail: "no such file or directory"},
	}}))
	running := &tetherv1.Status{State: tetherv1.State_RUNNING, StartedUnixNano: 1}
	starting := &tetherv1.Status{State: tetherv1.State_STARTING}
	exited := &tetherv1.Status{State: tetherv1.State_EXITED, Exit: &tetherv1.Exit{Code: 3}}
	failed := &tetherv1.Status{State: tetherv1.State_FAILED, Failure: &tetherv1.Failure{Reason: tetherv1.Failure_FORK, Message: "cannot fork"}}
	const died = `{"at":"2026-01-02T03:04:05Z","reason":"killed"}`
	on, off := vsphere.PoweredOn, vsphere.PoweredOff
	for _, c := range []struct {
		name    string
		power   vsphere.PowerState
		status  *tetherv1.Status
		exit    string
		gate    bool
		receipt string
		state   string
		code    int
		err     string
		kind    string
	}{
		{"parked", on, nil, "", false, "", "created", 0, "", kindFork},
		{"parked, with its receipt", on, starting, "", false, done, "created", 0, "", kindFork},
		{"starting", on, nil, "", true, done, "running", 0, "", kindFork},
		{"running", on, running, "", true, done, "running", 0, "", kindFork},
		{"exited", off, exited, died, true, done, "exited", 3, "", kindFork},
		{"ended while parked", off, nil, died, false, done, "created", 0, "", kindFork},
		{"lost while parked", off, nil, "", false, "", "created", 0, "", kindFork},
		{"failed while parked", off, failed, died, false, bad, "created", 0, "", kindFork},
		{"failed at its start", off, failed, died, true, bad, "created", 125, "the fork could not become this container: mac: no such file or folder", kindFork},
		{"failed without a receipt", off, failed, died, true, "{", "created", 125, "cannot fork", kindFork},
		{"booted by another client", on, running, "", false, "", "running", 0, "", kindBoot},
		{"booted by another client, and exited", off, exited, died, false, "", "exited", 3, "", kindBoot},
	} {
		vm := vmWith(t, c.power, c.status, c.exit)
		vm.Extra = maps.Clone(vm.Extra)
		vm.Extra[link.KeyFork], vm.Extra[link.KeyReceipt] = fork, c.receipt
		if c.gate {
			vm.Extra[link.KeyGate] = link.GateOpen
		}
		got, err := Parse(vm)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if string(got.State()) != c.state || got.ExitCode() != c.code || !strings.Contains(got.Trouble(), c.err) || c.err == "" && got.Trouble() != "" {
			t.Errorf("%s: %s, %d, %q; want %s, %d, %q", c.name, got.State(), got.ExitCode(), got.Trouble(), c.state, c.code, c.err)
		}
		s := &Service{clock: newClock()}
		if info := s.Fork(got); info.Kind != c.kind || (c.kind == kindBoot) != (info.Template == "") || (c.kind == kindBoot) != (info.Why == whyOff) {
			t.Errorf("%s: %+v", c.name, info)
		}
		if got.FinishedAt().IsZero() == (c.state == "exited" || c.gate && c.power == off) {
			t.Errorf("%s: finished at %v", c.name, got.FinishedAt())
		}
	}
}

// TestTimeline: marks of three sources are one list in the order of time; nonsense of the host is none.
func TestTimeline(t *testing.T) {
	vm := vmWith(t, vsphere.PoweredOn, &tetherv1.Status{State: tetherv1.State_RUNNING, Marks: []*tetherv1.Mark{{Name: "exec", UnixNano: 4}, {Name: "hello", UnixNano: 2}}}, "")
	vm.Extra[record.KeyStart] = record.Start{Marks: []record.Mark{{Name: "api", UnixNano: 1}, {Name: "startRequested", UnixNano: 5}}}.Encode()
	vm.Extra[hostapi.KeyTimeline] = `[{"name":"resumed","at":"1970-01-01T00:00:00.000000003Z"}]`
	names := func(s *Service) string {
		t.Helper()
		c, err := Parse(vm)
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		for _, m := range s.timeline(c) {
			all = append(all, m.Name)
		}
		return strings.Join(all, " ")
	}
	s := &Service{clock: newClock()}
	if got := names(s); got != "api hello resumed exec startRequested" {
		t.Errorf("timeline %q", got)
	}
	vm.Extra[hostapi.KeyTimeline] = "nonsense"
	s.clock.set(vm.Name, []record.Mark{{Name: "api", UnixNano: 3}})
	if got := names(s); got != "hello api exec" {
		t.Errorf("timeline with marks of this controller %q", got)
	}
	s.clock.observe(vsphere.VMEvent{Before: &vm})
	if s.clock.get(vm.Name) != nil {
		t.Error("marks of a container that is gone are kept")
	}
}
