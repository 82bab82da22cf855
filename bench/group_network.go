package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"

	"github.com/containervm/containervm/bench/internal/measure"
)

// Ways of the program of bench/guest to use a connection.
const (
	wayTrip     = "p"
	wayDownload = "s"
	wayUpload   = "u"
)

// serverPort is where the servers of the group listen.
const serverPort = "7000"

// networkPeer is a server in a container with a published port, another container that finds it by its name, and the same server on
// this host.
type networkPeer struct {
	h         *host
	program   string // of bench/guest, on this host
	published string // address of the server's port on this host
	alone     string // address of the server that runs on this host
	client    string // ID of the other container
}

// networkGroup compares the throughput of a published port and between containers with that of the same server run directly on this host.
func networkGroup(ctx context.Context, e *environment) (measure.Group, error) {
	p, err := e.newNetworkPeer(ctx)
	if err != nil {
		return measure.Group{}, err
	}
	out, in, between := "out of a published port", "into a published port", "between two containers"
	hostOut, hostIn := "out of the same server on the host", "into the same server on the host"
	mb := func(dial func(context.Context, string) (time.Duration, error), way string) func(context.Context) (measure.Sample, error) {
		return measure.Value(func(ctx context.Context) (float64, error) {
			took, err := dial(ctx, way)
			return float64(sourceBytes) / 1e6 / took.Seconds(), err
		})
	}
	return measure.Group{
		Title: "Network throughput", Unit: "MB/s",
		About: fmt.Sprintf("%d MiB through one TCP connection; between containers the one that asks finds the other by its name", sourceBytes>>20),
		Sides: []measure.Side{
			{Name: out, Measure: mb(p.toPublished, wayDownload)},
			{Name: hostOut, Measure: mb(p.toHost, wayDownload)},
			{Name: in, Measure: mb(p.toPublished, wayUpload)},
			{Name: hostIn, Measure: mb(p.toHost, wayUpload)},
			{Name: between, Measure: mb(p.toNeighbour, wayDownload)},
		},
		Comparisons: []measure.Comparison{
			{Name: "out of a published port / of the host's own server", Over: out, Under: hostOut, Goal: "at least 0.1"},
			{Name: "into a published port / into the host's own server", Over: in, Under: hostIn, Goal: "at least 0.1"},
			{Name: "between two containers / out of the host's own server", Over: between, Under: hostOut, Goal: "at least 0.1"},
		},
		Probes: []measure.Probe{{Name: "/bin/true", Measure: probe}}, Noise: hostOut,
	}, nil
}

// tripGroup compares round trips in the same places.
func tripGroup(ctx context.Context, e *environment) (measure.Group, error) {
	p, err := e.newNetworkPeer(ctx)
	if err != nil {
		return measure.Group{}, err
	}
	ms := func(dial func(context.Context, string) (time.Duration, error)) func(context.Context) (measure.Sample, error) {
		return measure.Value(func(ctx context.Context) (float64, error) {
			took, err := dial(ctx, wayTrip)
			return measure.Millis(took), err
		})
	}
	published, between, alone := "to a published port", "between two containers", "to the same server on the host"
	return measure.Group{
		Title: "Network round trip", Unit: "ms",
		About: "one byte there and back on an open TCP connection, the mean of 200",
		Sides: []measure.Side{
			{Name: published, Measure: ms(p.toPublished)}, {Name: between, Measure: ms(p.toNeighbour)}, {Name: alone, Measure: ms(p.toHost)},
		},
		Comparisons: []measure.Comparison{
			{Name: "round trip to a published port / to the host's own server", Over: published, Under: alone},
			{Name: "round trip between two containers / to the host's own server", Over: between, Under: alone},
		},
		Probes: []measure.Probe{{Name: "/bin/true", Measure: probe}}, Noise: alone,
	}, nil
}

