package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"time"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/datastore"
	"github.com/containervm/containervm/hostd-bridge/internal/relay"
	"github.com/containervm/containervm/hostd-bridge/internal/vim"
	"github.com/containervm/containervm/internal/version"
)

// serve answers clients until ctx ends.
func (h *host) serve(ctx context.Context, ready func(Endpoint)) error {
	listener, err := net.Listen("tcp", h.Listen)
	if err != nil {
		return fmt.Errorf("cannot listen: %w", err)
	}
	name, err := os.Hostname()
	if err != nil {
		return errors.Join(fmt.Errorf("cannot read the host's name: %w", err), listener.Close())
	}
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	api := vim.New(work, vim.Config{
		Inventory: h.inventory, Store: h.store, HostName: name, InstanceUUID: h.identity.InstanceUUID, Version: version.String(),
		Username: h.identity.Username, Password: h.identity.Password, NoDiskAtFork: h.NoDiskAtFork, Log: h.Log,
	})
	server := h.server(work, api)
	served := make(chan error, 1)
	go func() { served <- server.ServeTLS(listener, "", "") }()
	ready(h.endpoint(listener.Addr()))
	select {
	case err = <-served:
	case <-ctx.Done():
	}
	stop() // tasks and waits end
	return errors.Join(err, h.shutdown(ctx, server, api))
}

func (h *host) shutdown(ctx context.Context, server *http.Server, api *vim.Server) error {
	api.Wait()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		h.Log.Info("connections of clients are cut", "err", err)
		return server.Close()
	}
	return nil
}

func (h *host) server(ctx context.Context, api *vim.Server) *http.Server {
	mux := http.NewServeMux()
	api.Register(mux)
	mux.Handle(datastore.Prefix, api.Authorize(h.store.Handler(h.inventory.UserOf)))
	mux.Handle(hostapi.RoutePrefix, api.Authorize(relay.New(h.inventory, h.store, h.Log, h.extensions()...).Handler()))
	mux.Handle("GET "+hostapi.RouteMetrics, api.Authorize(h.metrics.Handler()))
	server := &http.Server{
		Handler: mux, TLSConfig: h.identity.tls(), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute,
		BaseContext:  func(net.Listener) context.Context { return ctx },
		ErrorLog:     slog.NewLogLogger(h.Log.Handler(), slog.LevelDebug),
		TLSNextProto: noHTTP2(),
	}
	api.Guard(server)
	return server
}

// extensions names what clients find here beside the vSphere API.
func (h *host) extensions() []string {
	names := []string{hostapi.ExtensionDiskAtFork, hostapi.ExtensionLog, hostapi.ExtensionNetworks, hostapi.ExtensionVsock}
	if h.inventory.Capacity.NoCPULimit == nil {
		names = append(names, hostapi.ExtensionCPULimit)
	}
	return slices.DeleteFunc(names, func(name string) bool {
		return h.NoDiskAtFork && name == hostapi.ExtensionDiskAtFork || h.NoNetworks && name == hostapi.ExtensionNetworks
	})
}

func (h *host) endpoint(addr net.Addr) Endpoint {
	level, lacks := h.inventory.Hypervisor.Isolation()
	return Endpoint{
		Jail: level, Lacks: lacks,
		URL: "https://" + addr.String() + "/sdk", Username: h.identity.Username, Password: h.identity.Password,
		CAFile: h.identity.caFile,
	}
}
