package supervisor

import (
	"context"
	"errors"
	"os"
	"testing"

	"github.com/containervm/containervm/hostd-bridge/internal/frames/framestest"
)

// gets checks which commands reach QEMU next.
func (f *fake) gets(want ...string) {
	f.t.Helper()
	for _, w := range want {
		if got := <-f.commands; got != w {
			f.t.Errorf("QEMU got %s, not %s", got, w)
		}
	}
}

func plugging(d Disk) func(*machine) func(context.Context) error {
	return func(m *machine) func(context.Context) error {
		return func(ctx context.Context) error { return m.plug(ctx, d) }
	}
}

// imageOf is a disk of n empty files.
func imageOf(t *testing.T, name string, n int) Image {
	t.Helper()
	image := Image{Name: name, Levels: n}
	for range n {
		f, err := os.CreateTemp(t.TempDir(), "level")
		if err != nil {
			t.Fatal(err)
		}
		image.Files = append(image.Files, f)
	}
	t.Cleanup(image.Close)
	return image
}

// TestDataDiskOperations: what QEMU is asked for, and what is refused without asking it.
func TestDataDiskOperations(t *testing.T) {
	m, f := startFake(t)
	one, delta := imageOf(t, "one", 3), imageOf(t, "delta", 1)
	if err := owned(m, plugging(Disk{Unit: 1, Image: one})(m)); err != nil {
		t.Fatal(err)
	}
	f.gets("add-fd", "add-fd", "add-fd", "blockdev-add", "device_add")
	for _, d := range []Disk{{Unit: 1}, {Unit: 0}, {Unit: 7}, {Unit: 16}, {Unit: -1}} {
		if err := owned(m, plugging(d)(m)); err == nil {
			t.Errorf("unit %d was plugged in", d.Unit)
		}
	}
	f.says(wordSave)
	_, release, err := m.forkPoint(t.Context(), NewDisks{Data: map[int]Image{1: delta}})
	if err != nil {
		t.Fatal(err)
	}
	release()
	f.gets("add-fd", "stop", save, "add-fd", "blockdev-add", "transaction", "cont", "remove-fd")
	if d := m.disks.plugged[1]; d.name != "delta" || len(d.nodes) != 2 { // the owner rests
		t.Errorf("the disk is %+v", d)
	}
	unplug := func(ctx context.Context) error { return m.unplug(ctx, 1) }
	if err := owned(m, unplug); err != nil {
		t.Fatal(err)
	}
	f.gets("device_del", "blockdev-del", "remove-fd", "blockdev-del", "remove-fd", "remove-fd", "remove-fd")
	if err := owned(m, unplug); err == nil {
		t.Error("it was taken out twice")
	}
}

// TestKillWhileADiskIsTakenOut: a kill waits for no guest that keeps its disk.
func TestKillWhileADiskIsTakenOut(t *testing.T) {
	m, f := startFake(t)
	if err := owned(m, plugging(Disk{Unit: 2, Image: imageOf(t, "two", 1)})(m)); err != nil {
		t.Fatal(err)
	}
	f.says(wordKeep)
	f.awaits(wordKeep)
	out := make(chan error, 1)
	go func() { out <- owned(m, func(ctx context.Context) error { return m.unplug(ctx, 2) }) }()
	f.awaits("device_del")
	m.kill()
	if err := <-out; !errors.Is(err, errEnded) {
		t.Errorf("unplug: %v", err)
	}
}

// TestDiskThatIsNotLetGo: it keeps its unit, and can be taken out later.
func TestDiskThatIsNotLetGo(t *testing.T) {
	m, f := startFake(t)
	if err := owned(m, plugging(Disk{Unit: 2, Image: imageOf(t, "two", 1)})(m)); err != nil {
		t.Fatal(err)
	}
	f.says(wordKeep)
	f.awaits(wordKeep)
	ctx, cancel := context.WithCancel(t.Context())
	out := make(chan error, 1)
	go func() { out <- m.exec(m.ended, func() error { return m.unplug(ctx, 2) }) }()
	f.awaits("device_del")
	cancel()
	if err := <-out; !errors.Is(err, context.Canceled) {
		t.Errorf("unplug: %v", err)
	}
	if err := owned(m, plugging(Disk{Unit: 2, Image: imageOf(t, "other", 1)})(m)); err == nil {
		t.Error("its unit was given to another")
	}
	m.events.deleted <- deviceOf(2)
	if err := owned(m, func(ctx context.Context) error { return m.unplug(ctx, 2) }); err != nil {
		t.Error(err)
	}
	f.gets("blockdev-del")
}

// joinAll does the daemon's part for the cards of a machine.
func joinAll(t *testing.T, m *machine) {
	go func() {
		for last := 0; ; {
			waiting, now, changed := m.joins.unjoined(last)
			last = now
			for _, slot := range waiting {
				m.joins.mu.Lock()
				want := m.joins.waiting[slot].want
				m.joins.mu.Unlock()
				if conn, err := dialTest(t.Context(), slot, want); err == nil {
					_ = m.joins.give(slot, want, conn) // it may be another one by now
				}
			}
			select {
			case <-changed:
			case <-m.ended:
				return
			}
		}
	}()
}

// TestCardsOfAMachine: a link is changed only where it is not as wanted, and the socket of QEMU's card is the one that is passed on.
func TestCardsOfAMachine(t *testing.T) {
	hub := framestest.New(t)
	m, f := startFake(t, func(cfg *Config, id *Identity) {
		cfg.Cards = []string{"nic0", "nic1"}
		id.Cards = []Card{joinTo(hub, ownMAC)}
	})
	joinAll(t, m)
	if f.links != 1 {
		t.Errorf("%d links were changed at the start, of one spare card", f.links)
	}
	hub.AwaitCard(ownMAC)
	set := func(slot int, c Card) error {
		return owned(m, func(ctx context.Context) error { return m.setNIC(ctx, slot, c) })
	}
	if err := set(0, joinTo(hub, otherMAC)); err != nil {
		t.Error(err)
	}
	hub.AwaitCard(otherMAC)
	if err := set(1, joinTo(hub, ownMAC)); err != nil {
		t.Error(err)
	}
	f.gets("set_link")
	for slot, c := range map[int]Card{-1: {}, 2: {}, 0: {Connected: true}, 1: {Connected: true, MAC: "ff:ff:ff:ff:ff:ff"}} {
		if err := set(slot, c); err == nil {
			t.Errorf("slot %d became %+v", slot, c)
		}
	}
	if err := set(0, Card{}); err != nil {
		t.Error(err)
	}
	f.gets("set_link")
	m.kill()
	hub.AwaitNone()
}
