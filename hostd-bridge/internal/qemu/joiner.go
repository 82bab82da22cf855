package qemu

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/containervm/containervm/hostd-bridge/internal/frames"
	"github.com/containervm/containervm/hostd-bridge/internal/supervisor"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
)

const (
	// rejoinMin and rejoinMax are how long a card waits before its switch is tried again; the wait doubles in between.
	rejoinMin = 20 * time.Millisecond
	rejoinMax = time.Second
)

// joiner connects a machine's cards with the switches of their networks: at the start, and when a card asks for it because its switch has left. It
// has a goroutine for each card that waits for a switch that is not there.
type joiner struct {
	ref    string // the VM's, for switches
	client *supervisor.Client
	log    *slog.Logger

	mu      sync.Mutex
	nics    map[int]vm.NIC // by slot, as they were set last
	waiting map[int]bool   // slots that ask for a connection
	busy    map[int]bool   // slots of which a goroutine takes care
}

func newJoiner(ref string, client *supervisor.Client, nics []vm.NIC, log *slog.Logger) *joiner {
	j := &joiner{ref: ref, client: client, log: log, nics: map[int]vm.NIC{}, waiting: map[int]bool{}, busy: map[int]bool{}}
	for slot, nic := range nics {
		j.nics[slot] = nic
	}
	return j
}

// leads reports whether a card leads to a switch.
func leads(nic vm.NIC) bool { return nic.Connected && nic.Frames != "" }

// cardOf is what a machine is told of a card.
func cardOf(nic vm.NIC) supervisor.Card {
	return supervisor.Card{MAC: nic.MAC, Connected: nic.Connected, Frames: nic.Frames}
}

// set says what a card is from now on, once tell has told the machine. One that waits already is joined with its switch until ctx ends.
func (j *joiner) set(ctx context.Context, slot int, nic vm.NIC, tell func() error) error {
	j.mu.Lock()
	before := j.nics[slot]
	j.nics[slot] = nic // before: the card may ask at once
	j.mu.Unlock()
	err := tell()
	if err != nil {
		j.mu.Lock()
		j.nics[slot] = before
		j.mu.Unlock()
	}
	j.begin(ctx, slot)
	return err
}

// ask takes slots that ask for a connection. What a supervisor says is hostile: no slot that there cannot be is kept.
func (j *joiner) ask(ctx context.Context, slots []int) {
	for _, slot := range slots {
		if slot < 0 || slot >= cardSlots {
			continue
		}
		j.mu.Lock()
		j.waiting[slot] = true
		j.mu.Unlock()
		j.begin(ctx, slot)
	}
}

// begin has a goroutine take care of a slot, if it waits and its switch is known.
func (j *joiner) begin(ctx context.Context, slot int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if !j.waiting[slot] || j.busy[slot] || !leads(j.nics[slot]) || ctx.Err() != nil {
		return
	}
	j.busy[slot] = true
	go j.care(ctx, slot)
}

// care joins a card with its switch, however long that takes.
func (j *joiner) care(ctx context.Context, slot int) {
	for wait := rejoinMin; ; wait = min(2*wait, rejoinMax) {
		nic, wanted := j.wanted(slot)
		if !wanted {
			return
		}
		err := j.join(ctx, slot, nic)
		if err != nil {
			j.log.Debug("a card is not joined with its network", "vm", j.ref, "slot", slot, "again", wait, "err", err)
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			j.mu.Lock()
			delete(j.busy, slot)
			j.mu.Unlock()
			return
		}
	}
}

// wanted returns what a slot's card is, or that nothing is left to do.
func (j *joiner) wanted(slot int) (vm.NIC, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	nic := j.nics[slot]
	if j.waiting[slot] && leads(nic) {
		return nic, true
	}
	delete(j.busy, slot)
	return nic, false
}

// join makes one attempt.
func (j *joiner) join(ctx context.Context, slot int, nic vm.NIC) error {
	conn, err := frames.Dial(ctx, filepath.Dir(nic.Frames), frames.Hello{VM: j.ref, MAC: nic.MAC})
	if err != nil {
		return err
	}
	defer conn.Close()
	f, err := conn.File()
	if err != nil {
		return err
	}
	defer f.Close()
	j.mu.Lock()
	delete(j.waiting, slot) // before: it may ask anew at once
	j.mu.Unlock()
	err = j.client.Join(ctx, slot, cardOf(nic), f)
	j.mu.Lock()
	defer j.mu.Unlock()
	if err != nil && (!errors.Is(err, supervisor.ErrNotAwaited) || j.nics[slot] != nic) { // another one may have been asked for meanwhile
		j.waiting[slot] = true
	}
	return err
}
