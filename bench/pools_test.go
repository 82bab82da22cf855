package main

import (
	"errors"
	"testing"
	"time"
)

func TestStatusOf(t *testing.T) {
	got := statusOf([][2]string{{"vSphere", "x 3"}, {"Templates", "2 (at most 4)"}, {" cvm-template-1", "512 MiB"}, {"Pre-started", "1 of 2"}, {"Warm", "3 of 3"}, {"Parked", "7"}})
	if want := (poolStatus{templates: 2, ready: pools{prestart: 1, warm: 3}}); got != want {
		t.Errorf("statusOf = %+v, want %+v", got, want)
	}
	if got := statusOf([][2]string{{"Warm", "nonsense"}}); got != (poolStatus{}) {
		t.Errorf("statusOf of nonsense = %+v", got)
	}
}

func TestPoolsCheck(t *testing.T) {
	asked := time.Unix(0, 1000)
	timeline := func(begun, prepared int64) forkReport {
		return forkReport{Timeline: []moment{{markBegun, begun}, {markPrepared, prepared}}}
	}
	cold, prestarted, warm := timeline(1001, 1002), timeline(1001, 999), timeline(998, 997)
	for _, c := range []struct {
		pools pools
		came  forkReport
		ok    bool
	}{
		{pools{}, cold, true}, {pools{}, prestarted, false}, {pools{}, warm, false},
		{pools{prestart: 1}, cold, false}, {pools{prestart: 1}, prestarted, true}, {pools{prestart: 1}, warm, false},
		{pools{warm: 1}, cold, false}, {pools{warm: 1}, prestarted, false}, {pools{warm: 1}, warm, true}, {pools{warm: 1}, forkReport{}, true},
	} {
		if err := c.pools.check(c.came, asked); (err == nil) != c.ok || err != nil && !errors.Is(err, errOtherWay) {
			t.Errorf("%+v, %+v: %v", c.pools, c.came, err)
		}
	}
}
