package supervisor

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// startFake starts a machine on a fake QEMU; its CPUs run.
func startFake(t *testing.T) (*machine, *fake) {
	t.Helper()
	cfg, connected := newFake(t)
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
	home := filepath.Join(filepath.Dir(cfg.RunDir), "home")
	if err := os.Mkdir(home, 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := m.bringUp(t.Context(), func() (Identity, error) {
		return Identity{RunDir: cfg.RunDir, HomeDir: home, Run: 7}, nil
	})
	if err != nil {
		t.Fatal(m.abandon(err))
	}
	l.Close()
	go m.own()
	t.Cleanup(m.kill)
	f.awaits("cont")
	return m, f
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
			_, _, release, err := m.forkPoint(t.Context(), "")
			if err == nil {
				release()
			}
			snapshot <- err
		}()
		f.awaits(save)
		go func() { freeze <- m.freeze() }()
		go func() { resume <- m.exec(m.ended, func() error { return m.resume(t.Context()) }) }()
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
			_, _, _, err := m.forkPoint(t.Context(), "")
			snapshot <- err
		}()
		f.expectAlone()
		f.says(wordSave)
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
