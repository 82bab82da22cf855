// Package relay serves a host's extensions of the vSphere API: byte streams to vsock ports of VMs, the logs of VMs, and what
// the host can do and keeps ready. It does not ask who calls: package vim's Authorize does.
package relay

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"

	"github.com/containervm/containervm/hostd-bridge/internal/datastore"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/vmhost"
)

// Relay connects clients with machines.
type Relay struct {
	inventory  *vmhost.Host
	store      *datastore.Store
	log        *slog.Logger
	borders    borders
	extensions []string
}

// New returns a relay to the machines of an inventory; extensions are those that it names.
func New(inventory *vmhost.Host, store *datastore.Store, log *slog.Logger, extensions ...string) *Relay {
	return &Relay{inventory: inventory, store: store, log: log, borders: borders{byRef: map[string]int64{}}, extensions: extensions}
}

// Handler serves GET /cvm/vsock/<moref>/<port>, /cvm/log/<moref>, /cvm/extensions, /cvm/pools and
// /cvm/memory.
func (r *Relay) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /cvm/vsock/{moref}/{port}", answering(r.serveVsock))
	mux.HandleFunc("GET /cvm/log/{moref}", answering(r.serveLog))
	mux.HandleFunc("GET /cvm/extensions", answering(r.serveExtensions))
	mux.HandleFunc("GET /cvm/pools", answering(r.servePools))
	mux.HandleFunc("GET /cvm/memory", answering(r.serveMemory))
	return mux
}

// badRequest says what is wrong with a request.
type badRequest string

func (e badRequest) Error() string { return string(e) }

// answering writes the error of f, if it has one, as JSON: {"message": "..."}.
func answering(f func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		err := f(w, r)
		if err == nil {
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(statusOf(err))
		_ = json.NewEncoder(w).Encode(map[string]string{"message": err.Error()}) // fails when the client is gone
	}
}

func statusOf(err error) int {
	var (
		bad     badRequest
		missing *vm.NotFoundError
		state   *vm.StateError
		frozen  *vm.FrozenError
	)
	switch {
	case errors.As(err, &bad):
		return http.StatusBadRequest
	case errors.As(err, &missing):
		return http.StatusNotFound
	case errors.As(err, &state), errors.As(err, &frozen):
		return http.StatusConflict
	}
	return http.StatusBadGateway
}
