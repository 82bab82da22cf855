package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/moby/moby/client"
)

const (
	// settleTime is how long a host may take for its template and its pools: far above that of an emulated guest.
	settleTime = 2 * time.Minute
	// settlePause is between two looks at a host. Nothing announces a full pool to clients of Docker's API.
	settlePause = 50 * time.Millisecond
)

// settle waits until the host has a template, and all that it keeps ready.
func (h *host) settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	for {
		res, err := h.docker.Info(ctx, client.InfoOptions{})
		if err != nil {
			return fmt.Errorf("cannot learn what the host keeps ready: %w", err)
		}
		s := statusOf(res.Info.DriverStatus)
		if s.templates > 0 && s.ready.prestart >= h.pools.prestart && s.ready.warm >= h.pools.warm {
			return nil
		}
		select {
		case <-time.After(settlePause):
		case <-ctx.Done():
			return fmt.Errorf("cannot wait for what the host keeps ready: it has %+v, wanted %+v: %w", s, h.pools, ctx.Err())
		}
	}
}

// poolStatus is what a host has ready.
type poolStatus struct {
	templates int
	ready     pools
}

// statusOf reads the lines of `docker info`: "Templates: 1 (at most 4)", "Pre-started: 1 of 1", "Warm: 0 of 0".
func statusOf(lines [][2]string) (s poolStatus) {
	counts := map[string]*int{"Templates": &s.templates, "Pre-started": &s.ready.prestart, "Warm": &s.ready.warm}
	for _, l := range lines {
		if n := counts[l[0]]; n != nil {
			_, _ = fmt.Sscan(l[1], n) // none, if it is no number
		}
	}
	return s
}

// errOtherWay: a container came up in another way than the host's pools were to give it.
var errOtherWay = errors.New("the container came up in another way")

// check holds that a forked container came out of the host's pools, by what its machine had done before it was asked for. A host
// that gives no marks is believed.
func (p pools) check(f forkReport, asked time.Time) error {
	began, known := f.at(markBegun)
	prepared, _ := f.at(markPrepared)
	if !known {
		return nil
	}
	if warm := began.Before(asked); warm != (p.warm > 0) {
		return fmt.Errorf("%w: taken from the warm machines: %v", errOtherWay, warm)
	}
	if early := prepared.Before(asked); p.warm == 0 && early != (p.prestart > 0) {
		return fmt.Errorf("%w: its QEMU was started before: %v", errOtherWay, early)
	}
	return nil
}
