package relay

import (
	"encoding/json"
	"net/http"
<<<<<<< HEAD

	"github.com/containervm/containervm/hostd-bridge/hostapi"
)
=======
>>>>>>> d-container

	"github.com/containervm/containervm/hostd-bridge/hostapi"
)

func (r *Relay) serveExtensions(w http.ResponseWriter, _ *http.Request) error {
<<<<<<< HEAD
	return answer(w, map[string][]string{"extensions": r.extensions})
}

// servePools says how many machines are prestarted for each template.
func (r *Relay) servePools(w http.ResponseWriter, _ *http.Request) error {
	return answer(w, hostapi.Pools{Pools: r.inventory.Prestart.Status()})
}

func answer(w http.ResponseWriter, value any) error {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(value) // fails when the client is gone
=======
	answer(w, http.StatusOK, hostapi.Extensions{Extensions: r.extensions})
>>>>>>> d-container
	return nil
}

// servePools says how many machines are prestarted for the forks of each template.
func (r *Relay) servePools(w http.ResponseWriter, _ *http.Request) error {
	pools := []hostapi.Pool{}
	for _, p := range r.inventory.Prestarted() {
		pools = append(pools, hostapi.Pool{Template: p.Template, Prestarted: p.Ready, Want: p.Want})
	}
	answer(w, http.StatusOK, hostapi.Pools{Pools: pools})
	return nil
}

func answer(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(value) // fails when the client is gone
}
