package main

import (
	"context"
	"time"

	"github.com/containervm/containervm/bench/internal/measure"
)

// sshGroup compares exec through the link with ssh into the same guest.
func sshGroup(ctx context.Context, e *environment) (measure.Group, error) {
	p, err := e.newSSHPeer(ctx)
	if err != nil {
		return measure.Group{}, err
	}
	linked := &linkPeer{relay: p.relay}
	if linked.kept, err = linked.open(ctx); err != nil {
		return measure.Group{}, err
	}
	e.deferred(linked.kept.Close)
	sshNew, sshKept := "ssh host true, a new connection", "ssh host true, multiplexed"
	linkNew, linkKept, docker := "exec through the link, a new session", "exec through the link, multiplexed", "docker exec"
	return measure.Group{
		Title: "Exec against ssh", Unit: "ms",
		About: "sh -c true in one guest until its end is known; ssh goes to dropbear there, through the same relay and vsock as the link",
		Sides: []measure.Side{
			{Name: sshNew, Measure: measure.Value(func(ctx context.Context) (float64, error) { return p.ssh(ctx, true) })},
			{Name: sshKept, Measure: measure.Value(func(ctx context.Context) (float64, error) { return p.ssh(ctx, false) })},
			{Name: linkNew, Measure: measure.Value(linked.fresh)},
			{Name: linkKept, Measure: measure.Value(linked.again)},
			{Name: docker, Measure: measure.Value(func(ctx context.Context) (float64, error) {
				begin := time.Now()
				_, err := e.made.exec(ctx, p.id, trueByShell()...)
				return measure.Millis(time.Since(begin)), err
			})},
		},
		Comparisons: []measure.Comparison{
			{Key: "J", Name: "ssh / exec through the link, cold", Over: sshNew, Under: linkNew, Goal: "at least 50"},
			{Key: "J", Name: "ssh / exec through the link, multiplexed", Over: sshKept, Under: linkKept, Goal: "at least 3"},
			{Name: "ssh, a new connection / docker exec", Over: sshNew, Under: docker},
			{Name: "ssh, multiplexed / docker exec", Over: sshKept, Under: docker},
		},
		Probes: []measure.Probe{{Name: "/bin/true", Measure: probe}}, Noise: linkKept,
	}, nil
}
