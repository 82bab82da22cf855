package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"

	"github.com/moby/moby/client"
	"github.com/vmware/govmomi/vim25/debug"
	"golang.org/x/sync/errgroup"

	"github.com/containervm/containervm/bench/internal/peer"
	controller "github.com/containervm/containervm/controller/daemon"
	hostd "github.com/containervm/containervm/hostd-bridge/daemon"
)

// host is an embedded host like that of `cvm up`, in this process, so that its vim25 calls can be timed.
type host struct {
	docker   *client.Client
	endpoint hostd.Endpoint
	calls    *recorder
	stop     func() error

	datastore string // directory of the containers' files; empty: the machines are elsewhere
}

// local says whether its machines are processes here, which can be looked into.
func (h *host) local() bool { return h.datastore != "" }

// startHost starts the daemons with all their state below dir: the controller, and hostd-bridge unless there is a vSphere.
func startHost(ctx context.Context, dir string, o options) (*host, error) {
	ctx, cancel := context.WithCancel(ctx)
	daemons, ctx := errgroup.WithContext(ctx)
	h := &host{calls: newRecorder(), stop: func() error { cancel(); return ignoreCancel(daemons.Wait()) }}
	log := slog.New(slog.DiscardHandler)
	if o.vsphere != "" {
		var err error
		if h.endpoint, err = endpointOf(o); err != nil {
			return nil, errors.Join(err, h.stop())
		}
	} else {
		h.datastore = filepath.Join(dir, "hostd/datastore")
		listening := make(chan hostd.Endpoint, 1)
		daemons.Go(func() error {
			return hostd.Run(ctx, hostd.Config{
				StateDir: dir, RunDir: filepath.Join(dir, "run"), GuestDir: o.guest, Listen: "127.0.0.1:0",
				Supervisor: o.supervisor, Accel: o.accel, Log: log,
			}, func(e hostd.Endpoint) { listening <- e })
		})
		select {
		case h.endpoint = <-listening:
		case <-ctx.Done():
			return nil, fmt.Errorf("cannot start hostd-bridge: %w", h.stop())
		}
	}

	debug.SetProvider(h.calls) // before the controller's client is made
	socket := filepath.Join(dir, "docker.sock")
	ready := make(chan struct{})
	daemons.Go(func() error {
		return controller.Run(ctx, controller.Config{
			Socket: socket, VSphereURL: h.endpoint.URL, Username: h.endpoint.Username, Password: h.endpoint.Password,
			CAFile: h.endpoint.CAFile, Log: log,
		}, func() { close(ready) })
	})
	select {
	case <-ready:
	case <-ctx.Done():
		return nil, fmt.Errorf("cannot start controller: %w", h.stop())
	}
	var err error
	if h.docker, err = client.New(client.WithHost("unix://" + socket)); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot reach controller: %w", err), h.stop())
	}
	return h, nil
}

// endpointOf takes a vSphere's address and user apart.
func endpointOf(o options) (hostd.Endpoint, error) {
	u, err := url.Parse(o.vsphere)
	if err != nil || u.Scheme != "https" || u.User == nil {
		return hostd.Endpoint{}, errors.New("cannot use the address of vSphere: want https://user@host/sdk")
	}
	password, inURL := u.User.Password()
	if !inURL {
		password = os.Getenv("GOVC_PASSWORD")
	}
	e := hostd.Endpoint{Username: u.User.Username(), Password: password, CAFile: o.vsphereCA}
	u.User = nil
	e.URL = u.String()
	return e, nil
}

func ignoreCancel(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// importImage makes an image of a root tar.
func (h *host) importImage(ctx context.Context, name string, root []byte) error {
	res, err := h.docker.ImageImport(ctx, client.ImageImportSource{Source: bytes.NewReader(root), SourceName: "-"}, name, client.ImageImportOptions{})
	if err != nil {
		return fmt.Errorf("cannot import %s: %w", name, err)
	}
	defer res.Close()
	if _, err := io.Copy(io.Discard, res); err != nil {
		return fmt.Errorf("cannot import %s: %w", name, err)
	}
	return nil
}

// commandLine is that of the QEMU of a container that was booted.
func (h *host) commandLine(ctx context.Context) (line []string, err error) {
	id, err := h.create(ctx, runtimeBoot, "/busybox", "sh", "-c", "echo "+peer.Greeting+"; exec /busybox sleep 1000")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, h.remove(ctx, id)) }()
	if _, err := h.startUntil(ctx, id, peer.Greeting); err != nil {
		return nil, err
	}
	_, line, err = peer.Find("guest=" + id)
	return line, err
}
