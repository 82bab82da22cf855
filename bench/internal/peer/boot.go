package peer

import (
	"context"
	"errors"

	"github.com/containervm/containervm/bench/internal/measure"
)

// Boot starts the machine from nothing.
func (m Machine) Boot(ctx context.Context) (measure.Sample, error) { return once(ctx, m.BootAlive) }

// BootAlive is Boot of a machine that goes on until end is called.
func (m Machine) BootAlive(ctx context.Context) (s measure.Sample, end func() error, err error) {
	v, err := start(ctx, m.Program, m.arguments(ram{}, true), nil)
	if err != nil {
		return s, nil, err
	}
	return alive(v, func() (measure.Sample, error) { return finishBoot(v, clock{begin: v.begin}) })
}

// alive leaves a machine that answered to its caller, and ends one that did not.
func alive(v *vm, answer func() (measure.Sample, error)) (measure.Sample, func() error, error) {
	s, err := answer()
	if err != nil {
		return s, nil, errors.Join(err, v.end())
	}
	return s, v.end, nil
}

// once ends a machine that answered.
func once(ctx context.Context, make func(context.Context) (measure.Sample, func() error, error)) (measure.Sample, error) {
	s, end, err := make(ctx)
	if err != nil {
		return s, err
	}
	return s, end()
}

// finishBoot ends a clock like finish, for a machine that is booting: it says by itself when it is there, and reads its
// console only then.
func finishBoot(v *vm, c clock) (measure.Sample, error) {
	if err := v.hear("ready"); err != nil {
		return measure.Sample{}, err
	}
	c.mark(MarkReply)
	if err := v.say("e"); err != nil {
		return measure.Sample{}, err
	}
	return c.process(v)
}

// Floor is the least that a machine of QEMU's costs: one without anything, to its greeting.
func (m Machine) Floor(ctx context.Context) (value float64, err error) {
	args := []string{"-M", "none", "-nodefaults", "-no-user-config", "-display", "none",
		"-chardev", "socket,id=qmp,fd=3", "-mon", "chardev=qmp,mode=control"}
	v, err := start(ctx, m.Program, args, nil)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, v.end()) }()
	if err := v.qmp.greeting(); err != nil {
		return 0, err
	}
	c := clock{begin: v.begin}
	c.mark(MarkGreeting)
	return c.marks[0].Value, nil
}

// booted is a machine that waits for commands, with so many MiB of its memory written to.
func (m Machine) booted(ctx context.Context, r ram, dirtyMiB int, extra ...string) (*vm, error) {
	v, err := start(ctx, m.Program, m.arguments(r, true, extra...), nil)
	if err != nil {
		return nil, err
	}
	err = errors.Join(v.qmp.handshake(), v.hear("ready"))
	if err == nil && dirtyMiB > 0 {
		err = errors.Join(v.say("d"+digits(dirtyMiB)), v.hear("d"))
	}
	if err != nil {
		return nil, errors.Join(err, v.end())
	}
	return v, nil
}

// digits is a number as the guest's init reads it.
func digits(n int) string {
	return string([]byte{'0' + byte(n/1000%10), '0' + byte(n/100%10), '0' + byte(n/10%10), '0' + byte(n%10)})
}
