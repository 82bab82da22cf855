package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/containervm/containervm/bench/internal/measure"
)

// attempt is one of many that are made at once. What it made goes on until end is called, which is nil only when there is
// an error and nothing to end.
type attempt func(context.Context) (s measure.Sample, end func() error, err error)

// burst makes n at once. Its value is how long it took until the last was there; all are alive then. prepare makes an
// attempt ready before the clock starts.
func burst(ctx context.Context, n int, prepare func(context.Context) (attempt, error)) (measure.Sample, error) {
	attempts := make([]attempt, n)
	for i := range attempts {
		var err error
		if attempts[i], err = prepare(ctx); err != nil {
			return measure.Sample{}, err
		}
	}
	each, ends, errs := make([]float64, n), make([]func() error, n), make([]error, n)
	wall := make([]float64, n)
	var all sync.WaitGroup
	begin := time.Now()
	for i, a := range attempts {
		all.Go(func() {
			s, end, err := a(ctx)
			wall[i] = measure.Millis(time.Since(begin))
			each[i], ends[i], errs[i] = s.Value, end, err
		})
	}
	all.Wait()
	s, failed := measure.Sample{Each: each}, 0
	for i := range n {
		s.Value = max(s.Value, wall[i])
		if errs[i] != nil {
			failed++
		}
	}
	err := errors.Join(errs...)
	if failed > 0 {
		err = fmt.Errorf("%d of %d failed: %w", failed, n, err)
	}
	for _, end := range ends {
		if end != nil {
			err = errors.Join(err, end())
		}
	}
	return s, err
}

// unprepared is an attempt that needs nothing made before.
func unprepared(a attempt) func(context.Context) (attempt, error) {
	return func(context.Context) (attempt, error) { return a, nil }
}

// ended is an attempt that leaves nothing behind.
func ended(f func(context.Context) (measure.Sample, error)) attempt {
	return func(ctx context.Context) (measure.Sample, func() error, error) {
		s, err := f(ctx)
		return s, func() error { return nil }, err
	}
}
