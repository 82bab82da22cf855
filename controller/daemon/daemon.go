// Package daemon wires the controller: one vSphere host below, the Docker Engine API on a unix socket above.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sys/unix"

	"github.com/containervm/containervm/controller/api"
	"github.com/containervm/containervm/controller/internal/container"
	"github.com/containervm/containervm/controller/internal/exec"
	"github.com/containervm/containervm/controller/internal/feed"
	"github.com/containervm/containervm/controller/internal/files"
	"github.com/containervm/containervm/controller/internal/fork"
	"github.com/containervm/containervm/controller/internal/image"
	"github.com/containervm/containervm/controller/internal/network"
	"github.com/containervm/containervm/controller/internal/stream"
	"github.com/containervm/containervm/controller/internal/template"
	"github.com/containervm/containervm/controller/internal/volume"
	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/internal/trusted"
	"github.com/containervm/containervm/internal/version"
)

// Config says where the controller serves and what it controls.
type Config struct {
	// Socket is the path of the API's unix socket. One that a dead controller left is replaced.
	Socket string
	// VSphereURL, Username, Password, CAFile and Insecure are those of vsphere.Config.
	VSphereURL, Username, Password, CAFile string
	Insecure                               bool
	// Network is that of vsphere.Config; Bridge and Resolvers are those of network.Options.
	Network   string
	Bridge    netip.Prefix
	Resolvers []netip.Addr
	// Templates is how many templates there may be for containers to be forked from; 0: none, every container boots.
	Templates int
	// Warm is how many machines are kept forked ahead of time.
	Warm int
	// Timeouts bound the waits for guests; the zero value has the defaults.
	Timeouts container.Timeouts
	// Log gets what happens; nil: discarded.
	Log *slog.Logger
}

// DefaultTemplates is the usual number of templates.
const DefaultTemplates = template.DefaultMost

const (
	// socketMode lets the socket's owner and group in: who may use it is root on the containers, and no more.
	socketMode = 0o660
	// headerTimeout bounds how long a client may take to send a request's header.
	headerTimeout = 30 * time.Second
	// drainTime is how long requests may take to end at shutdown before their connections are closed.
	drainTime = 2 * time.Second
)

// Run serves until ctx ends; containers go on running. It calls ready once when the socket takes requests.
func Run(ctx context.Context, c Config, ready func()) error {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	// The connection to the host outlives ctx: requests that are under way at shutdown end first.
	hostCtx, hangUp := context.WithCancel(context.WithoutCancel(ctx))
	defer hangUp()
	host, err := connect(ctx, hostCtx, c)
	if err != nil {
		return err
	}
	defer closeHost(host, c.Log)
	happenings := &feed.Feed{}
	images, err := image.New(ctx, host, happenings, c.Log)
	if err != nil {
		return err
	}
	networks, err := network.New(ctx, host, network.Options{Bridge: c.Bridge, Resolvers: c.Resolvers, Feed: happenings}, c.Log)
	if err != nil {
		return err
	}
	volumes, err := volume.New(ctx, host, happenings, c.Log)
	if err != nil {
		return err
	}
	listener, err := listen(c.Socket)
	if err != nil {
		return err
	}
	templates := template.New(host, template.Options{
		Most: c.Templates, Warm: c.Warm, First: container.DefaultSize(), Timeout: c.Timeouts.Template, Networks: networks,
	}, c.Log)
	registry := prometheus.NewRegistry()
	times := c.Timeouts.WithDefaults()
	containers := container.New(host, images, templates, volumes, networks, happenings, container.NewMetrics(registry), times, c.Log)
	execs := exec.New(host, containers, times)
	forks := fork.New(host, containers, templates, registry, times, c.Log)
	fileService := files.New(host, containers, images, times, c.Log)
	fileService.Sweep(ctx)
	defer fileService.Close()
	containers.Collect(registry)
	volumes.Sweep(ctx, containers.VolumeUsers)
	work, stop := context.WithCancel(ctx)
	var background sync.WaitGroup
	background.Go(func() { containers.Run(work) })
	background.Go(func() { execs.Run(work) })
	background.Go(func() { forks.Sweep(work) })
	background.Go(func() { templates.Run(work) })
	defer background.Wait()
	defer stop()
	handler := api.New(api.Deps{
		Containers: containers, Execs: execs, Files: fileService, Forks: forks, Streams: stream.New(host, containers, times), Images: images, Volumes: volumes, Networks: networks, Templates: templates, Feed: happenings, Host: host, Version: version.String(), Log: c.Log,
		Metrics: promhttp.HandlerFor(registry, promhttp.HandlerOpts{}),
	})
	return serve(ctx, listener, handler, c.Log, ready)
}

// connect gives up when ctx ends, and makes a connection that lives as long as hostCtx.
func connect(ctx, hostCtx context.Context, c Config) (*vsphere.Client, error) {
	attempt, cancel := context.WithCancel(hostCtx)
	stop := context.AfterFunc(ctx, cancel)
	host, err := vsphere.Connect(attempt, vsphere.Config{
		URL: c.VSphereURL, Username: c.Username, Password: c.Password, CAFile: c.CAFile, Insecure: c.Insecure, Network: c.Network, Log: c.Log,
	})
	if !stop() && err == nil {
		return nil, errors.Join(ctx.Err(), host.Close())
	}
	if err != nil {
		cancel()
	}
	return host, err
}

func closeHost(host *vsphere.Client, log *slog.Logger) {
	if err := host.Close(); err != nil {
		log.Debug("cannot end the session with the host", "err", err)
	}
}

// listen opens the socket, replacing one that nobody serves.
func listen(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("cannot make the directory of the API's socket: %w", err)
	}
	if err := trusted.Check(filepath.Dir(path)); err != nil {
		return nil, err
	}
	if conn, err := net.Dial("unix", path); err == nil {
		conn.Close()
		return nil, fmt.Errorf("cannot listen on %s: another process serves it", path)
	} else if errors.Is(err, unix.ECONNREFUSED) {
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("cannot remove the socket that a dead controller left: %w", err)
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("cannot listen for the API: %w", err)
	}
	if err := os.Chmod(path, socketMode); err != nil {
		l.Close()
		return nil, fmt.Errorf("cannot protect the API's socket: %w", err)
	}
	return l, nil
}

func serve(ctx context.Context, l net.Listener, handler http.Handler, log *slog.Logger, ready func()) error {
	server := &http.Server{
		Handler: handler, ReadHeaderTimeout: headerTimeout,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	api.Guard(server)
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(l) }()
	ready()
	select {
	case err := <-failed:
		return fmt.Errorf("cannot serve the API: %w", err)
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
	defer cancel()
	if err := server.Shutdown(drain); err != nil {
		_ = server.Close()
	}
	<-failed
	return nil
}
