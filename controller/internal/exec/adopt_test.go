package exec

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"

	"github.com/containervm/containervm/controller/internal/container"
	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/tether/link"
	"github.com/containervm/containervm/tether/link/linktest"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// one is a host of one container that runs, with its tether.
type one struct {
	Host
	c container.Container
	l *link.Client
}

func (o *one) All() []container.Container { return []container.Container{o.c} }

func (o *one) GetRunning(string) (container.Container, error) { return o.c, nil }

func (o *one) Tell(*container.Container, events.Action, map[string]string) {}

func (o *one) Get(string) (vsphere.VM, bool) { return o.c.VM, true }

func (o *one) Link(context.Context, vsphere.Ref) (*link.Client, error) { return o.l, nil }

// slowWait is a tether that takes its time for the answer to Wait.
type slowWait struct {
	*linktest.Tether
	answer chan struct{}
}

func (s *slowWait) Wait(ctx context.Context, req *tetherv1.WaitRequest) (*tetherv1.WaitResponse, error) {
	select {
	case <-s.answer:
	case <-ctx.Done():
	}
	return s.Tether.Wait(ctx, req)
}

// TestAdopt: the tether says in one answer how a session stands. No adoption waits for an end that may not come, or takes a session
// that has ended for one that runs because the answer is late.
func TestAdopt(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tether := &slowWait{Tether: linktest.NewTether(t), answer: make(chan struct{})}
	here, there := linktest.SocketPair(t)
	served := make(chan error, 1)
	go func() { served <- link.Serve(ctx, there, tether, slog.New(slog.DiscardHandler)) }()
	l, err := link.NewClient(ctx, here)
	if err != nil {
		t.Fatal(err)
	}
	c := container.Container{ID: strings.Repeat("ab", 32), VM: vsphere.VM{PowerState: vsphere.PoweredOn}}
	begin := func(args ...string) string {
		t.Helper()
		id := newID(c.ID)
		if _, err := l.Tether().Exec(ctx, &tetherv1.ExecRequest{Session: id, Process: &tetherv1.Process{Args: args}}); err != nil {
			t.Fatal(err)
		}
		return id
	}
	ended, runs := begin("exit", "9"), begin("sleep")
	<-tether.Process(ended).Done()
	host := &one{c: c, l: l}
	s := New(host, host, container.Timeouts{}.WithDefaults())
	if st, err := s.Inspect(ctx, ended); err != nil || st.Running || st.ExitCode == nil || *st.ExitCode != 9 {
		t.Errorf("the session that has ended: %+v, %v", st, err)
	}
	if st, err := s.Inspect(ctx, runs); err != nil || !st.Running || st.ExitCode != nil || st.Pid == 0 || st.ContainerID != c.ID {
		t.Errorf("the session that runs: %+v, %v", st, err)
	}
	if ids := s.IDs(c.ID); len(ids) != 1 || ids[0] != runs {
		t.Errorf("sessions that have not ended: %q, want %q", ids, runs)
	}
	if _, err := s.Inspect(ctx, newID(c.ID)); err == nil {
		t.Error("a session that nobody made is found")
	}
	close(tether.answer)
	if _, err := l.Tether().Signal(ctx, &tetherv1.SignalRequest{Session: runs, Signal: 9}); err != nil {
		t.Fatal(err)
	}
	for len(s.IDs(c.ID)) > 0 && ctx.Err() == nil { // nothing announces it
		time.Sleep(time.Millisecond)
	}
	if st, err := s.Inspect(ctx, runs); err != nil || st.Running || st.ExitCode == nil || *st.ExitCode != 137 {
		t.Errorf("the session that was killed: %+v, %v", st, err)
	}
	l.Close()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// TestEndsWithRun: a session ends with the run of its machine, also when that is off too shortly to be seen.
func TestEndsWithRun(t *testing.T) {
	on := func(run string) *vsphere.VM {
		return &vsphere.VM{Ref: vsphere.Ref{Value: "vm-1"}, PowerState: vsphere.PoweredOn, Extra: map[string]string{hostapi.KeyRun: run, "guestinfo.x": run}}
	}
	off := on("3")
	off.PowerState = vsphere.PoweredOff
	other := on("4")
	other.Ref.Value = "vm-2"
	before := on("2")
	before.PowerState = vsphere.PoweredOff
	for name, c := range map[string]struct {
		after *vsphere.VM
		ends  bool
	}{
		"off before its run, told late": {before, false}, "on before its run, told late": {on("2"), false},
		"something was said": {on("3"), false}, "another machine": {other, false}, "off": {off, true}, "gone": {nil, true}, "off and on again": {on("4"), true},
	} {
		x := newSessions()
		e, _ := x.add(&session{vm: off.Ref, run: 3, State: State{ID: "e", Running: true}})
		x.observe(vsphere.VMEvent{Before: on("3"), After: c.after})
		if st := x.state(e); st.Running == c.ends || c.ends && *st.ExitCode != 137 {
			t.Errorf("%s: %+v", name, st)
		}
	}
}

// TestStartOfAnEndedSession: a session that was made in a run that has ended does not start in the next one, and one whose machine
// ends while it is being started does not run for ever.
func TestStartOfAnEndedSession(t *testing.T) {
	on := func(run string) vsphere.VM {
		return vsphere.VM{Ref: vsphere.Ref{Value: "vm-1"}, PowerState: vsphere.PoweredOn, Extra: map[string]string{hostapi.KeyRun: run}}
	}
	second := on("2")
	s := New(nil, &one{c: container.Container{VM: second, Run: 2}}, container.Timeouts{}.WithDefaults())
	e, _ := s.sessions.add(&session{vm: second.Ref, run: 1, State: State{ID: "e", ContainerID: "c"}})
	if _, err := s.Start(t.Context(), "e", false, nil); !errdefs.IsConflict(err) {
		t.Errorf("start of a session of the run before: %v", err)
	}
	s.sessions.runs(e, 7)
	if st := s.sessions.state(e); st.Running || st.ExitCode == nil {
		t.Errorf("a session that ended while it was started: %+v", st)
	}
}
