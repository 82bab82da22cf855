// Package relay serves a host's two extensions of the vSphere API: byte streams to vsock ports of VMs, and the logs of
// VMs. It does not ask who calls: package vim's Authorize does.
package relay

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"

	"github.com/containervm/containervm/hostd-bridge/internal/datastore"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
)

// Relay connects clients with machines.
type Relay struct {
	inventory *vm.Inventory
	store     *datastore.Store
	log       *slog.Logger
	borders   borders
}

// New returns a relay to the machines of an inventory.
func New(inventory *vm.Inventory, store *datastore.Store, log *slog.Logger) *Relay {
	return &Relay{inventory: inventory, store: store, log: log, borders: borders{byRef: map[string]int64{}}}
}

// Handler serves GET /cvm/vsock/<moref>/<port> and GET /cvm/log/<moref>.
func (r *Relay) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /cvm/vsock/{moref}/{port}", answering(r.serveVsock))
	mux.HandleFunc("GET /cvm/log/{moref}", answering(r.serveLog))
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
