package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/tether/link"
)

// forkTimeout is how long QEMU may take to write or to load its state.
const forkTimeout = 30 * time.Second

// errNotLoaded ends a child whose template's state QEMU does not accept; QEMU's own words follow it.
var errNotLoaded = errors.New("QEMU cannot load the template's state")

// runMarker is the run marker in the log: a fork says which it is.
func runMarker(id Identity) hostapi.Marker {
	marker := hostapi.Marker{Run: id.Run}
	if text, forked := id.Guestinfo[link.KeyFork]; forked {
		if f, err := link.DecodeFork(text); err == nil { // else the guest says what is wrong, and ends
			marker.Fork = &hostapi.ForkMarker{Generation: f.Generation, Index: f.Index}
		}
	}
	return marker
}

// readyToLoad has QEMU report by MIGRATION events how the loading of its state goes, and announce no network card once it is
// loaded: the announcement (RARP) would carry an address that is not the child's (qapi/migration.json).
func (m *machine) readyToLoad(ctx context.Context) error {
	quiet := map[string]any{"announce-rounds": 0}
	if err := m.qmp.Execute(ctx, "migrate-set-parameters", quiet, nil); err != nil {
		return err
	}
	capabilities := map[string]any{"capabilities": []any{map[string]any{"capability": "events", "state": true}}}
	return m.qmp.Execute(ctx, "migrate-set-capabilities", capabilities, nil)
}

// migration takes a MIGRATION event.
func (q *qemuEvents) migration(data json.RawMessage) {
	var e struct{ Status string }
	if json.Unmarshal(data, &e) != nil {
		return
	}
	var err error
	switch e.Status {
	case "completed":
	case "failed":
		err = errNotLoaded
	default:
		return
	}
	select {
	case q.loaded <- err:
	default:
	}
}

// load brings a child to the point where its template stands: memory is mapped already, this loads the devices. Links are then as
// the template's were.
func (m *machine) load(ctx context.Context) error {
	uri := map[string]string{"uri": fmt.Sprintf("fd:%d", StateFD)}
	if err := m.qmp.Execute(ctx, "migrate-incoming", uri, nil); err != nil {
		return err
	}
	select {
	case err := <-m.events.loaded:
		if err != nil {
			return err
		}
	case <-m.qemu.ended:
		return errNotLoaded
	case <-ctx.Done():
		return fmt.Errorf("cannot load the template's state: %w", context.Cause(ctx))
	}
	m.marks.mark(hostapi.MarkLoaded)
	return nil
}

// guestSet sees what the guest sets. A fork's receipt without a failure lets its frames pass before the guest has its answer: what
// it sent before is dropped, also by cards that have a link.
func (m *machine) guestSet(key, value string) error {
	if key != link.KeyReceipt || !m.cfg.Child {
		return nil
	}
	receipt, err := link.DecodeReceipt(value)
	if err != nil {
		return err
	}
	if link.Failed(receipt) != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), forkTimeout)
	defer cancel()
	if err := m.cards.admit(ctx, m.qmp); err != nil {
		return fmt.Errorf("cannot let the machine onto its networks: %w", err)
	}
	m.marks.mark(hostapi.MarkLinked)
	return nil
}

// freeze makes the machine a template, when its guest calls instantclone.freeze: its CPUs never run again. It returns when
// that is done or has failed; the error is for the guest.
func (m *machine) freeze() error {
	return m.exec(m.qemu.ended, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), forkTimeout)
		defer cancel()
		return m.freezeNow(ctx)
	})
}

// freezeNow is the owner's part of freeze.
func (m *machine) freezeNow(ctx context.Context) error {
	before := m.state
	if err := m.enter(stateCopying); err != nil {
		return err
	}
	saved, err := m.saveState(ctx)
	ram := m.ram // of a machine that was booted it holds all
	if err == nil && m.cfg.Child {
		ram, err = m.copyRAM(ctx)
	}
	if err != nil {
		m.log.Error("cannot freeze the machine", "err", err)
		closeAll([]*os.File{saved})
		return errors.Join(err, m.goOn(ctx, before))
	}
	m.qemu.kill()
	if ram != m.ram {
		m.ram.Close()
	}
	m.ram, m.saved = ram, saved
	for _, f := range []*os.File{ram, saved} {
		if err := seal(f); err != nil { // children can use it, but others could change it
			m.log.Error("the template is not protected", "err", err)
		}
	}
	return m.enter(stateFrozen)
}

