package vsock

import (
	"sync"
	"time"
)

// deadline reports whether a moment has passed. The lock of the condition that it wakes guards it.
type deadline struct {
	passed bool
	timer  *time.Timer
}

// setLocked replaces the moment; zero is none. wake may be nil when t is zero.
func (d *deadline) setLocked(t time.Time, wake *sync.Cond) {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.passed = !t.IsZero() && !t.After(time.Now())
	if d.passed {
		wake.Broadcast()
		return
	}
	if t.IsZero() {
		return
	}
	var timer *time.Timer
	timer = time.AfterFunc(time.Until(t), func() {
		wake.L.Lock()
		defer wake.L.Unlock()
		if d.timer == timer { // else it was replaced
			d.passed = true
			wake.Broadcast()
		}
	})
	d.timer = timer
}
