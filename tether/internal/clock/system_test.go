package clock

import (
	"context"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMachine tries the machine's own clock as far as that changes nothing: it is steered as it is already.
func TestMachine(t *testing.T) {
	m, err := NewMachine()
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	for range 2 {
		if foreign, err := m.Foreign(); foreign || err != nil {
			t.Fatalf("%v, %v", foreign, err)
		}
	}
	before, _ := m.Now()
	if !m.Wait(t.Context(), 50*time.Millisecond) {
		t.Error("a wait that lasts ends as one that was ended")
	}
	if after, _ := m.Now(); after.Sub(before) < 50*time.Millisecond {
		t.Errorf("a wait for 50 ms ended after %v", after.Sub(before))
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(10*time.Millisecond, cancel)
	if m.Wait(ctx, time.Hour) {
		t.Error("a wait that was ended lasted")
	}
	time.AfterFunc(10*time.Millisecond, m.Hurry)
	if !m.Wait(t.Context(), time.Hour) {
		t.Error("a wait that is to be short was ended")
	}
	if os.Getuid() != 0 {
		return
	}
	var is unix.Timex
	if _, err := unix.Adjtimex(&is); err != nil {
		t.Fatal(err)
	}
	own := float64(is.Tick-normalTick)*tickUnit + float64(is.Freq)/freqUnit
	if err := m.Steer(own); err != nil {
		t.Fatal(err)
	}
	if foreign, err := m.Foreign(); foreign || err != nil {
		t.Errorf("after steering it as it was: %v, %v", foreign, err)
	}
}
