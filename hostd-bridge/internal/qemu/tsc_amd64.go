package qemu

import "time"

// rdtsc reads the CPU's time stamp counter.
func rdtsc() uint64

// tscSpan is how long the counter is watched: long enough for a few parts in ten thousand.
const tscSpan = 20 * time.Millisecond

// tscKHz is the rate of the host's time stamp counter in kHz, which is also the guest's under TCG.
func tscKHz() uint64 {
	start, begin := time.Now(), rdtsc()
	time.Sleep(tscSpan)
	ticks := rdtsc() - begin
	return ticks * uint64(time.Millisecond) / uint64(time.Since(start))
}
