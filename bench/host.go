package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

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
	socket   string // where docker finds the API
	endpoint hostd.Endpoint
	calls    *recorder
	pools    pools

	datastore string // directory of the containers' files; empty: the machines are elsewhere
	daemons   *errgroup.Group
	cancel    context.CancelFunc // stops the daemons
}

// pools are what a host keeps ready for the next container.
type pools struct {
	prestart int // QEMUs that wait for a template's state
	warm     int // machines that wait to be a container
}

// local says whether its machines are processes here, which can be looked into.
func (h *host) local() bool { return h.datastore != "" }

// startHost starts the daemons with all their state below dir: the controller, and hostd-bridge unless there is a vSphere. They
// outlive ctx, so that close can have them clear away what runs.
func startHost(ctx context.Context, dir string, o options, calls *recorder, p pools) (*host, error) {
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	daemons, running := errgroup.WithContext(running)
	h := &host{calls: calls, pools: p, daemons: daemons, cancel: cancel}
	err := h.startHostd(ctx, running, dir, o)
	if err == nil {
		err = h.startController(ctx, running, dir)
	}
	if err != nil {
		return nil, errors.Join(err, h.stop())
	}
	return h, nil
}

// startHostd runs hostd-bridge for as long as running, or takes the vSphere that there is instead.
func (h *host) startHostd(ctx, running context.Context, dir string, o options) (err error) {
	if o.vsphere != "" {
		h.endpoint, err = endpointOf(o)
		return err
	}
	h.datastore = filepath.Join(dir, "hostd/datastore")
	listening := make(chan hostd.Endpoint, 1)
	h.daemons.Go(func() error {
		return hostd.Run(running, hostd.Config{
			StateDir: dir, RunDir: filepath.Join(dir, "run"), GuestDir: o.guest, Listen: "127.0.0.1:0",
			Supervisor: o.supervisor, Accel: o.accel, Prestart: cmp.Or(h.pools.prestart, -1), Log: slog.New(slog.DiscardHandler),
		}, func(e hostd.Endpoint) { listening <- e })
	})
	select {
	case h.endpoint = <-listening:
		return nil
	case <-running.Done():
		return errors.New("cannot start hostd-bridge")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// startController runs the controller for as long as running.
func (h *host) startController(ctx, running context.Context, dir string) (err error) {
	debug.SetProvider(h.calls) // before the controller's client is made
	socket, ready := filepath.Join(dir, "docker.sock"), make(chan struct{})
	h.socket = socket
	h.daemons.Go(func() error {
		return controller.Run(running, controller.Config{
			Socket: socket, VSphereURL: h.endpoint.URL, Username: h.endpoint.Username, Password: h.endpoint.Password,
			CAFile: h.endpoint.CAFile, Templates: controller.DefaultTemplates, Warm: h.pools.warm, Log: slog.New(slog.DiscardHandler),
		}, func() { close(ready) })
	})
	select {
	case <-ready:
	case <-running.Done():
		return errors.New("cannot start controller")
	case <-ctx.Done():
		return ctx.Err()
	}
	if h.docker, err = client.New(client.WithHost("unix://" + socket)); err != nil {
		return fmt.Errorf("cannot reach controller: %w", err)
	}
	return nil
}

// stop ends the daemons; machines that run go on.
func (h *host) stop() error {
	h.cancel()
	err := h.daemons.Wait()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// closeTime bounds the ending of all machines.
const closeTime = time.Minute

// close ends the machines that no container needs, and the daemons. On a vSphere the template stays, as it does for every
// other controller there.
func (h *host) close() error {
	var err error
	if h.local() {
		ctx, cancel := context.WithTimeout(context.Background(), closeTime)
		defer cancel()
		err = h.quiesce(ctx)
	}
	return errors.Join(err, h.stop())
}

// quiesce has the controller end templates and what was forked ahead of time: machines outlive the daemons.
func (h *host) quiesce(ctx context.Context) error {
	dial := h.docker.Dialer()
	plain := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return dial(ctx)
	}}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://cvm/host/quiesce", nil)
	if err != nil {
		return err
	}
	res, err := plain.Do(req)
	if err != nil {
		return fmt.Errorf("cannot end the idle machines: %w", err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusNoContent {
		return fmt.Errorf("cannot end the idle machines: %s", res.Status)
	}
	return nil
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
