package vsock

// streamState is where a connection of a Device stands:
//
//	            answered             closing                removed
//	requested ------------> open ------------> lingering ------------> closed
//	    | removed             | removed                                  ^
//	    v                     v                 closing                  |
//	 refused                ended ---------------------------------------+
type streamState uint8

const (
	stateRequested streamState = iota // we have asked the guest for it
	stateRefused                      // it never was open; err says why
	stateOpen                         // shut and peerShut say which directions are over
	stateLingering                    // closed by us: it waits for the guest's reset
	stateEnded                        // by the guest or with the device; err says why. What was received can be read
	stateClosed                       // closed by us, and no longer in the device's table
)

// streamEvent is what changes a streamState.
type streamEvent uint8

const (
	eventAnswered streamEvent = iota // both sides know the connection
	eventRemoved                     // it leaves the device's table: a reset, a time-out, or the device's end
	eventClosing                     // our Close
)

// after is the state that follows; an event that a state does not know changes nothing.
func (s streamState) after(e streamEvent) streamState {
	switch {
	case s == stateRequested && e == eventAnswered:
		return stateOpen
	case s == stateRequested && e == eventRemoved:
		return stateRefused
	case s == stateOpen && e == eventRemoved:
		return stateEnded
	case s == stateOpen && e == eventClosing:
		return stateLingering
	case s == stateLingering && e == eventRemoved, s == stateEnded && e == eventClosing:
		return stateClosed
	}
	return s
}

// inTable reports whether the device has the connection in its table, so that packets of the guest may change it.
func (s streamState) inTable() bool {
	return s == stateRequested || s == stateOpen || s == stateLingering
}

// closedByUs reports whether Close was called.
func (s streamState) closedByUs() bool { return s == stateLingering || s == stateClosed }
