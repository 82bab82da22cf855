package relay

import (
	"encoding/json"
	"net/http"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
)

// Names of the extensions that a host has beside the vSphere API.
const (
	ExtensionDiskAtFork = "diskAtFork" // InstantClone_Task takes a disk
	ExtensionLog        = "log"        // GET /cvm/log
	ExtensionVsock      = "vsock"      // GET /cvm/vsock
)

func (r *Relay) serveExtensions(w http.ResponseWriter, _ *http.Request) error {
	return answer(w, map[string][]string{"extensions": r.extensions})
}

// servePools says how many machines are prestarted for each template.
func (r *Relay) servePools(w http.ResponseWriter, _ *http.Request) error {
	return answer(w, hostapi.Pools{Pools: r.inventory.Prestart.Status()})
}

func answer(w http.ResponseWriter, value any) error {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(value) // fails when the client is gone
	return nil
}
