package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/containervm/containervm/tether/internal/guestinfo"
	"github.com/containervm/containervm/tether/internal/process"
	"github.com/containervm/containervm/tether/internal/rootfs"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// runningTether is a tether whose container runs a shell script. It has neither a machine nor a host.
func runningTether(t *testing.T, spec *tetherv1.Spec, script string) *tether {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root for namespaces; try: sudo go test")
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("needs a static busybox; try: apt-get install busybox-static")
	}
	program, err := os.ReadFile(busybox)
	must(t, err)
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "busybox"), program, 0o755))
	tether := newTether("test")
	tether.console = slog.New(slog.DiscardHandler)
	go tether.reaper.Run()
	root := rootfs.Root{Dir: dir, Staging: t.TempDir()}
	space, err := process.NewSpace(func() error {
		if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
			return err
		}
		return root.Stage()
	})
	must(t, err)
	must(t, space.Do(root.Enter))
	container, err := process.NewContainer(space, tether.reaper, "box", "")
	must(t, err)
	main, err := container.Start(link.MainSession, &tetherv1.Process{Args: []string{"/busybox", "sh", "-c", script}}, process.Options{})
	must(t, err)
	tether.instance = &instance{spec: spec, container: container, main: main}
	t.Cleanup(func() {
		_ = main.Signal(unix.SIGKILL)
		<-main.Done()
		tether.instance.leaveRoot()
	})
	out, err := main.Stdout.Reader(0, false)
	must(t, err)
	_, err = out.Read(make([]byte, 16)) // the script says that it is ready
	must(t, err)
	return tether
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func startLoop(t *testing.T, tether *tether) (stop func(context.Context, unix.Signal, time.Duration) error, ended <-chan error) {
	t.Helper()
	stops, done := make(chan stopRequest), make(chan error, 1)
	go func() { done <- tether.loop(t.Context(), requests{stops: stops}) }()
	return stopBy(stops, tether.instance.main.Done()), done
}

// A stop without a signal sends the container's own, and one that comes too late is told so rather than left waiting.
func TestLoopStops(t *testing.T) {
	tether := runningTether(t, &tetherv1.Spec{StopSignal: int32(unix.SIGUSR1)}, "trap 'exit 5' USR1; echo ready; while :; do /busybox sleep 0.01; done")
	stop, ended := startLoop(t, tether)
	must(t, stop(t.Context(), 0, -1))
	must(t, <-ended)
	if exit, err := tether.instance.main.Wait(t.Context()); err != nil || exit.Code != 5 {
		t.Errorf("exit %v, %v", exit, err)
	}
	if err := stop(t.Context(), 0, -1); !errors.Is(err, process.ErrEnded) {
		t.Errorf("stop after the end: %v", err)
	}
}

// A signal that came before there was anyone to stop is not lost.
func TestLoopObeysSignals(t *testing.T) {
	tether := runningTether(t, &tetherv1.Spec{}, "trap 'exit 6' TERM; echo ready; while :; do /busybox sleep 0.01; done")
	signals := make(chan os.Signal, 1)
	signals <- unix.SIGPWR
	tether.signals = signals
	_, ended := startLoop(t, tether)
	must(t, <-ended)
	if exit, err := tether.instance.main.Wait(t.Context()); err != nil || exit.Code != 6 {
		t.Errorf("exit %v, %v", exit, err)
	}
}

// A stop that nobody takes ends with its caller.
func TestStopEndsWithItsCaller(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := stopBy(make(chan stopRequest), make(chan struct{}))(ctx, 0, 0); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// recordedKeys is a reporter whose keys are kept.
func recordedKeys(t *testing.T) (r *guestinfo.Reporter, keys func() map[string][]string) {
	t.Helper()
	var mu sync.Mutex
	all := map[string][]string{}
	r = guestinfo.NewReporter(func(_ context.Context, key, value string) error {
		mu.Lock()
		defer mu.Unlock()
		all[key] = append(all[key], value)
		return nil
	})
	go r.Run(t.Context())
	return r, func() map[string][]string {
		must(t, r.Flush(t.Context()))
		mu.Lock()
		defer mu.Unlock()
		return all
	}
}

// A machine that boots tells each phase. A fork tells one that it stays in, and nothing of those that pass.
func TestProgress(t *testing.T) {
	reporter, keys := recordedKeys(t)
	p, quiet := newProgress(), slog.New(slog.DiscardHandler)
	p.tellTo(reporter)
	p.enter("ready", quiet)
	if told := keys()[link.KeyPhase]; len(told) != 1 || told[0] != "ready" {
		t.Errorf("a boot told %q", told)
	}
	p.fork()
	p.enter("wake", quiet)
	p.mark("hello")
	p.stay(link.PhaseWarm)
	p.tellPhase() // as the timer, should it have been under way
	if told := keys()[link.KeyPhase]; told[1] != link.PhaseWarm || told[len(told)-1] != link.PhaseWarm {
		t.Errorf("a fork told %q", told[1:])
	}
	must(t, p.setStatus(&tetherv1.Status{State: tetherv1.State_RUNNING}))
	status, err := link.DecodeStatus(keys()[link.KeyStatus][0])
	must(t, err)
	if m := status.Marks; status.State != tetherv1.State_RUNNING || len(m) != 3 || m[0].Name != "forked" || m[1].Name != "wake" || m[2].Name != "hello" {
		t.Errorf("status %v", status)
	}
	if p.Phase() != link.PhaseWarm || p.Status().State != tetherv1.State_RUNNING {
		t.Errorf("phase %q, status %v", p.Phase(), p.Status())
	}
}

// The agent and the timer read what the tether's goroutine changes: the race detector sees it.
func TestProgressIsSharedByReadersOnly(t *testing.T) {
	reporter, _ := recordedKeys(t)
	p, quiet := newProgress(), slog.New(slog.DiscardHandler)
	p.tellTo(reporter)
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for range 200 {
				_, _ = p.Phase(), p.Status().GetMarks()
				p.tellPhase()
			}
		})
	}
	for range 200 {
		p.fork()
		p.enter("running", quiet)
		must(t, p.setStatus(&tetherv1.Status{State: tetherv1.State_RUNNING}))
	}
	p.late.Stop()
	readers.Wait()
}

// Which Spec lets a fork of a running container stand still.
func TestIsForkPoint(t *testing.T) {
	for _, c := range []struct {
		spec *tetherv1.Spec
		want bool
	}{
		{&tetherv1.Spec{}, false},
		{&tetherv1.Spec{Mode: tetherv1.Mode_TEMPLATE, ForkPoint: true}, true}, // what a host sends
		{&tetherv1.Spec{Mode: tetherv1.Mode_TEMPLATE}, true},                  // an older one
		{&tetherv1.Spec{ForkPoint: true}, true},
	} {
		if got := isForkPoint(c.spec); got != c.want {
			t.Errorf("%v: %v", c.spec, got)
		}
	}
}
