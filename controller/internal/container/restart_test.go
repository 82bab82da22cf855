package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/containervm/containervm/controller/internal/record"
	"github.com/containervm/containervm/controller/internal/template"
	"github.com/containervm/containervm/controller/internal/vsphere"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// withPolicy is a change that gives the container a restart policy.
func withPolicy(name container.RestartPolicyMode, most int) change {
	return func(vm *vsphere.VM) {
		text, err := json.Marshal(record.Container{
			Config:     container.Config{Cmd: []string{"cmd"}},
			HostConfig: container.HostConfig{RestartPolicy: container.RestartPolicy{Name: name, MaximumRetryCount: most}},
		})
		if err != nil {
			panic(err)
		}
		vm.Extra[record.KeyContainer] = string(text)
	}
}

func noted(r record.Restart) change {
	return func(vm *vsphere.VM) {
		if vm.Extra[record.KeyRestart] = r.Encode(); r == (record.Restart{}) {
			delete(vm.Extra, record.KeyRestart)
		}
	}
}

// TestRestartPolicies holds what each policy does after the end of a run, and when the engine starts anew: Docker's rules.
func TestRestartPolicies(t *testing.T) {
	exited := func(code int32) change {
		return all(begins(1), says(&tetherv1.Status{State: tetherv1.State_EXITED, StartedUnixNano: 1, Exit: &tetherv1.Exit{Code: code}}), ends)
	}
	const always, unless, failure, no = container.RestartPolicyAlways, container.RestartPolicyUnlessStopped, container.RestartPolicyOnFailure, container.RestartPolicyDisabled
	failed := says(&tetherv1.Status{State: tetherv1.State_FAILED, Failure: &tetherv1.Failure{Reason: tetherv1.Failure_NOT_FOUND}})
	runs := says(&tetherv1.Status{State: tetherv1.State_RUNNING, StartedUnixNano: 1})
	for _, c := range []struct {
		name         string
		policy       container.RestartPolicyMode
		most         int
		vm           change
		note         record.Restart
		again, anew  bool
		state        container.ContainerState
		restartCount int
	}{
		{"no", no, 0, exited(1), record.Restart{}, false, false, "exited", 0},
		{"no policy", "", 0, exited(1), record.Restart{}, false, false, "exited", 0},
		{"always", always, 0, exited(0), record.Restart{}, true, true, "restarting", 1},
		{"always, for the third time", always, 0, exited(1), record.Restart{Count: 2}, true, true, "restarting", 3},
		{"always, stopped", always, 0, exited(143), record.Restart{Count: 2, Stopped: true}, false, true, "exited", 2},
		{"always, never started", always, 0, all(), record.Restart{}, false, false, "created", 0},
		{"always, cannot be started", always, 0, all(begins(1), failed, ends), record.Restart{}, false, false, "created", 0},
		{"always, a restart failed", always, 0, exited(1), record.Restart{Count: 1, Over: true}, false, true, "exited", 1},
		{"always, running", always, 0, all(begins(1), runs), record.Restart{Count: 1}, false, false, "running", 1},
		{"always, its machine died", always, 0, all(begins(1), runs, ends), record.Restart{}, true, true, "restarting", 1},
		{"always, its machine died before it ran", always, 0, all(begins(1), ends), record.Restart{}, false, false, "exited", 0},
		{"always, starting", always, 0, begins(1), record.Restart{}, false, false, "running", 0},
		{"always, starting again", always, 0, all(exited(1), begins(2)), record.Restart{Count: 1}, false, false, "restarting", 1},
		{"always, stopped while it starts again", always, 0, all(exited(1), begins(2)), record.Restart{Count: 1, Stopped: true}, false, false, "running", 1},
		{"unless-stopped", unless, 0, exited(0), record.Restart{}, true, true, "restarting", 1},
		{"unless-stopped, stopped", unless, 0, exited(0), record.Restart{Stopped: true}, false, false, "exited", 0},
		{"on-failure, success", failure, 0, exited(0), record.Restart{}, false, false, "exited", 0},
		{"on-failure", failure, 0, exited(3), record.Restart{Count: 100}, true, true, "restarting", 101},
		{"on-failure, killed", failure, 0, all(begins(1), runs, ends), record.Restart{}, true, true, "restarting", 1},
		{"on-failure:2, once", failure, 2, exited(3), record.Restart{Count: 1}, true, true, "restarting", 2},
		{"on-failure:2, twice", failure, 2, exited(3), record.Restart{Count: 2}, false, false, "exited", 2},
		{"on-failure, stopped", failure, 0, exited(143), record.Restart{Stopped: true}, false, true, "exited", 0},
	} {
		vm := vmWith(t, vsphere.PoweredOff, nil, "")
		all(withPolicy(c.policy, c.most), c.vm, noted(c.note))(&vm)
		got, err := Parse(vm)
		if err != nil {
			t.Fatal(err)
		}
		if got.Restarting() != c.again || got.wantsRevival() != c.anew || got.State() != c.state || got.RestartCount() != c.restartCount {
			t.Errorf("%s: restarting %v, started anew %v, %s, %d restarts; want %v, %v, %s, %d", c.name,
				got.Restarting(), got.wantsRevival(), got.State(), got.RestartCount(), c.again, c.anew, c.state, c.restartCount)
		}
	}
}

