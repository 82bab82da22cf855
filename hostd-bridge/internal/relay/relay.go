// Package relay serves what a host offers beside vSphere (package hostapi): byte streams to vsock ports of VMs, the logs of VMs,
// what machines take of the memory, the pre-start pools, networks, and the names of the extensions. It does not check who calls: package
// vim's Authorize does.
package relay

import (
	"errors"
	"log/slog"
	"net/http"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/datastore"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/vmhost"
)

// Relay answers requests about the machines of an inventory.
type Relay struct {
	inventory  *vmhost.Host
	store      *datastore.Store
	log        *slog.Logger
	borders    borders
	extensions []string // those that the host has
}

// New returns a relay to the machines of an inventory. extensions are the names of those that the host has.
func New(inventory *vmhost.Host, store *datastore.Store, log *slog.Logger, extensions ...string) *Relay {
	return &Relay{inventory: inventory, store: store, log: log, borders: borders{byRef: map[string]int64{}}, extensions: extensions}
}

// Handler serves all routes of package hostapi but RouteMetrics.
func (r *Relay) Handler() http.Handler {
	mux := http.NewServeMux()
	for route, serve := range map[string]func(http.ResponseWriter, *http.Request) error{
		hostapi.RouteVsock + "/{moref}/{port}": r.serveVsock,
		hostapi.RouteLog + "/{moref}":          r.serveLog,
		hostapi.RouteExtensions:                r.serveExtensions,
		hostapi.RoutePools:                     r.servePools,
		hostapi.RouteMemory:                    r.serveMemory,
		hostapi.RouteNetworks:                  r.serveNetworks,
	} {
		mux.HandleFunc("GET "+route, refusing(serve))
	}
	mux.HandleFunc("PUT "+hostapi.RouteNetworks+"/{name}", refusing(r.setNetwork))
	return mux
}

// badRequest says what is wrong with a request.
type badRequest string

func (e badRequest) Error() string { return string(e) }

// refusing answers an error of f, which has not answered then, with a hostapi.Error.
func refusing(f func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if err := f(w, r); err != nil {
			answer(w, statusOf(err), hostapi.Error{Message: err.Error()})
		}
	}
}

func statusOf(err error) int {
	var (
		bad     badRequest
		wrong   *vm.ArgumentError
		missing *vm.NotFoundError
		state   *vm.StateError
		frozen  *vm.FrozenError
	)
	switch {
	case errors.As(err, &bad), errors.As(err, &wrong):
		return http.StatusBadRequest
	case errors.As(err, &missing):
		return http.StatusNotFound
	case errors.As(err, &state), errors.As(err, &frozen):
		return http.StatusConflict
	}
	return http.StatusBadGateway
}
