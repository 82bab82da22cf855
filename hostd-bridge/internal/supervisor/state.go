package supervisor

import (
	"errors"
	"fmt"
)

// runState is where a machine stands. Package supervisor's comment draws it.
type runState uint8

const (
	statePrestarted runState = iota // QEMU is there, and no CPU has run
	stateRunning
	statePaused  // by a client
	stateCopying // the CPUs stand still while a fork point is taken
	stateFrozen  // QEMU is gone, the fork point is kept
	stateEnding  // QEMU is gone for good
)

// String names the state in errors and records.
func (s runState) String() string {
	switch s {
	case statePrestarted:
		return "prestarted"
	case stateRunning:
		return "running"
	case statePaused:
		return "paused"
	case stateCopying:
		return "copying"
	case stateFrozen:
		return "frozen"
	}
	return "ending"
}

// allows reports whether next may follow s.
func (s runState) allows(next runState) bool {
	switch s {
	case statePrestarted:
		return next == stateRunning || next == stateEnding
	case stateRunning, statePaused:
		return next == stateRunning || next == statePaused || next == stateCopying || next == stateEnding
	case stateCopying:
		return next == stateRunning || next == statePaused || next == stateFrozen || next == stateEnding
	case stateFrozen:
		return next == stateEnding
	}
	return false
}

// errFrozen answers what needs a machine with CPUs.
var errFrozen = errors.New("the machine is frozen: it only serves as a template")

// errEnded answers what comes too late.
var errEnded = errors.New("the machine has ended")

// check says why next may not follow the present state.
func (m *machine) check(next runState) error {
	switch {
	case m.state.allows(next):
		return nil
	case m.state == stateFrozen:
		return errFrozen
	case m.state == stateEnding:
		return errEnded
	}
	return fmt.Errorf("a machine that is %s cannot be %s next", m.state, next)
}

// checkLive says why the machine has no QEMU to work on.
func (m *machine) checkLive() error { return m.check(m.state) } // only states with a QEMU allow themselves

// enter changes the state. Only the owner calls it.
func (m *machine) enter(next runState) error {
	if err := m.check(next); err != nil {
		return err
	}
	m.log.Debug("run state", "from", m.state, "to", next)
	m.state = next
	return nil
}
