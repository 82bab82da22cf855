package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/tether/link"
)

// startFake starts a machine on a fake QEMU; its CPUs run.
func startFake(t *testing.T, change ...func(*Config, *Identity)) (*machine, *fake) {
	t.Helper()
	cfg, connected := newFake(t)
	id := Identity{RunDir: cfg.RunDir, Run: 7}
	for _, c := range change {
		c(&cfg, &id)
	}
	lock, err := takeLock(cfg.RunDir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lock.Close() })
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	m, err := startMachine(cfg, lock, log)
	if err != nil {
		t.Fatal(err)
	}
	f := connected()
	id.HomeDir = filepath.Join(filepath.Dir(cfg.RunDir), "home")
	if err := os.Mkdir(id.HomeDir, 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := m.bringUp(t.Context(), func() (Identity, error) { return id, nil })
	if err != nil {
		t.Fatal(m.abandon(err))
	}
	l.Close()
	go m.own()
	t.Cleanup(m.kill)
	f.awaits("cont")
	return m, f
}

// owned has the machine's owner do an operation.
func owned(m *machine, op func(context.Context) error) error {
	return m.exec(m.ended, func() error { return op(context.Background()) })
}

const save = "xen-save-devices-state"

// expectAlone fails the test when a command reaches QEMU while it saves its state. The time only bounds how long a test that
// succeeds takes.
func (f *fake) expectAlone() {
	f.t.Helper()
	select {
	case c := <-f.commands:
		f.t.Errorf("%s reaches QEMU while a fork point is taken", c)
	case <-time.After(300 * time.Millisecond):
	}
}

// TestFreezeAgainstSnapshot: a guest freezes while a fork point of it is being taken, and the other way round. One waits for the other,
// and nobody lets the CPUs run meanwhile.
func TestFreezeAgainstSnapshot(t *testing.T) {
	t.Run("snapshot first", func(t *testing.T) {
		m, f := startFake(t)
		snapshot, freeze, resume := make(chan error, 1), make(chan error, 1), make(chan error, 1)
		go func() {
			_, release, err := m.forkPoint(t.Context(), NewDisks{})
			if err == nil {
				release()
			}
			snapshot <- err
		}()
		f.awaits(save)
		go func() { freeze <- m.freeze() }()
		go func() { resume <- owned(m, m.resume) }()
		f.expectAlone()
		f.says(wordSave)
		if err := <-snapshot; err != nil {
			t.Error(err)
		}
		f.says(wordSave)
		if err := <-freeze; err != nil {
			t.Error(err)
		}
		if err := <-resume; err != nil && !strings.Contains(err.Error(), "frozen") {
			t.Error(err)
		}
		<-m.frozen
	})
	t.Run("freeze first", func(t *testing.T) {
		m, f := startFake(t)
		snapshot, freeze := make(chan error, 1), make(chan error, 1)
		go func() { freeze <- m.freeze() }()
		f.awaits(save)
		go func() {
			_, _, err := m.forkPoint(t.Context(), NewDisks{})
			snapshot <- err
		}()
		f.expectAlone()
		f.says(wordSave)
		if err := <-freeze; err != nil {
			t.Error(err)
		}
		if err := <-snapshot; err != nil && !strings.Contains(err.Error(), "frozen") {
			t.Error(err)
		}
		<-m.frozen
	})
}

func TestRunStates(t *testing.T) {
	table := map[runState][]runState{
		statePrestarted: {stateRunning, stateEnding},
		stateRunning:    {stateRunning, statePaused, stateCopying, stateEnding},
		statePaused:     {stateRunning, statePaused, stateCopying, stateEnding},
		stateCopying:    {stateRunning, statePaused, stateFrozen, stateEnding},
		stateFrozen:     {stateEnding},
		stateEnding:     {},
	}
	for s := statePrestarted; s <= stateEnding; s++ {
		for next := statePrestarted; next <= stateEnding; next++ {
			if got, want := s.allows(next), slices.Contains(table[s], next); got != want {
				t.Errorf("%s to %s: %v", s, next, got)
			}
		}
	}
}

func TestFrozenMachine(t *testing.T) {
	m, f := startFake(t)
	f.says(wordSave)
	if err := m.freeze(); err != nil {
		t.Fatal(err)
	}
	<-m.frozen
	for name, op := range map[string]func(context.Context) error{
		"pause": m.pause, "resume": m.resume, "reset": m.restart, "detach": m.detach,
		"attach": func(ctx context.Context) error { return m.attach(ctx, "disk") },
		"plug":   func(ctx context.Context) error { return m.plug(ctx, Disk{Unit: 1, Path: "disk"}) },
		"unplug": func(ctx context.Context) error { return m.unplug(ctx, 1) },
		"card":   func(ctx context.Context) error { return m.setNIC(ctx, 0, Card{}) },
	} {
		if err := owned(m, op); !errors.Is(err, errFrozen) {
			t.Errorf("%s: %v", name, err)
		}
	}
	point, release, err := m.forkPoint(t.Context(), NewDisks{})
	if err != nil {
		t.Fatal(err)
	}
	release()
	if b, err := io.ReadAll(io.NewSectionReader(point.State, 0, 100)); err != nil || string(b) != "state" {
		t.Errorf("state %q, %v", b, err)
	}
	if _, err := point.RAM.WriteAt([]byte("x"), 0); err == nil {
		t.Error("the fork point's memory can be written to")
	}
	if taken, err := m.memory(); err != nil || taken.GuestPrivateKiB != 0 || taken.OverheadKiB != 0 {
		t.Errorf("memory %+v, %v", taken, err)
	}
	m.kill()
	if m.exit.Reason != "killed on request" || m.exit.Run != 7 {
		t.Errorf("exit %+v", m.exit)
	}
}

