package supervisor

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
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
	cfg, runDir, connected := newFake(t)
	home := filepath.Join(filepath.Dir(runDir), "home")
	if err := os.Mkdir(home, 0o700); err != nil {
		t.Fatal(err)
	}
	id := identityIn(t, home)
	for _, c := range change {
		c(&cfg, &id)
	}
	var files Files
	if err := files.make(runDir, cfg); err != nil {
		t.Fatal(err)
	}
	files.listener.Close()
	t.Cleanup(func() { files.lock.Close() })
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	m, err := startMachine(cfg, files, log)
	if err != nil {
		t.Fatal(err)
	}
	f := connected()
	f.runDir, f.home = runDir, home
	if err := m.bringUp(t.Context(), func() (Identity, error) { return id, nil }); err != nil {
		t.Fatal(m.abandon(err))
	}
	go m.own()
	t.Cleanup(m.kill)
	f.awaits("cont")
	return m, f
}

// identityIn is an identity with a home directory and nothing else.
func identityIn(t *testing.T, home string) Identity {
	t.Helper()
	dir, err := os.Open(home)
	if err != nil {
		t.Fatal(err)
	}
	console, err := os.Create(filepath.Join(home, hostapi.ConsoleFile))
	if err != nil {
		t.Fatal(err)
	}
	return Identity{Run: 7, Home: dir, Console: console}
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
		"attach": func(ctx context.Context) error { return m.attach(ctx, imageOf(t, "disk", 1)) },
		"plug":   func(ctx context.Context) error { return m.plug(ctx, Disk{Unit: 1, Image: imageOf(t, "disk", 1)}) },
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
	for _, want := range []string{"stop", "add-fd", "stop", save, "cont", "remove-fd"} {
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
	x, err := LastReport(f.runDir)
	if err != nil || x.Run != 7 || !x.Orderly {
		t.Errorf("report %+v, %v", x, err)
	}
	log, err := os.Open(filepath.Join(f.home, hostapi.LogFile))
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
func supervised(t *testing.T, runDir string, cfg Config) (daemon *Prestarted, files Files, done <-chan error) {
	t.Helper()
	ours, theirs, err := controlPair()
	if err != nil {
		t.Fatal(err)
	}
	if err := files.make(runDir, cfg); err != nil {
		t.Fatal(err)
	}
	for _, f := range []**os.File{&files.Kernel, &files.Initrd} {
		if *f, err = os.Open(os.DevNull); err != nil {
			t.Fatal(err)
		}
	}
	ended := make(chan error, 1)
	go func() { ended <- Run(theirs, t.Output()) }()
	return &Prestarted{conn: ours, runDir: runDir, process: &exec.Cmd{}}, files, ended
}

// TestAbandonedStarts: whatever stops a start leaves no QEMU and nobody who answers.
func TestAbandonedStarts(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(*Identity)
		error string
	}{
		"unwanted":   {nil, errUnwanted.Error()},
		"home":       {func(id *Identity) { id.Home = id.Console }, "directory of the log"},
		"missing":    {func(id *Identity) { id.Root.Levels = 2 }, "open files came"},
		"too many":   {func(id *Identity) { id.Connections = []*os.File{id.Console} }, "open files came"},
		"below none": {func(id *Identity) { id.Root.Levels = -1; id.Connections = nil }, "open files came"},
		"no switch":  {func(id *Identity) { id.Joined, id.Connections = []int{0}, []*os.File{id.Console} }, "connection"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, runDir, connected := newFake(t)
			p, files, done := supervised(t, runDir, cfg)
			if err := p.tell(t.Context(), cfg, files.all()...); err != nil {
				t.Fatal(err)
			}
			f := connected()
			closeAll(files.all())
			if c.spoil != nil {
				id := identityIn(t, t.TempDir())
				c.spoil(&id)
				if err := p.tell(t.Context(), id, id.files()...); err == nil || !strings.Contains(err.Error(), c.error) {
					t.Errorf("%v", err)
				}
			}
			p.conn.Close()
			if err := <-done; err == nil || !strings.Contains(err.Error(), c.error) {
				t.Errorf("ended with %v", err)
			}
			for range f.commands { // until QEMU is gone
			}
			if c, err := Connect(t.Context(), runDir); err == nil {
				t.Error("somebody answers")
				c.Close()
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
