package vsock

import "testing"

// TestStreamStates pins the whole transition table: what is not named here changes nothing.
func TestStreamStates(t *testing.T) {
	type from struct {
		state streamState
		event streamEvent
	}
	table := map[from]streamState{
		{stateRequested, eventAnswered}: stateOpen,
		{stateRequested, eventRemoved}:  stateRefused,
		{stateOpen, eventRemoved}:       stateEnded,
		{stateOpen, eventClosing}:       stateLingering,
		{stateLingering, eventRemoved}:  stateClosed,
		{stateEnded, eventClosing}:      stateClosed,
	}
	for s := stateRequested; s <= stateClosed; s++ {
		for e := eventAnswered; e <= eventClosing; e++ {
			want, known := table[from{s, e}]
			if !known {
				want = s
			}
			if got := s.after(e); got != want {
				t.Errorf("state %d after event %d: %d, want %d", s, e, got, want)
			}
		}
	}
}
