package api

import (
	"context"
	"fmt"

	"github.com/moby/moby/api/types/system"

	"github.com/containervm/containervm/controller/internal/container"
	"github.com/containervm/containervm/controller/internal/template"
)

// runtimes are the ways in which a container's machine comes up.
func runtimes() map[string]system.RuntimeWithStatus {
	all := map[string]system.RuntimeWithStatus{}
	for _, name := range []string{container.RuntimeBoot, container.RuntimeFork} {
		all[name] = system.RuntimeWithStatus{Runtime: system.Runtime{Type: "io.containervm." + name}}
	}
	return all
}

// forkStatus are the lines of `docker info` about machines that are kept for forks.
func (a *systemAPI) forkStatus(ctx context.Context) ([][2]string, error) {
	pools, err := a.host.Pools(ctx)
	if err != nil {
		return nil, err
	}
	most, warm := a.templates.Limits()
	var lines [][2]string
	frozen := 0
	for _, t := range a.templates.List() {
		if t.State == template.StateFrozen {
			frozen++
		}
		lines = append(lines, [2]string{" " + t.Name, fmt.Sprintf("%s, %s, %d children", t.Size, t.State, t.Children)})
	}
	prestarted, want := 0, 0
	for _, p := range pools {
		prestarted, want = prestarted+p.Prestarted, want+p.Want
	}
	lines = append([][2]string{{"Templates", fmt.Sprintf("%d (at most %d)", frozen, most)}}, lines...)
	return append(lines,
		[2]string{"Pre-started", fmt.Sprintf("%d of %d", prestarted, want)},
		[2]string{"Warm", fmt.Sprintf("%d of %d", a.templates.Warm(), warm)},
		[2]string{"Parked", fmt.Sprint(a.containers.Parked())},
	), nil
}
