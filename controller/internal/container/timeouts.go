package container

import "time"

// Timeouts bound the waits for guests. Zero fields have the default.
type Timeouts struct {
	// Start is how long a guest may take from power-on to its process; default 2 min: a guest under emulation on a busy
	// host boots in seconds, not minutes.
	Start time.Duration
	// Template is how long a container that must be forked waits for its template; default 2 min.
	Template time.Duration
	// Link is how long a tether may take to answer before the machine is ended without it; default 5 s.
	Link time.Duration
	// Off is how long a guest may take from the end of its process to power-off (sync, unmount); default 15 s.
	Off time.Duration
}

// WithDefaults fills zero fields.
func (t Timeouts) WithDefaults() Timeouts {
	set := func(d *time.Duration, def time.Duration) {
		if *d == 0 {
			*d = def
		}
	}
	set(&t.Start, 2*time.Minute)
	set(&t.Template, 2*time.Minute)
	set(&t.Link, 5*time.Second)
	set(&t.Off, 15*time.Second)
	return t
}