// goOn ends stateCopying: CPUs that ran before it run again.
func (m *machine) goOn(ctx context.Context, before runState) error {
	if before == stateRunning {
		if err := m.qmp.Execute(context.WithoutCancel(ctx), "cont", nil, nil); err != nil {
			return errors.Join(err, m.enter(statePaused))
		}
	}
	if err := m.enter(before); err != nil || before != stateRunning {
		return err
	}
	m.sets.sweep(ctx, m.qmp)
	return nil
}

// saveState stops the CPUs and takes the state of all devices, without the memory.
func (m *machine) saveState(ctx context.Context) (_ *os.File, err error) {
	state, err := newMemory("state", 0)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			state.Close()
		}
	}()
	// QEMU looks for a file that is open for writing alone.
	write, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", state.Fd()), os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	defer write.Close()
	set, passed := m.sets.add(m.qmp, write)
	if err := errors.Join(passed.Wait(ctx, nil), m.qmp.Execute(ctx, "stop", nil, nil)); err != nil {
		return nil, err
	}
	args := map[string]any{"filename": fmt.Sprintf("/dev/fdset/%d", set), "live": false}
	if err := m.qmp.Execute(ctx, "xen-save-devices-state", args, nil); err != nil {
		return nil, err
	}
	m.sets.stale = append(m.sets.stale, set)
	return state, nil
}

// copyRAM is what the guest's memory holds while it stands still, as a file of its own.
func (m *machine) copyRAM(ctx context.Context) (*os.File, error) {
	st, err := m.ram.Stat()
	if err != nil {
		return nil, err
	}
	ram, err := newMemory(ramName, st.Size())
	if err != nil {
		return nil, err
	}
	if err := copyMemory(ctx, ram, m.ram, m.qemu.cmd.Process.Pid); err != nil {
		ram.Close()
		return nil, err
	}
	return ram, nil
}

// ForkPoint is where children of a machine go on: two files, and what QEMU has beside its arguments.
type ForkPoint struct {
	RAM, State *os.File
	Hardware   Hardware
}

// forkPoint is the fork point of a machine. One that runs goes on, with new disks over its own. The caller calls release when it
// is done with the files.
func (m *machine) forkPoint(ctx context.Context, to NewDisks) (p ForkPoint, release func(), err error) {
	err = m.exec(m.ended, func() (err error) {
		p.Hardware = Hardware{Links: slices.Clone(m.cards.up), Disks: m.disks.hardware(), Token: m.info.Token()}
		if m.state == stateFrozen {
			p.RAM, p.State, release = m.ram, m.saved, func() {}
			return nil
		}
		p.RAM, p.State, err = m.snapshot(ctx, to)
		release = func() { closeAll([]*os.File{p.RAM, p.State}) }
		return err
	})
	return p, release, err
}

// snapshot takes the fork point of a machine that runs. It is the owner's.
func (m *machine) snapshot(ctx context.Context, to NewDisks) (ram, saved *os.File, err error) {
	ctx, cancel := context.WithTimeout(ctx, forkTimeout)
	defer cancel()
	before := m.state
	if err := m.enter(stateCopying); err != nil {
		return nil, nil, err
	}
	saved, ram, err = m.copyAll(ctx, to)
	if goOn := m.goOn(ctx, before); err == nil {
		err = goOn
	}
	if err == nil {
		err = seal(ram)
	}
	if err == nil {
		err = seal(saved)
	}
	if err != nil {
		closeAll([]*os.File{ram, saved})
		return nil, nil, fmt.Errorf("cannot take the machine's fork point: %w", err)
	}
	return ram, saved, nil
}

// copyAll stops the CPUs and takes device state, memory and disks, as far as it comes.
func (m *machine) copyAll(ctx context.Context, to NewDisks) (saved, ram *os.File, err error) {
	if saved, err = m.saveState(ctx); err != nil {
		return nil, nil, err
	}
	if ram, err = m.copyRAM(ctx); err != nil {
		return saved, ram, err
	}
	return saved, ram, m.fork(ctx, to)
}

// isFrozen reports whether the machine's fork point can be had, and nothing else of it.
func (m *machine) isFrozen() bool {
	select {
	case <-m.frozen:
		return true
	default:
		return false
	}
}
