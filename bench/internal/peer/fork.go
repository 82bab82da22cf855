package peer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/containervm/containervm/bench/internal/measure"
)

// incoming are the arguments of a QEMU that waits to be told where its state is.
func (t *Template) incoming() []string {
	return t.machine.arguments(ram{path: t.memory}, false, append([]string{"-incoming", "defer"}, t.extra...)...)
}

// begin starts a child's QEMU with the state as stateFD.
func (t *Template) begin(ctx context.Context) (*vm, error) {
	state, err := os.Open(t.state)
	if err != nil {
		return nil, err
	}
	defer state.Close()
	return start(ctx, t.machine.Program, t.incoming(), state)
}

// ready does the handshake with a child's QEMU and tells it that its memory is there already.
func (v *vm) ready() error {
	return errors.Join(v.qmp.handshake(), v.qmp.capabilities(true))
}

// load takes the state in.
func (v *vm) load(uri string) error {
	if err := v.qmp.run("migrate-incoming", map[string]string{"uri": uri}); err != nil {
		return err
	}
	return v.qmp.migrated()
}

// resume lets the guest run; it was saved when it was stopped, so it does not by itself.
func (v *vm) resume() error { return v.qmp.run("cont", nil) }

var inherited = fmt.Sprintf("fd:%d", stateFD)

// Fork makes a child with nothing started before.
func (t *Template) Fork(ctx context.Context) (measure.Sample, error) { return once(ctx, t.ForkAlive) }

// ForkAlive is Fork of a child that goes on until end is called.
func (t *Template) ForkAlive(ctx context.Context) (s measure.Sample, end func() error, err error) {
	v, err := t.begin(ctx)
	if err != nil {
		return s, nil, err
	}
	return alive(v, func() (measure.Sample, error) { return fork(v, clock{begin: v.begin}, inherited) })
}

func fork(v *vm, c clock, uri string) (s measure.Sample, err error) {
	if err := v.ready(); err != nil {
		return s, err
	}
	c.mark(MarkGreeting)
	return c.loadAndFinish(v, uri)
}

// ForkPrestarted makes a child of a QEMU that waits for its state already; starting that is not in the sample.
func (t *Template) ForkPrestarted(ctx context.Context) (s measure.Sample, err error) {
	v, err := t.begin(ctx)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, v.end()) }()
	if err := v.ready(); err != nil {
		return s, err
	}
	c := clock{begin: time.Now()}
	return c.loadAndFinish(v, inherited)
}

// Claim takes a child that runs already and has answered once; making it is the mark of the refill, and not in the value.
func (t *Template) Claim(ctx context.Context) (s measure.Sample, err error) {
	v, err := t.begin(ctx)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, v.end()) }()
	err = errors.Join(v.ready(), v.load(inherited), v.resume(), v.say("p"), v.hear("p"))
	if err != nil {
		return s, err
	}
	refill := measure.Mark{Name: MarkRefill, Of: measure.OfFigures, Value: measure.Millis(time.Since(v.begin))}
	c := clock{begin: time.Now()}
	s, err = c.finish(v)
	s.Marks = append(s.Marks, refill)
	return s, err
}

// MarkRefill is what a claimed child has cost before.
const MarkRefill = "refill"

// Kata makes a child as Kata Containers' VM templating does, re-created: the state comes through a pipe from cat
// ("exec:"), the device state alone, on a machine with the devices of Kata's default. Unlike Kata it waits for QEMU's event
// instead of asking every 100 ms, and neither reseeds nor sets a clock, which is in its favour.
func (t *Template) Kata(ctx context.Context) (s measure.Sample, err error) {
	v, err := start(ctx, t.machine.Program, t.incoming(), nil)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, v.end()) }()
	return fork(v, clock{begin: v.begin}, "exec:cat "+t.state)
}

// KataDevices are the devices that Kata's default configuration has before a container's are added.
func KataDevices() []string {
	return []string{
		"-device", "virtio-serial-pci,romfile=", "-device", "virtio-scsi-pci,romfile=",
		"-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng,romfile=",
	}
}

// Reboot clones and then has the clone boot, as those do who give a clone its identity by a reboot.
func (t *Template) Reboot(ctx context.Context) (s measure.Sample, err error) {
	state, err := os.Open(t.state)
	if err != nil {
		return s, err
	}
	defer state.Close()
	args := t.machine.arguments(ram{path: t.memory}, true, append([]string{"-incoming", "defer", "-action", "reboot=reset"}, t.extra...)...)
	v, err := start(ctx, t.machine.Program, args, state)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, v.end()) }()
	c := clock{begin: v.begin}
	if err := v.ready(); err != nil {
		return s, err
	}
	c.mark(MarkGreeting)
	if err := v.load(inherited); err != nil {
		return s, err
	}
	c.mark(MarkLoaded)
	if err := errors.Join(v.qmp.run("system_reset", nil), v.resume()); err != nil {
		return s, err
	}
	return finishBoot(v, c)
}
