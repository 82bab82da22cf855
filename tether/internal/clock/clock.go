// Package clock keeps the machine's wall clock at its host's while a container runs. It is slewed: made to run a little faster or slower,
// so that no program sees it jump; the monotonic clock never goes back. It is set at once only where slewing would take minutes, as after a
// host that slept.
//
// What it stands on: the host answers what time it is (link.CommandTime), which is as true as half the time that the answer took. (A clock
// device of the hypervisor, KVM's PTP, would be exact; its drivers cost each machine 2 MiB, and the host's answer is known well enough.)
// How much the machine's clock drifts by itself is learned on the way. A container may keep its clock by itself: it has the right to, and where it sets or steers it the keeper lets go.
package clock

import (
	"context"
	"fmt"
	"time"
)

const (
	// maxStill is the most that is slewed. At maxSlew it takes 20 s.
	maxStill = time.Second
	// maxSlew is how much faster or slower the clock runs while it is slewed, in parts per million. chrony's default bound is 83,333
	// (chrony.conf(5), maxslewrate).
	maxSlew = 50_000
	// maxDrift is how far the clock may be off by itself, in parts per million: the kernel's own bound (adjtimex(2)).
	maxDrift = 500
	// Time between two looks: firstLook after the start, then minLook, which doubles up to maxLook as long as the clock is right.
	firstLook = time.Second
	minLook   = 8 * time.Second
	maxLook   = 64 * time.Second
	// right is how far off a clock may be that is looked at less and less often; what drifts as learned stays far below.
	right = 2 * time.Millisecond
	// maxDoubt is what an answer may leave open where the clock may be right; on a host without a free processor one takes longer now and
	// then, and is asked for again, samples times at the most.
	maxDoubt = 3 * time.Millisecond
	samples  = 8
	// jump is what a clock does not drift between two looks, but loses when its machine stands still, as for a fork.
	jump = 10 * time.Millisecond
)

// Offset is how far the clock was off when it was last looked at.
type Offset struct {
	// Behind is the host's time less the machine's; Doubt is to what that is known.
	Behind, Doubt time.Duration
	// Drift is how much too slow the clock is by itself, in parts per million, as far as it was learned.
	Drift float64
	At    time.Time // by the host's clock
}

// System is the machine's clock.
type System interface {
	// Now is the wall clock, and a clock that nobody sets.
	Now() (wall time.Time, mono time.Duration)
	// Steer has the wall clock run faster by so many parts per million, 0 to maxSlew+maxDrift either way.
	Steer(ppm float64) error
	// Step adds to the wall clock.
	Step(time.Duration) error
	// Foreign reports whether someone else has set or steered the clock since the last Steer or Step.
	Foreign() (bool, error)
	// Wait returns after d, or earlier if there is reason to look at the clock, or with false when ctx ends.
	Wait(ctx context.Context, d time.Duration) bool
}

// Keeper keeps a clock. Its fields are set before Run.
type Keeper struct {
	System System
	// Ask returns the host's time.
	Ask func(context.Context) (time.Time, error)
	// Tell is told of each look that found out how far the clock is off; may be nil.
	Tell func(Offset)

	drift float64 // ppm by which the clock is too slow
	last  time.Duration
	sure  bool // last is that of a look after which the clock was right
}

// ErrForeign says that the container keeps the clock by itself.
var ErrForeign = fmt.Errorf("someone in the container keeps the clock")

// Run keeps the clock until ctx ends; then it returns nil. It returns ErrForeign when it lets go of the clock.
func (k *Keeper) Run(ctx context.Context) error {
	if _, err := k.System.Foreign(); err != nil { // begins to watch
		return err
	}
	for pause := firstLook; k.System.Wait(ctx, pause); {
		foreign, err := k.System.Foreign()
		if err != nil {
			return err
		}
		if foreign {
			return ErrForeign
		}
		off, ok := k.look(ctx)
		if !ok {
			pause = minLook
			continue
		}
		vague := off.Doubt > maxDoubt && off.Behind.Abs() < 4*off.Doubt
		if !vague {
			if err := k.mend(ctx, off); err != nil {
				return err
			}
		}
		if k.Tell != nil {
			off.Drift = k.drift
			k.Tell(off)
		}
		pause = min(max(2*pause, minLook), maxLook)
		if vague || off.Behind.Abs() > right {
			pause = minLook
		}
	}
	return nil
}

// look asks how far the clock is off. It reports false when the host does not answer.
func (k *Keeper) look(ctx context.Context) (best Offset, ok bool) {
	for range samples {
		before, began := k.System.Now()
		host, err := k.Ask(ctx)
		if err != nil {
			return Offset{}, false // a host that is gone comes back, or not
		}
		_, ended := k.System.Now()
		half := (ended - began) / 2
		if !ok || half < best.Doubt {
			best, ok = Offset{Behind: host.Sub(before.Add(half)), Doubt: half, At: host}, true
		}
		if best.Doubt < maxDoubt/6 {
			break
		}
	}
	return best, ok
}

// mend brings the clock to where it should be, and learns how it drifts.
func (k *Keeper) mend(ctx context.Context, off Offset) error {
	_, now := k.System.Now()
	k.learn(off, now)
	if off.Behind.Abs() > maxStill {
		k.sure = false
		if err := k.System.Step(off.Behind); err != nil {
			return err
		}
		return k.System.Steer(k.drift)
	}
	if off.Behind.Abs() > off.Doubt { // else what is seen may be the question's own time
		// Half a second at the least: a shorter one would end later than it should on a busy machine.
		took := max(500*time.Millisecond, time.Duration(float64(off.Behind.Abs())/(maxSlew*1e-6)))
		ppm := float64(off.Behind) / float64(took) * 1e6
		if err := k.System.Steer(k.drift + ppm); err != nil {
			return err
		}
		_, began := k.System.Now()
		k.System.Wait(ctx, took)
		if err := k.System.Steer(k.drift); err != nil {
			return err
		}
		_, ended := k.System.Now()
		if late := ended - began - took; late.Abs() > took/10 { // the clock ran at the other rate for longer than it should, or not as long
			k.sure = false
			return nil
		}
		now = ended
	} else if err := k.System.Steer(k.drift); err != nil {
		return err
	}
	k.last, k.sure = now, true
	return nil
}

// learn takes what the clock is off now, since it was right, for its drift. A machine that stood still has lost time otherwise, and half of
// what a look says is taken, as each has a doubt.
func (k *Keeper) learn(off Offset, now time.Duration) {
	since := now - k.last
	if !k.sure || since < minLook/2 || off.Behind.Abs() > jump+time.Duration(maxDrift*1e-6*float64(since)) {
		return
	}
	ppm := float64(off.Behind) / float64(since) * 1e6
	doubt := float64(off.Doubt) / float64(since) * 1e6
	if off.Behind.Abs() > jump && k.drift != 0 || doubt > maxDrift/2 {
		return
	}
	k.drift = min(max(k.drift+ppm/2, -maxDrift), maxDrift)
}