// TestFailedFreeze: the guest is told why and goes on, and may try again.
func TestFailedFreeze(t *testing.T) {
	m, f := startFake(t)
	f.says(wordRefuse)
	if err := m.freeze(); err == nil || !strings.Contains(err.Error(), "no space") {
		t.Errorf("freeze: %v", err)
	}
	f.awaits("cont")
	f.says(wordSave)
	if err := m.freeze(); err != nil {
		t.Errorf("second freeze: %v", err)
	}
	<-m.frozen
}

// TestForkPointOfAPausedMachine: who has paused the machine resumes it.
func TestForkPointOfAPausedMachine(t *testing.T) {
	m, f := startFake(t)
	if err := owned(m, m.pause); err != nil {
		t.Fatal(err)
	}
	f.says(wordSave)
	_, release, err := m.forkPoint(t.Context(), NewDisks{})
	if err != nil {
		t.Fatal(err)
	}
	release()
	if err := owned(m, m.resume); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"stop", "stop", save, "cont"} {
		if got := <-f.commands; got != want {
			t.Errorf("QEMU got %s, not %s", got, want)
		}
	}
}

// TestKillInAForkPoint: a kill waits for no operation, and the operation ends.
func TestKillInAForkPoint(t *testing.T) {
	m, f := startFake(t)
	snapshot := make(chan error, 1)
	go func() {
		_, _, err := m.forkPoint(t.Context(), NewDisks{})
		snapshot <- err
	}()
	f.awaits(save)
	m.kill()
	if err := <-snapshot; err == nil {
		t.Error("a fork point of a machine that was killed")
	}
	if m.exit.Reason != "killed on request" {
		t.Errorf("exit %+v", m.exit)
	}
	if err := owned(m, m.resume); !errors.Is(err, errEnded) {
		t.Errorf("resume: %v", err)
	}
	if err := m.freeze(); !errors.Is(err, errEnded) {
		t.Errorf("freeze: %v", err)
	}
}

func TestReset(t *testing.T) {
	m, f := startFake(t)
	if err := owned(m, m.restart); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"set-action", "system_reset", "set-action"} {
		if got := <-f.commands; got != want {
			t.Errorf("QEMU got %s, not %s", got, want)
		}
	}
}

// TestReportNamesTheRun: log and report of a machine that powers itself off.
func TestReportNamesTheRun(t *testing.T) {
	m, f := startFake(t)
	f.says(wordOff)
	<-m.ended
	x, err := LastReport(m.dir)
	if err != nil || x.Run != 7 || !x.Orderly {
		t.Errorf("report %+v, %v", x, err)
	}
	log, err := os.Open(filepath.Join(m.id.HomeDir, hostapi.LogFile))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	rec, err := link.NewRecordReader(log).Next()
	if err != nil || rec.Stream != link.StreamRun || string(rec.Payload) != "run 7" {
		t.Errorf("log begins with %+v, %v", rec, err)
	}
}

func TestRunMarkers(t *testing.T) {
	for text, id := range map[string]Identity{
		"run 3":          {Run: 3},
		"run 4 fork 2 9": {Run: 4, Guestinfo: map[string]string{link.KeyFork: `{"generation": 2, "index": 9}`}},
		"run 5":          {Run: 5, Guestinfo: map[string]string{link.KeyFork: "nonsense"}},
	} {
		if got := runMarker(id).String(); got != text {
			t.Errorf("%+v: %q", id, got)
		}
	}
}

// supervised runs a supervisor as its daemon does, without a process of its own.
func supervised(t *testing.T, cfg Config) (tell func(any) error, results *json.Decoder, hangUp func(), done <-chan error) {
	in, toIn := io.Pipe()
	fromOut, out := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- Run(in, out, t.Output()) }()
	return json.NewEncoder(toIn).Encode, json.NewDecoder(fromOut), func() { toIn.Close(); fromOut.Close() }, ended
}

// TestAbandonedStarts: whatever stops a start leaves no QEMU and no socket.
func TestAbandonedStarts(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(*Identity)
		error string
	}{
		"unwanted":     {nil, errUnwanted.Error()},
		"no directory": {func(id *Identity) { id.RunDir += "/none" }, "cannot move"},
		"no home":      {func(id *Identity) { id.HomeDir += "/none" }, "console"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, connected := newFake(t)
			tell, results, hangUp, done := supervised(t, cfg)
			if err := tell(cfg); err != nil {
				t.Fatal(err)
			}
			f := connected()
			var r Result
			if err := results.Decode(&r); err != nil || r.Error != "" {
				t.Fatalf("%+v, %v", r, err)
			}
			if c.spoil != nil {
				id := Identity{RunDir: cfg.RunDir, HomeDir: t.TempDir()}
				c.spoil(&id)
				if err := tell(id); err != nil {
					t.Fatal(err)
				}
				if err := results.Decode(&r); err != nil || !strings.Contains(r.Error, c.error) {
					t.Errorf("%+v, %v", r, err)
				}
			}
			hangUp()
			if err := <-done; err == nil || !strings.Contains(err.Error(), c.error) {
				t.Errorf("ended with %v", err)
			}
			for range f.commands { // until QEMU is gone
			}
			if _, err := os.Stat(socketPath(cfg.RunDir)); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("socket: %v", err)
			}
			if _, err := os.Stat(cfg.RunDir); c.spoil == nil && !errors.Is(err, os.ErrNotExist) {
				t.Errorf("directory: %v", err)
			}
		})
	}
}

func TestDebugRecords(t *testing.T) {
	for _, debug := range []bool{false, true} {
		var b strings.Builder
		newLog(&b, debug).Debug("detail")
		if strings.Contains(b.String(), "detail") != debug {
			t.Errorf("debug %v: %q", debug, b.String())
		}
	}
}
