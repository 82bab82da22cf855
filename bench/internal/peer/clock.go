package peer

import (
	"time"

	"github.com/containervm/containervm/bench/internal/measure"
)

// Names of marks that all machines have. The value of a sample is the moment of the first byte of the process.
const (
	MarkGreeting = "QEMU greets"
	MarkLoaded   = "state loaded"
	MarkReply    = "first reply of the guest"
)

// Greeting is what the process of every side says.
const Greeting = "hello"

// clock collects the marks of a sample.
type clock struct {
	begin time.Time
	marks []measure.Mark
}

func (c *clock) mark(name string) {
	c.marks = append(c.marks, measure.Mark{Name: name, Value: measure.Millis(time.Since(c.begin))})
}

// loadAndFinish takes the state of a machine in, lets it run, and finishes.
func (c *clock) loadAndFinish(v *vm, uri string) (measure.Sample, error) {
	if err := v.load(uri); err != nil {
		return measure.Sample{}, err
	}
	c.mark(MarkLoaded)
	if err := v.resume(); err != nil {
		return measure.Sample{}, err
	}
	return c.finish(v)
}

// finish has the guest answer a byte and start its process, and ends the clock at the process's first byte.
func (c *clock) finish(v *vm) (measure.Sample, error) {
	if err := v.say("pe"); err != nil {
		return measure.Sample{}, err
	}
	if err := v.hear("p"); err != nil {
		return measure.Sample{}, err
	}
	c.mark(MarkReply)
	return c.process(v)
}

// process ends the clock at the first byte of a process that was asked for.
func (c *clock) process(v *vm) (measure.Sample, error) {
	if err := v.hear(Greeting); err != nil {
		return measure.Sample{}, err
	}
	return measure.Sample{Value: measure.Millis(time.Since(c.begin)), Marks: c.marks}, nil
}
