package supervisor

import (
	"context"
	"errors"
	"testing"
)

// TestJoins: a connection reaches the card that waits for it as it is now, and no other; what nobody takes is closed.
func TestJoins(t *testing.T) {
	before := openFiles(t)
	j := newJoins()
	want, other := Card{MAC: ownMAC, Connected: true, Frames: "one"}, Card{MAC: ownMAC, Connected: true, Frames: "other"}
	give := func(slot int, card Card) error {
		conn, far, err := controlPair()
		if err != nil {
			t.Fatal(err)
		}
		far.Close()
		return j.give(slot, card, conn)
	}
	if err := give(0, want); !errors.Is(err, errNotAwaited) {
		t.Errorf("nobody waits: %v", err)
	}
	_, last, changed := j.unjoined(0)
	got := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	dial := func() {
		conn, err := j.dial(ctx, 0, want)
		if conn != nil {
			conn.Close()
		}
		got <- err
	}
	go dial()
	<-changed
	slots, last, changed := j.unjoined(last)
	if len(slots) != 1 || slots[0] != 0 {
		t.Errorf("%v wait", slots)
	}
	if again, _, _ := j.unjoined(last); len(again) > 0 {
		t.Errorf("%v are named twice", again)
	}
	if err := give(0, other); !errors.Is(err, errNotAwaited) {
		t.Errorf("a connection with another network: %v", err)
	}
	if err := give(1, want); !errors.Is(err, errNotAwaited) {
		t.Errorf("another slot: %v", err)
	}
	if err := errors.Join(give(0, want), <-got); err != nil {
		t.Error(err)
	}
	go dial()
	<-changed
	cancel()
	if err := <-got; !errors.Is(err, context.Canceled) {
		t.Errorf("a card that waits no more: %v", err)
	}
	if err := give(0, want); !errors.Is(err, errNotAwaited) {
		t.Errorf("after it: %v", err)
	}
	for range 2 { // the second in the place of the first
		conn, far, err := controlPair()
		if err != nil {
			t.Fatal(err)
		}
		far.Close()
		j.keep(2, want, conn)
	}
	j.close()
	if now := openFiles(t); now > before {
		t.Errorf("%d descriptors are open, %d were", now, before)
	}
}