// relapsing is a host of one VM whose process ends by itself. It must run in a bubble of synctest.
type relapsing struct {
	scripted
	mu      sync.Mutex    // of scripted.vm
	seen    chan struct{} // closed at the next change
	changes chan vsphere.VMEvent
	lives   []time.Duration // of the runs to come; the last one stays
	fail    []error         // of the power-ons to come
	run     int
	idle    time.Time       // since when nothing runs, and no start was tried
	waits   []time.Duration // that came before power-ons
}

func (h *relapsing) Subscribe(ctx context.Context) <-chan vsphere.VMEvent {
	context.AfterFunc(ctx, func() { close(h.changes) })
	return h.changes
}

func (h *relapsing) now() vsphere.VM {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.vm
}

func (h *relapsing) VMs() []vsphere.VM { return []vsphere.VM{h.now()} }

func (h *relapsing) Get(name string) (vsphere.VM, bool) { return h.now(), name == h.now().Name }

func (h *relapsing) Wait(ctx context.Context, _ vsphere.Ref, until func(vsphere.VM) bool) (vsphere.VM, error) {
	for {
		h.mu.Lock()
		vm, seen := h.vm, h.seen
		h.mu.Unlock()
		if until(vm) {
			return vm, nil
		}
		select {
		case <-seen:
		case <-ctx.Done():
			return vm, ctx.Err()
		}
	}
}

func (h *relapsing) show(c change) {
	h.mu.Lock()
	before := h.vm
	h.apply(c)
	after := h.vm
	close(h.seen)
	h.seen = make(chan struct{})
	h.mu.Unlock()
	h.changes <- vsphere.VMEvent{Before: &before, After: &after}
}

func (h *relapsing) Change(_ context.Context, _ vsphere.Ref, change vsphere.Change) error {
	return h.Reconfigure(context.Background(), vsphere.Ref{}, change.Extra)
}

func (h *relapsing) Reconfigure(_ context.Context, _ vsphere.Ref, extra map[string]string) error {
	h.show(func(vm *vsphere.VM) {
		for k, v := range extra {
			if vm.Extra[k] = v; v == "" {
				delete(vm.Extra, k)
			}
		}
	})
	return nil
}

func (h *relapsing) PowerOn(context.Context, vsphere.Ref) error {
	h.waits = append(h.waits, time.Since(h.idle))
	h.idle = time.Now()
	if len(h.fail) > 0 {
		err := h.fail[0]
		if h.fail = h.fail[1:]; err != nil {
			return err
		}
	}
	life := time.Duration(-1)
	if len(h.lives) > 0 {
		life, h.lives = h.lives[0], h.lives[1:]
	}
	h.live(life)
	return nil
}

// live shows a run whose process lives for some time; negative: for ever.
func (h *relapsing) live(life time.Duration) {
	h.run++
	at := time.Now()
	h.show(all(begins(h.run), says(&tetherv1.Status{State: tetherv1.State_RUNNING, StartedUnixNano: at.UnixNano()})))
	if life < 0 {
		return
	}
	time.AfterFunc(life, func() {
		h.idle = time.Now()
		now := h.idle.UnixNano()
		h.show(all(says(&tetherv1.Status{State: tetherv1.State_EXITED, StartedUnixNano: at.UnixNano(), Exit: &tetherv1.Exit{Code: 1, UnixNano: now}}), ends))
	})
}

