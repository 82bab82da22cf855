package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/containervm/containervm/tether/link"
)

// forkTimeout is how long QEMU may take to write or to load its state.
const forkTimeout = 30 * time.Second

// errFrozen answers what needs a machine that runs.
var errFrozen = errors.New("the machine is frozen: it only serves as a template")

// errNotLoaded is what a child dies of whose template's state is none; QEMU's own words follow it.
var errNotLoaded = errors.New("QEMU cannot load the template's state")

// runMarker is the text of the run marker in the log: a fork says which it is.
func runMarker(info map[string]string) string {
	text, forked := info[link.KeyFork]
	if !forked {
		return ""
	}
	f, err := link.DecodeFork(text)
	if err != nil {
		return "fork"
	}
	return fmt.Sprintf("fork %d %d", f.Generation, f.Index)
}

// readyToLoad has QEMU tell by MIGRATION events how the loading of its state goes, and send nothing when it is loaded: it would tell the
// network by RARP whose card this is, before that is known (qapi/migration.json).
func (m *machine) readyToLoad(ctx context.Context) error {
	quiet := map[string]any{"announce-rounds": 0}
	if err := m.qmp.Execute(ctx, "migrate-set-parameters", quiet, nil); err != nil {
		return err
	}
	capabilities := map[string]any{"capabilities": []any{map[string]any{"capability": "events", "state": true}}}
	return m.qmp.Execute(ctx, "migrate-set-capabilities", capabilities, nil)
}

// migration takes a MIGRATION event; the caller holds mu.
func (m *machine) migration(data json.RawMessage) {
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
	case m.loaded <- err:
	default:
	}
}

// load puts a child where its template stands: memory is mapped already, this is the devices. The child's network cards get
// their link when the guest has become someone else.
func (m *machine) load(ctx context.Context) error {
	uri := map[string]string{"uri": fmt.Sprintf("fd:%d", StateFD)}
	if err := m.qmp.Execute(ctx, "migrate-incoming", uri, nil); err != nil {
		return err
	}
	select {
	case err := <-m.loaded:
		if err != nil {
			return err
		}
	case <-m.qemu.ended:
		return errNotLoaded
	case <-ctx.Done():
		return fmt.Errorf("cannot load the template's state: %w", context.Cause(ctx))
	}
	m.mark(markLoaded)
	return m.setLinks(ctx, false)
}

// setLinks plugs all network cards in, or out.
func (m *machine) setLinks(ctx context.Context, up bool) error {
	for _, card := range m.cfg.Cards {
		if err := m.qmp.Execute(ctx, "set_link", map[string]any{"name": card, "up": up}, nil); err != nil {
			return err
		}
	}
	return nil
}

// guestSet sees what the guest sets. A fork's receipt without a failure gives it its link, before the guest has its answer.
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
	if err := m.setLinks(ctx, true); err != nil {
		return fmt.Errorf("cannot plug in the network: %w", err)
	}
	m.mark(markLinked)
	return nil
}

// freeze makes the machine a template, when its guest calls instantclone.freeze: nothing runs any more from then on. It
// returns only if that failed, in words for the guest.
func (m *machine) freeze() error {
	err := errors.New("the machine is being frozen already")
	m.freezing.Do(func() { err = m.freezeOnce() })
	return err
}

func (m *machine) freezeOnce() error {
	ctx, cancel := context.WithTimeout(context.Background(), forkTimeout)
	defer cancel()
	state, err := m.saveState(ctx)
	ram := m.ram
	if err == nil && m.cfg.Child {
		ram, err = m.copyRAM()
	}
	if err != nil {
		m.log.Error("cannot freeze the machine", "err", err)
		return errors.Join(err, m.resume(ctx))
	}
	m.mu.Lock()
	m.ram, m.state = ram, state
	m.mu.Unlock()
	m.qemu.kill() // watch goes on with keep
	return nil
}

// saveState stops the CPUs and takes the state of all devices, without the memory.
func (m *machine) saveState(ctx context.Context) (*os.File, error) {
	if err := m.pause(ctx); err != nil {
		return nil, err
	}
	state, err := newMemory("state", 0)
	if err != nil {
		return nil, err
	}
	// By our descriptor: QEMU is our child, of our user, so it may open it.
	args := map[string]any{"filename": fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), state.Fd()), "live": false}
	if err := m.qmp.Execute(ctx, "xen-save-devices-state", args, nil); err != nil {
		state.Close()
		return nil, err
	}
	return state, nil
}

// copyRAM is what the guest's memory holds while it stands still, as a file of its own.
func (m *machine) copyRAM() (*os.File, error) {
	st, err := m.ram.Stat()
	if err != nil {
		return nil, err
	}
	ram, err := newMemory(ramName, st.Size())
	if err != nil {
		return nil, err
	}
	if err := copyMemory(ram, m.ram, m.qemu.cmd.Process.Pid); err != nil {
		ram.Close()
		return nil, err
	}
	return ram, nil
}

// keep holds the files of a frozen machine until it is not wanted any more.
func (m *machine) keep() {
	for _, f := range []*os.File{m.ram, m.state} {
		if err := seal(f); err != nil { // still of use, but no longer safe from others
			m.log.Error("the template is not protected", "err", err)
		}
	}
	close(m.frozen)
	<-m.unwanted
}

// isFrozen reports whether the machine stands still for good.
func (m *machine) isFrozen() bool {
	select {
	case <-m.frozen:
		return true
	default:
		return false
	}
}

// snapshot takes the fork point of a machine that runs, and lets it go on, with newDisk over its disk.
func (m *machine) snapshot(ctx context.Context, newDisk string) (ram, state *os.File, err error) {
	ctx, cancel := context.WithTimeout(ctx, forkTimeout)
	defer cancel()
	state, err = m.saveState(ctx)
	if err == nil {
		ram, err = m.copyRAM()
	}
	if err == nil && newDisk != "" {
		err = m.slot.fork(ctx, m.qmp, newDisk)
	}
	err = errors.Join(err, m.resume(context.WithoutCancel(ctx)))
	if err == nil {
		err = errors.Join(seal(ram), seal(state))
	}
	if err != nil {
		for _, f := range []*os.File{ram, state} {
			if f != nil {
				f.Close()
			}
		}
		return nil, nil, fmt.Errorf("cannot take the machine's fork point: %w", err)
	}
	return ram, state, nil
}
