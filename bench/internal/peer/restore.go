package peer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/containervm/containervm/bench/internal/measure"
)

// Saved is a machine whose whole state, memory included, is in one file.
type Saved struct {
	machine Machine
	file    string
	drive   []string // of a snapshot: the disk that it is in
}

// NewSaved boots a machine, has it write to so many MiB of its memory and saves all of it as a migration to a file.
func (m Machine) NewSaved(ctx context.Context, dir, name string, dirtyMiB int) (s *Saved, err error) {
	s = &Saved{machine: m, file: filepath.Join(dir, name+".saved")}
	v, err := m.booted(ctx, ram{}, dirtyMiB)
	if err != nil {
		return nil, fmt.Errorf("cannot make saved machine %s: %w", name, err)
	}
	defer func() { err = errors.Join(err, v.end()) }()
	if err := v.save(s.file, false); err != nil {
		return nil, fmt.Errorf("cannot save machine %s: %w", name, err)
	}
	return s, nil
}

// Restore reads all of the state and lets the machine run.
func (s *Saved) Restore(ctx context.Context) (sample measure.Sample, err error) {
	state, err := os.Open(s.file)
	if err != nil {
		return sample, err
	}
	defer state.Close()
	v, err := start(ctx, s.machine.Program, s.machine.arguments(ram{}, false, "-incoming", "defer"), state)
	if err != nil {
		return sample, err
	}
	defer func() { err = errors.Join(err, v.end()) }()
	c := clock{begin: v.begin}
	if err := errors.Join(v.qmp.handshake(), v.qmp.capabilities(false)); err != nil {
		return sample, err
	}
	c.mark(MarkGreeting)
	return c.loadAndFinish(v, inherited)
}

// snapshotTag is the name of the snapshot within its disk.
const snapshotTag = "bench"

// NewSnapshot boots a machine with a disk for nothing but its snapshot, and makes one with savevm.
func (m Machine) NewSnapshot(ctx context.Context, dir, name string, dirtyMiB int) (s *Saved, err error) {
	s = &Saved{machine: m, file: filepath.Join(dir, name+".qcow2")}
	if out, err := exec.CommandContext(ctx, "qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=2M", s.file, "1M").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("cannot make disk of snapshot: %w: %s", err, out)
	}
	s.drive = []string{"-drive", "if=none,id=snapshots,format=qcow2,cache=unsafe,file=" + s.file}
	v, err := m.booted(ctx, ram{}, dirtyMiB, s.drive...)
	if err != nil {
		return nil, fmt.Errorf("cannot make machine %s: %w", name, err)
	}
	defer func() { err = errors.Join(err, v.end()) }()
	if err := errors.Join(v.qmp.run("stop", nil), v.qmp.monitor("savevm "+snapshotTag)); err != nil {
		return nil, fmt.Errorf("cannot make snapshot of %s: %w", name, err)
	}
	return s, nil
}

// LoadVM starts QEMU on the snapshot.
func (s *Saved) LoadVM(ctx context.Context) (sample measure.Sample, err error) {
	args := s.machine.arguments(ram{}, false, append([]string{"-loadvm", snapshotTag, "-S"}, s.drive...)...)
	v, err := start(ctx, s.machine.Program, args, nil)
	if err != nil {
		return sample, err
	}
	defer func() { err = errors.Join(err, v.end()) }()
	c := clock{begin: v.begin}
	// The snapshot is loaded before QEMU's main loop, which reads the command that lets the guest run.
	if err := errors.Join(v.qmp.handshake(), v.resume()); err != nil {
		return sample, err
	}
	c.mark(MarkLoaded)
	return c.finish(v)
}

// Remove deletes the state.
func (s *Saved) Remove() error { return os.Remove(s.file) }

// Live is a machine that runs on, for measuring how long it takes to save it.
type Live struct {
	vm   *vm
	file string
}

// NewLive boots a machine whose memory is a shared file, as that of a template in the making.
func (m Machine) NewLive(ctx context.Context, dir, name string, dirtyMiB int) (*Live, error) {
	v, err := m.booted(ctx, ram{path: filepath.Join(dir, name+".ram"), shared: true}, dirtyMiB)
	if err != nil {
		return nil, fmt.Errorf("cannot make machine %s: %w", name, err)
	}
	return &Live{vm: v, file: filepath.Join(dir, name+".state")}, nil
}

// Freeze stops the machine and saves the state of its devices: all that makes a template of it.
func (l *Live) Freeze(context.Context) (measure.Sample, error) { return l.save(true) }

// Save stops the machine and saves all of it.
func (l *Live) Save(context.Context) (measure.Sample, error) { return l.save(false) }

func (l *Live) save(ignoreShared bool) (measure.Sample, error) {
	if err := os.Remove(l.file); err != nil && !errors.Is(err, os.ErrNotExist) { // freeing it takes time too
		return measure.Sample{}, err
	}
	begin := time.Now()
	if err := l.vm.save(l.file, ignoreShared); err != nil {
		return measure.Sample{}, err
	}
	took := measure.Millis(time.Since(begin))
	// It must be able to go on, or what was saved may be nothing.
	return measure.Sample{Value: took}, errors.Join(l.goOn(), l.vm.say("p"), l.vm.hear("p"))
}

// goOn lets the machine run after it was saved. QEMU reports the end of a migration before it has cleaned up, refuses to
// go on until then, and has no event for that.
func (l *Live) goOn() (err error) {
	for range 1000 {
		if err = l.vm.resume(); err == nil {
			return nil
		}
	}
	return err
}

// Close ends the machine.
func (l *Live) Close() error { return l.vm.end() }
