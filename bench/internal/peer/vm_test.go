package peer

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/containervm/containervm/bench/internal/measure"
	"github.com/containervm/containervm/internal/vmtest"
)

// Every way in which a machine comes to answer, once, on real machines: that it does, with what it was given to keep.
func TestMachinesAnswer(t *testing.T) {
	dir := t.TempDir()
	m := testMachine(t, dir)
	const dirty = 8

	template := must(m.NewTemplate(t.Context(), dir, "t", dirty))(t)
	kata := must(m.Q35().NewTemplate(t.Context(), dir, "kata", dirty, KataDevices()...))(t)
	saved := must(m.NewSaved(t.Context(), dir, "saved", dirty))(t)
	snapshot := must(m.NewSnapshot(t.Context(), dir, "snapshot", dirty))(t)
	live := must(m.NewLive(t.Context(), dir, "live", dirty))(t)
	defer live.Close()
	moments := []time.Duration{0}
	for _, c := range []struct {
		name    string
		measure func(context.Context) (measure.Sample, error)
		marks   int
	}{
		{"boot", m.Boot, 1},
		{"boot q35", m.Q35().Boot, 1},
		{"fork", template.Fork, 3},
		{"pre-started", template.ForkPrestarted, 2},
		{"claim", template.Claim, 2},
		{"reboot", template.Reboot, 3},
		{"kata", kata.Kata, 3},
		{"restore", saved.Restore, 3},
		{"loadvm", snapshot.LoadVM, 2},
		{"freeze", live.Freeze, 0},
		{"save", live.Save, 0},
		{"freeze again", live.Freeze, 0},
		{"memory of a fork", func(ctx context.Context) (measure.Sample, error) { return template.ForkMemory(ctx, moments) }, 3},
		{"memory of a boot", func(ctx context.Context) (measure.Sample, error) { return m.BootMemory(ctx, moments) }, 3},
	} {
		s, err := c.measure(t.Context())
		if err != nil || s.Value <= 0 || len(s.Marks) != c.marks {
			t.Errorf("%s: %+v, %v; want a value and %d marks", c.name, s, err, c.marks)
		}
	}
	if floor, err := m.Floor(t.Context()); err != nil || floor <= 0 {
		t.Errorf("floor = %v, %v", floor, err)
	}
}

func testMachine(t *testing.T, dir string) Machine {
	initrd, err := BuildInitrd(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	m := Default("tcg", filepath.Join(vmtest.GuestDir(t), "vmlinux")).Memory(128)
	m.Initrd = initrd
	return m
}

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}
