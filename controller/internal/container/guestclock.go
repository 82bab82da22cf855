package container

import "time"

// Values of Clock.KeptBy.
const (
	clockKeptByTether    = "tether"    // at the host's
	clockKeptByContainer = "container" // which has set or steered it
)

// Clock is how far the wall clock of a container's machine was off its host's when the guest last had news of it: the key Clock of an
// inspection.
type Clock struct {
	BehindNanos int64     // the host's time less the guest's, before that was mended
	DoubtNanos  int64     // to what that is known
	DriftPPB    int64     // by which the clock is too slow by itself, in parts per billion
	At          time.Time // by the host's clock
	KeptBy      string
}

// Clock is nil for a container whose clock nobody has looked at yet: in the first second of a run.
func (c Container) Clock() *Clock {
	if c.clock == nil {
		return nil
	}
	k := &Clock{
		BehindNanos: c.clock.BehindNanos, DoubtNanos: c.clock.DoubtNanos, DriftPPB: c.clock.DriftPpb,
		At: time.Unix(0, c.clock.AtUnixNano).UTC(), KeptBy: clockKeptByTether,
	}
	if c.clock.Foreign {
		k.KeptBy = clockKeptByContainer
	}
	return k
}
