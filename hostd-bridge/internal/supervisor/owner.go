package supervisor

import (
	"errors"
	"fmt"

	"github.com/containervm/containervm/hostd-bridge/internal/qemu/qmp"
)

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
			err := o.do()
			if errors.Is(err, qmp.ErrClosed) { // QEMU ended under it
				err = fmt.Errorf("%w: %w", errEnded, err)
			}
			o.done <- err
		case <-until:
			return
		}
	}
}

// own is the life of the machine from when its CPUs run to its last report. The goroutine that calls it is the machine's
// owner: it alone changes the run state and what belongs to it, so operations on these exclude each other.
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

// abandon ends a machine whose start has failed, and adds to err what QEMU said.
func (m *machine) abandon(err error) error {
	_ = m.enter(stateEnding) // every state but this one allows it
	m.qemu.kill()
	m.cards.close()
	m.joins.close()
	m.vsock.Close()
	if errors.Is(err, errUnwanted) {
		return err
	}
	return m.withStderr(err)
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
