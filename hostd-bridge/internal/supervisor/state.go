package supervisor

import (
	"errors"
	"fmt"
	"os"
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

// operation is work that only the owner may do.
type operation struct {
	do   func() error
	done chan error // takes the result of do
}

// exec has the owner do an operation and returns its result. It gives up when gone is closed before the operation begins.
func (m *machine) exec(gone <-chan struct{}, do func() error) error {
	o := operation{do, make(chan error, 1)}
	select {
	case m.operations <- o:
		return <-o.done
	case <-gone:
		return errEnded
	}
}

// serve does operations, one at a time, until the channel is closed.
func (m *machine) serve(until <-chan struct{}) {
	for {
		select {
		case o := <-m.operations:
			o.done <- o.do()
		case <-until:
			return
		}
	}
}

// own is the life of the machine from when its CPUs run to its last report. The goroutine that calls it is the machine's owner: it
// alone changes the run state and what belongs to it, so operations on these exclude each other.
func (m *machine) own() {
	m.serve(m.qemu.ended)
	m.drain()
	if m.state == stateFrozen {
		close(m.frozen)
		m.serve(m.unwanted)
	}
	_ = m.enter(stateEnding) // every state but this one allows it
	m.report()
}

// abandon ends a machine that is not owned yet, and adds to err what QEMU said. Of one that is unwanted nobody else knows the
// directory, so it goes too.
func (m *machine) abandon(err error) error {
	_ = m.enter(stateEnding) // every state but this one allows it
	m.qemu.kill()
	m.vsock.Close()
	if errors.Is(err, errUnwanted) {
		return errors.Join(err, os.RemoveAll(m.dir))
	}
	return withStderr(err, m.dir)
}

// end kills QEMU on request. A machine that is frozen gives up its fork point.
func (m *machine) end() {
	m.giveUp()
	m.qemu.kill()
}

// kill ends the machine and returns when the report is written.
func (m *machine) kill() {
	m.end()
	<-m.ended
}
