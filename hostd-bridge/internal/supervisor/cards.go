package supervisor

import (
	"context"
	"fmt"
	"log/slog"
	"os"

	"github.com/containervm/containervm/hostd-bridge/internal/frames"
	"github.com/containervm/containervm/hostd-bridge/internal/qemu/qmp"
)

// cards are a machine's network cards, by slot. But for admit they belong to the machine's owner.
type cards struct {
	ids []string // QEMU's
	all []*card
	up  []bool // by slot: the guest sees a link, once the machine's state is there
}

// newCards takes over our ends of the socket pairs.
func newCards(cfg Config, ends []*os.File, joins *joins, log *slog.Logger) cards {
	cs := cards{ids: cfg.Cards}
	for slot, end := range ends {
		cs.all = append(cs.all, newCard(slot, end, !cfg.Child, joins.dial, log))
		// A card has a link when QEMU starts; with the state of a fork point comes what it was there.
		cs.up = append(cs.up, !cfg.Child || slot < len(cfg.Hardware.Links) && cfg.Hardware.Links[slot])
	}
	return cs
}

// begin makes the cards of a machine that gets its identity what they are to be; no CPU has run.
func (cs *cards) begin(ctx context.Context, q *qmp.Client, id Identity) error {
	if len(id.Cards) > len(cs.all) {
		return fmt.Errorf("cannot give the machine %d network cards: it has places for %d", len(id.Cards), len(cs.all))
	}
	for slot := range cs.all {
		var want Card
		if slot < len(id.Cards) {
			want = id.Cards[slot]
		}
		if err := cs.set(ctx, q, slot, want); err != nil {
			return err
		}
	}
	return nil
}

// set says what the card in a slot is from now on.
func (cs *cards) set(ctx context.Context, q *qmp.Client, slot int, want Card) error {
	if slot < 0 || slot >= len(cs.all) {
		return fmt.Errorf("cannot change the network card in slot %d: the machine has slots 0 to %d", slot, len(cs.all)-1)
	}
	if want.Connected {
		if _, err := frames.ParseAddress(want.MAC); err != nil {
			return fmt.Errorf("cannot connect the network card in slot %d: %w", slot, err)
		}
	}
	if !want.Connected { // its network first
		cs.all[slot].set(want)
	}
	if want.Connected != cs.up[slot] {
		link := map[string]any{"name": cs.ids[slot], "up": want.Connected}
		if err := q.Execute(ctx, "set_link", link, nil); err != nil {
			return fmt.Errorf("cannot change the link of the network card in slot %d: %w", slot, err)
		}
		cs.up[slot] = want.Connected
	}
	if want.Connected {
		cs.all[slot].set(want)
	}
	return nil
}

// admit lets frames pass, of a child that is itself now. It may be called by any goroutine.
func (cs *cards) admit(ctx context.Context, q *qmp.Client) error {
	connected := false
	for _, c := range cs.all {
		connected = connected || c.isStarted()
	}
	if connected { // what the guest sent before is in our sockets when QEMU's loop has come round
		if err := q.Execute(ctx, "query-status", nil, nil); err != nil {
			return err
		}
	}
	for _, c := range cs.all {
		c.admit()
	}
	return nil
}

// close ends the cards of a QEMU that is gone.
func (cs *cards) close() {
	for _, c := range cs.all {
		c.close()
	}
}