func (e *environment) newNetworkPeer(ctx context.Context) (_ *networkPeer, err error) {
	h, err := e.host(ctx)
	if err != nil {
		return nil, err
	}
	p := &networkPeer{h: h, program: filepath.Join(e.dir, "guest")}
	const name = "bench"
	if _, err := h.docker.NetworkCreate(ctx, name, client.NetworkCreateOptions{}); err != nil {
		return nil, fmt.Errorf("cannot create network: %w", err)
	}
	e.deferred(func() error {
		_, err := h.docker.NetworkRemove(context.WithoutCancel(ctx), name, client.NetworkRemoveOptions{})
		return err
	})
	port := network.MustParsePort(serverPort + "/tcp")
	server, err := p.run(ctx, e, "server", container.HostConfig{NetworkMode: name, PortBindings: network.PortMap{
		port: {{HostIP: netip.AddrFrom4([4]byte{127, 0, 0, 1})}},
	}}, "/bench", "listen", ":"+serverPort)
	if err != nil {
		return nil, err
	}
	got, err := h.docker.ContainerInspect(ctx, server, client.ContainerInspectOptions{})
	if err != nil {
		return nil, err
	}
	bound := got.Container.NetworkSettings.Ports[port]
	if len(bound) == 0 {
		return nil, errors.New("the server's port is not published")
	}
	p.published = "127.0.0.1:" + bound[0].HostPort
	if p.client, err = p.run(ctx, e, "client", container.HostConfig{NetworkMode: name}, "/bench", "listen", ":"+serverPort); err != nil {
		return nil, err
	}
	return p, p.serveHere(ctx, e)
}

// run starts a container that ends with the group, and waits until its server listens.
func (p *networkPeer) run(ctx context.Context, e *environment, name string, h container.HostConfig, args ...string) (string, error) {
	res, err := p.h.docker.ContainerCreate(ctx, client.ContainerCreateOptions{Name: name, Config: &container.Config{Image: imageName, Cmd: args}, HostConfig: &h})
	if err != nil {
		return "", fmt.Errorf("cannot create container %s: %w", name, err)
	}
	e.deferred(func() error { return p.h.remove(ctx, res.ID) })
	_, err = p.h.startUntil(ctx, res.ID, "ready")
	return res.ID, err
}

// serveHere runs the server on this host until the group ends.
func (p *networkPeer) serveHere(ctx context.Context, e *environment) error {
	const address = "127.0.0.1:7001"
	p.alone = address
	cmd := exec.CommandContext(ctx, p.program, "listen", address)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	e.deferred(func() error {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
		return nil
	})
	if _, err := out.Read(make([]byte, len("ready\n"))); err != nil {
		return fmt.Errorf("the server on the host has ended: %w", err)
	}
	return nil
}

func (p *networkPeer) toPublished(ctx context.Context, way string) (time.Duration, error) {
	return p.dialHere(ctx, p.published, way)
}

func (p *networkPeer) toHost(ctx context.Context, way string) (time.Duration, error) {
	return p.dialHere(ctx, p.alone, way)
}

// toNeighbour has one container ask the other.
func (p *networkPeer) toNeighbour(ctx context.Context, way string) (time.Duration, error) {
	made, err := p.h.docker.ExecCreate(ctx, p.client, client.ExecCreateOptions{
		Cmd: []string{"/bench", "dial", "server:" + serverPort, way}, AttachStdout: true, AttachStderr: true,
	})
	if err != nil {
		return 0, fmt.Errorf("cannot create exec: %w", err)
	}
	attached, err := p.h.docker.ExecAttach(ctx, made.ID, client.ExecAttachOptions{})
	if err != nil {
		return 0, fmt.Errorf("cannot start exec: %w", err)
	}
	defer attached.Close()
	var stdout, stderr bytes.Buffer
	if _, err := stdcopy.StdCopy(&stdout, &stderr, attached.Reader); err != nil {
		return 0, fmt.Errorf("cannot read exec: %w", err)
	}
	return micros(stdout.String(), stderr.String())
}

func (p *networkPeer) dialHere(ctx context.Context, address, way string) (time.Duration, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, p.program, "dial", address, way)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return 0, fmt.Errorf("cannot dial %s: %w: %s", address, err, stderr.String())
	}
	return micros(stdout.String(), stderr.String())
}

// micros reads what the program of bench/guest prints.
func micros(stdout, stderr string) (time.Duration, error) {
	n, err := strconv.ParseInt(strings.TrimSpace(stdout), 10, 64)
	if err != nil || n <= 0 {
		return 0, fmt.Errorf("cannot read %q as microseconds: %s", stdout, stderr)
	}
	return time.Duration(n) * time.Microsecond, nil
}
