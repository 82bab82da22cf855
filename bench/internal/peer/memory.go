package peer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/containervm/containervm/bench/internal/measure"
	"github.com/containervm/containervm/internal/smaps"
)

// Usage reads what a QEMU process takes now. ram is the file of the guest's memory, or a part of its name; empty: the
// mapping that has the size of the guest's memory.
func Usage(pid int, ram string, memoryMiB int) (measure.Memory, error) {
	mappings, err := smaps.Read(pid)
	if err != nil {
		return measure.Memory{}, err
	}
	m := usageOf(mappings, ram, memoryMiB)
	m.MinorFaults, m.MajorFaults, err = faults(pid)
	return m, err
}

// usageOf tells the guest's own pages from the rest of QEMU. Of the guest's memory, Anonymous counts: pages of a private
// mapping that were written to, and not those that still are the template's. Of QEMU itself, what it wrote to: its program
// and libraries are shared by all QEMUs, although smaps calls them private while there is but one.
func usageOf(mappings []smaps.Mapping, ram string, memoryMiB int) (m measure.Memory) {
	for _, p := range mappings {
		guest := p.Name == "" && p.Size == uint64(memoryMiB)<<10
		if ram != "" {
			guest = strings.Contains(p.Name, ram)
		}
		if guest {
			m.GuestMiB += float64(p.Anonymous) / 1024
		} else {
			m.OverheadMiB += float64(p.PrivateDirty) / 1024
		}
	}
	return m
}

func faults(pid int) (minor, major uint64, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, fmt.Errorf("cannot read faults of QEMU: %w", err)
	}
	return decodeFaults(string(text))
}

// decodeFaults reads minflt and majflt, fields 10 and 12 of proc(5)'s stat. Field 2 is a name in parentheses, which may
// itself hold anything.
func decodeFaults(stat string) (minor, major uint64, err error) {
	i := strings.LastIndexByte(stat, ')')
	fields := strings.Fields(stat[i+1:])
	if i < 0 || len(fields) < 10 {
		return 0, 0, fmt.Errorf("cannot understand stat: %q", stat)
	}
	minor, errMinor := strconv.ParseUint(fields[7], 10, 64)
	major, errMajor := strconv.ParseUint(fields[9], 10, 64)
	return minor, major, errors.Join(errMinor, errMajor)
}

// Watch reads a process's usage at each of the moments after now, which is the first byte of its process.
func Watch(ctx context.Context, moments []time.Duration, usage func() (measure.Memory, error)) (all []measure.Memory, err error) {
	begin := time.Now()
	for _, at := range moments {
		select {
		case <-time.After(at - time.Since(begin)):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		seconds := time.Since(begin).Seconds()
		m, err := usage()
		if err != nil {
			return nil, err
		}
		m.Seconds = seconds
		all = append(all, m)
	}
	return all, nil
}

// MarkAll is the mark of guest and overhead together, and MarkOverhead that of QEMU itself, when the first byte was there.
const (
	MarkAll      = "guest and QEMU"
	MarkOverhead = "QEMU itself"
	MarkFaults   = "minor faults"
)

// MemorySample is a sample whose value is the guest's own memory at the first byte.
func MemorySample(all []measure.Memory) measure.Sample {
	if len(all) == 0 {
		return measure.Sample{Error: "no moment was measured"}
	}
	first := all[0]
	s := measure.Sample{Value: first.GuestMiB, Memory: all, Marks: []measure.Mark{
		{Name: MarkOverhead, Of: measure.OfFigures, Value: first.OverheadMiB},
		{Name: MarkAll, Of: measure.OfFigures, Value: first.GuestMiB + first.OverheadMiB},
	}}
	if first.MinorFaults > 0 { // none are known of a machine that its host measures
		s.Marks = append(s.Marks, measure.Mark{Name: MarkFaults, Of: measure.OfFigures, Value: float64(first.MinorFaults)})
	}
	return s
}

// ForkMemory makes a child and watches it after its first byte.
func (t *Template) ForkMemory(ctx context.Context, moments []time.Duration) (s measure.Sample, err error) {
	v, err := t.begin(ctx)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, v.end()) }()
	if _, err := fork(v, clock{begin: v.begin}, inherited); err != nil {
		return s, err
	}
	return v.watch(ctx, moments, t.memory, t.machine.MemoryMiB)
}

// BootMemory boots the machine and watches it after its first byte.
func (m Machine) BootMemory(ctx context.Context, moments []time.Duration) (s measure.Sample, err error) {
	v, err := start(ctx, m.Program, m.arguments(ram{}, true), nil)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, v.end()) }()
	if _, err := finishBoot(v, clock{begin: v.begin}); err != nil {
		return s, err
	}
	return v.watch(ctx, moments, "", m.MemoryMiB)
}

func (v *vm) watch(ctx context.Context, moments []time.Duration, ram string, memoryMiB int) (measure.Sample, error) {
	all, err := Watch(ctx, moments, func() (measure.Memory, error) { return Usage(v.pid(), ram, memoryMiB) })
	if err != nil {
		return measure.Sample{}, err
	}
	return MemorySample(all), nil
}
