package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/containervm/containervm/bench/internal/measure"
	"github.com/containervm/containervm/internal/dockerd"
)

// atOnce is how many the group starts together.
const atOnce = 10

// Names of the sides of the group.
const (
	cliWarm    = "containerVM, warm"
	cliCold    = "containerVM, forked from a pre-started QEMU"
	cliDockerd = "dockerd (runc, overlay2, bridge)"
)

// dockerGroup has the stock command line run the same container on both engines.
func dockerGroup(ctx context.Context, e *environment) (measure.Group, error) {
	cli, err := dockerCLI()
	if err != nil {
		return measure.Group{}, err
	}
	g := measure.Group{
		Title: "docker run --rm by the command line", Unit: "ms", Ends: "the command's end",
		About: "from the start of `docker run --rm IMAGE /busybox echo hi` to its end, with the stock docker command; ten at once: to the end of the last. " +
			"Both sides have their default network and the same image. containerVM's machines are emulated here, dockerd's processes are not",
		Comparisons: []measure.Comparison{
			{Name: "docker run, dockerd / containerVM warm", Over: cliDockerd, Under: cliWarm, Goal: "at least 2.5"},
			{Name: "docker run, dockerd / containerVM from a pre-started QEMU", Over: cliDockerd, Under: cliCold},
			{Name: "ten docker runs at once, dockerd / containerVM", Over: many(cliDockerd), Under: many(cliWarm), Goal: "at least 1.5"},
		},
		Probes: []measure.Probe{{Name: "/bin/true", Measure: probe}}, Noise: cliDockerd,
	}
	for _, ours := range []struct {
		name string
		pools
	}{{cliWarm, pools{prestart: 1, warm: 1}}, {cliCold, pools{prestart: 1}}} {
		h, err := e.pooled(ctx, ours.pools)
		if err != nil {
			return g, err
		}
		g.Sides = append(g.Sides, cliSides(ours.name, cliRun{cli, h.socket, h.settle})...)
	}
	d, err := e.dockerd(ctx, cli)
	if err != nil {
		g.Sides = append(g.Sides, measure.Side{Name: cliDockerd, NotRun: err.Error()}, measure.Side{Name: many(cliDockerd), NotRun: err.Error()})
		return g, nil
	}
	g.Sides = append(g.Sides, cliSides(cliDockerd, cliRun{cli, d.Socket, func(context.Context) error { return nil }})...)
	return g, nil
}

func many(side string) string { return fmt.Sprintf("%s, %d at once", side, atOnce) }

// dockerCLI is the stock command line: the one that make fetches, or the system's.
func dockerCLI() (string, error) {
	if path, err := filepath.Abs("bin/docker"); err == nil {
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	path, err := exec.LookPath("docker")
	if err != nil {
		return "", fmt.Errorf("cannot find the docker command (try: make bin/docker): %w", err)
	}
	return path, nil
}

// cliRun runs a container by the command line.
type cliRun struct {
	cli, socket string
	ready       func(context.Context) error // waits until the engine has what it keeps ready
}

func cliSides(name string, r cliRun) []measure.Side {
	return []measure.Side{
		{Name: name, Measure: r.measure},
		{Name: many(name), Measure: func(ctx context.Context) (measure.Sample, error) {
			if err := r.ready(ctx); err != nil {
				return measure.Sample{}, err
			}
			s, err := burst(ctx, atOnce, unprepared(ended(r.once)))
			return s, errors.Join(err, r.ready(ctx))
		}},
	}
}

func (r cliRun) measure(ctx context.Context) (measure.Sample, error) {
	if err := r.ready(ctx); err != nil {
		return measure.Sample{}, err
	}
	s, err := r.once(ctx)
	return s, errors.Join(err, r.ready(ctx))
}

func (r cliRun) once(ctx context.Context) (measure.Sample, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, r.cli, "-H", "unix://"+r.socket, "run", "--rm", imageName, "/busybox", "echo", "hi")
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	begin := time.Now()
	err := cmd.Run()
	took := time.Since(begin)
	if err == nil && out.String() != "hi\n" {
		err = fmt.Errorf("it printed %q", out.String())
	}
	if err != nil {
		return measure.Sample{}, fmt.Errorf("cannot run a container by %s: %w: %s", r.socket, err, stderr.String())
	}
	return measure.Sample{Value: measure.Millis(took)}, nil
}

// dockerd is a daemon with the benchmark's image, for the length of a group.
func (e *environment) dockerd(ctx context.Context, cli string) (*dockerd.Daemon, error) {
	d, err := dockerd.Start(ctx, e.dir)
	if err != nil {
		return nil, err
	}
	e.deferred(d.Close)
	cmd := exec.CommandContext(ctx, cli, "-H", "unix://"+d.Socket, "import", "-", imageName)
	cmd.Stdin = bytes.NewReader(e.root)
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("cannot import the image into dockerd: %w: %s", err, out)
	}
	return d, nil
}
