package main

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/containervm/containervm/bench/internal/measure"
)

// All are alive at the same time, none is ended before the last is there, and all are ended.
func TestBurst(t *testing.T) {
	const n = 5
	var mu sync.Mutex
	var alive sync.WaitGroup
	alive.Add(n)
	prepared, ended := 0, 0
	got, err := burst(t.Context(), n, func(context.Context) (attempt, error) {
		prepared++
		return func(context.Context) (measure.Sample, func() error, error) {
			alive.Done()
			alive.Wait() // returns only when all are there
			return measure.Sample{Value: 3}, func() error { mu.Lock(); defer mu.Unlock(); ended++; return nil }, nil
		}, nil
	})
	if err != nil || prepared != n || ended != n || len(got.Each) != n || got.Each[0] != 3 || got.Value <= 0 {
		t.Errorf("burst = %+v, %v; %d prepared, %d ended", got, err, prepared, ended)
	}
}

func TestBurstCountsFailuresAndEndsTheRest(t *testing.T) {
	i, ended := 0, 0
	_, err := burst(t.Context(), 3, func(context.Context) (attempt, error) {
		i++
		if fails := i == 2; fails {
			return func(context.Context) (measure.Sample, func() error, error) {
				return measure.Sample{}, nil, errors.New("no memory")
			}, nil
		}
		return func(context.Context) (measure.Sample, func() error, error) {
			return measure.Sample{Value: 1}, func() error { ended++; return nil }, nil
		}, nil
	})
	if err == nil || !strings.Contains(err.Error(), "1 of 3 failed: no memory") || ended != 2 {
		t.Errorf("burst: %v, %d ended", err, ended)
	}
}
