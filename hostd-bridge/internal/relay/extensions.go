package relay

import (
	"encoding/json"
	"net/http"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
)

func (r *Relay) serveExtensions(w http.ResponseWriter, _ *http.Request) error {
	answer(w, http.StatusOK, hostapi.Extensions{Extensions: r.extensions})
	return nil
}

// servePools says how many machines are prestarted for each template.
func (r *Relay) servePools(w http.ResponseWriter, _ *http.Request) error {
	answer(w, http.StatusOK, hostapi.Pools{Pools: r.inventory.Prestart.Status()})
	return nil
}

func answer(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(value) // fails when the client is gone
}
