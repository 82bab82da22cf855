package clock

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// tickUnit is what one of adjtimex's ticks is in parts per million: a microsecond of the 10,000 between two ticks (adjtimex(2), USER_HZ 100).
	tickUnit = 100
	// normalTick is the length of a tick that is not steered, in microseconds.
	normalTick = 10_000
	// freqUnit is a part per million in adjtimex's unit.
	freqUnit = 1 << 16
)

// Machine is the System of this machine. It needs CAP_SYS_TIME.
type Machine struct {
	timer *os.File        // becomes readable when someone sets the clock; its deadline is that of Wait
	raw   syscall.RawConn // of timer
	set   unix.Timex      // what was steered last; the zero value: nothing
}

// NewMachine begins to watch the clock.
func NewMachine() (*Machine, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_REALTIME, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("cannot watch the clock: %w", err)
	}
	m := &Machine{timer: os.NewFile(uintptr(fd), "clock")}
	if m.raw, err = m.timer.SyscallConn(); err == nil {
		err = m.watch()
	}
	if err != nil {
		return nil, errors.Join(err, m.timer.Close())
	}
	return m, nil
}

// Close ends the watch.
func (m *Machine) Close() error { return m.timer.Close() }

// Now implements System.
func (m *Machine) Now() (time.Time, time.Duration) {
	now := time.Now()
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC_RAW, &ts) // cannot fail: the clock exists
	return now.Round(0), time.Duration(ts.Nano())
}

// Steer implements System: coarsely by the tick's length, finely by the frequency.
func (m *Machine) Steer(ppm float64) error {
	ticks := math.Round(ppm / tickUnit)
	want := unix.Timex{
		Modes: unix.ADJ_TICK | unix.ADJ_FREQUENCY, Tick: normalTick + int64(ticks), Freq: int64(math.Round((ppm - ticks*tickUnit) * freqUnit)),
	}
	if want.Tick == m.set.Tick && want.Freq == m.set.Freq {
		return nil
	}
	m.set = want
	if _, err := unix.Adjtimex(&want); err != nil {
		return fmt.Errorf("cannot steer the clock: %w", err)
	}
	return nil
}

// Step implements System.
func (m *Machine) Step(by time.Duration) error {
	step := unix.Timex{Modes: unix.ADJ_SETOFFSET | unix.ADJ_NANO}
	at := unix.NsecToTimespec(by.Nanoseconds()) // whose nanoseconds are never negative, as ADJ_NANO wants them
	step.Time = unix.Timeval{Sec: at.Sec, Usec: at.Nsec}
	if _, err := unix.Adjtimex(&step); err != nil {
		return fmt.Errorf("cannot set the clock: %w", err)
	}
	return m.watch()
}

// Foreign implements System.
func (m *Machine) Foreign() (bool, error) {
	var n int
	var failed error
	err := m.raw.Control(func(fd uintptr) { n, failed = unix.Read(int(fd), make([]byte, 8)) })
	switch {
	case err != nil:
		return false, err
	case errors.Is(failed, unix.ECANCELED):
		return true, m.watch()
	case failed != nil && !errors.Is(failed, unix.EAGAIN):
		return false, fmt.Errorf("cannot watch the clock: %w", failed)
	case n > 0: // its time has come
		if err := m.watch(); err != nil {
			return false, err
		}
	}
	var is unix.Timex
	if _, err := unix.Adjtimex(&is); err != nil {
		return false, fmt.Errorf("cannot read how the clock is steered: %w", err)
	}
	if m.set.Modes == 0 {
		m.set = unix.Timex{Modes: unix.ADJ_TICK, Tick: is.Tick, Freq: is.Freq}
		return false, nil
	}
	// The kernel rounds a frequency.
	return is.Tick != m.set.Tick || is.Freq-m.set.Freq > 1 || m.set.Freq-is.Freq > 1, nil
}

// watch arms the timer: far away, and cancelled by a clock that is set.
func (m *Machine) watch() error {
	far := unix.ItimerSpec{Value: unix.Timespec{Sec: math.MaxInt32 * 2}}
	var failed error
	err := m.raw.Control(func(fd uintptr) {
		failed = unix.TimerfdSettime(int(fd), unix.TFD_TIMER_ABSTIME|unix.TFD_TIMER_CANCEL_ON_SET, &far, nil)
	})
	if failed != nil && !errors.Is(failed, unix.ECANCELED) { // that says only that it was set before
		err = failed
	}
	if err != nil {
		return fmt.Errorf("cannot watch the clock: %w", err)
	}
	return nil
}

// Hurry ends the present Wait.
func (m *Machine) Hurry() { _ = m.timer.SetReadDeadline(time.Unix(1, 0)) }

// Wait implements System. It also ends when someone sets the clock.
func (m *Machine) Wait(ctx context.Context, d time.Duration) bool {
	if m.timer.SetReadDeadline(time.Now().Add(d)) != nil {
		return false
	}
	defer context.AfterFunc(ctx, m.Hurry)()
	err := m.raw.Read(func(fd uintptr) bool {
		ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		_, err := unix.Poll(ready, 0)
		return err != nil || ready[0].Revents != 0
	})
	return ctx.Err() == nil && (err == nil || errors.Is(err, os.ErrDeadlineExceeded))
}