// follow runs a Service of the host until all has settled after a first run. Before that begins it is handed to act, unless that is nil.
func (h *relapsing) follow(t *testing.T, first time.Duration, act func(*Service)) {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	s := New(h, noImages{}, template.New(h, template.Options{}, log), nil, nil, nil, NewMetrics(prometheus.NewRegistry()), Timeouts{}.WithDefaults(), log)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		s.Run(ctx)
		close(ended)
	}()
	synctest.Wait()
	if act != nil {
		act(s)
	}
	h.live(first)
	time.Sleep(24 * time.Hour)
	synctest.Wait()
	cancel()
	<-ended
}

// TestRestartWaits: restarts come after waits that double, up to a minute, and begin anew once the container has run for ten seconds. A wait
// costs no goroutine: all is done when Run has ended.
func TestRestartWaits(t *testing.T) {
	const ms = time.Millisecond
	unreachable := &net.OpError{Op: "dial", Err: errors.New("connection refused")}
	for name, c := range map[string]struct {
		policy change
		first  time.Duration
		lives  []time.Duration
		fail   []error
		waits  []time.Duration
		note   record.Restart
		act    func(*Service)
	}{
		"always": {
			withPolicy(container.RestartPolicyAlways, 0), time.Second, []time.Duration{0, time.Second, 20 * time.Second, 9 * time.Second, -1}, nil,
			[]time.Duration{100 * ms, 200 * ms, 400 * ms, 100 * ms, 200 * ms}, record.Restart{Count: 5, Delay: 200 * ms}, nil,
		},
		"a minute at most": {
			withPolicy(container.RestartPolicyAlways, 0), 0, append(slices.Repeat([]time.Duration{0}, 11), -1), nil,
			[]time.Duration{100 * ms, 200 * ms, 400 * ms, 800 * ms, 1600 * ms, 3200 * ms, 6400 * ms, 12800 * ms, 25600 * ms, 51200 * ms, time.Minute, time.Minute},
			record.Restart{Count: 12, Delay: time.Minute}, nil,
		},
		"so often and no more": {
			withPolicy(container.RestartPolicyOnFailure, 2), 0, []time.Duration{0, 0, 0}, nil,
			[]time.Duration{100 * ms, 200 * ms}, record.Restart{Count: 2, Delay: 200 * ms}, nil,
		},
		"none":    {withPolicy(container.RestartPolicyDisabled, 0), 0, nil, nil, nil, record.Restart{}, nil},
		"stopped": {all(withPolicy(container.RestartPolicyAlways, 0), noted(record.Restart{Stopped: true})), 0, nil, nil, nil, record.Restart{Stopped: true}, nil},
		"the host says no": {
			withPolicy(container.RestartPolicyAlways, 0), 0, nil, []error{errors.New("no")},
			[]time.Duration{100 * ms}, record.Restart{Count: 1, Delay: 100 * ms, Over: true}, nil,
		},
		"the host is away": {
			withPolicy(container.RestartPolicyAlways, 0), 0, []time.Duration{-1}, []error{unreachable, unreachable, unreachable},
			[]time.Duration{100 * ms, 200 * ms, 400 * ms, 800 * ms}, record.Restart{Count: 4, Delay: 800 * ms}, nil,
		},
		"stopped while it waits": {
			withPolicy(container.RestartPolicyAlways, 0), 0, []time.Duration{0, -1}, nil,
			[]time.Duration{100 * ms}, record.Restart{Count: 1, Delay: 100 * ms, Stopped: true},
			func(s *Service) {
				id := s.host.VMs()[0].Name
				time.AfterFunc(150*ms, func() { _, _ = s.stopRestarts(context.Background(), id) }) // its failure shows in the waits
			},
		},
		"the host goes down": {
			withPolicy(container.RestartPolicyAlways, 0), 0, []time.Duration{-1}, nil, nil, record.Restart{}, func(s *Service) { s.GoingDown(true) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := &relapsing{seen: make(chan struct{}), changes: make(chan vsphere.VMEvent, 16), lives: c.lives, fail: c.fail}
				h.vm = vmWith(t, vsphere.PoweredOff, nil, "")
				h.apply(c.policy)
				if h.follow(t, c.first, c.act); fmt.Sprint(h.waits) != fmt.Sprint(c.waits) {
					t.Errorf("waited %v, want %v", h.waits, c.waits)
				}
				if got := record.DecodeRestart(h.vm.Extra[record.KeyRestart]); got != c.note {
					t.Errorf("noted %+v, want %+v", got, c.note)
				}
			})
		})
	}
}
