package relay

import (
	"encoding/json"
	"net/http"
)

// Names of the extensions that a host has beside the vSphere API.
const (
	ExtensionDiskAtFork = "diskAtFork" // InstantClone_Task takes a disk
	ExtensionLog        = "log"        // GET /cvm/log
	ExtensionVsock      = "vsock"      // GET /cvm/vsock
)

// pool is a line of the answer to GET /cvm/pools.
type pool struct {
	Template   string `json:"template"` // moref value of the frozen VM
	Prestarted int    `json:"prestarted"`
	Want       int    `json:"want"`
}

func (r *Relay) serveExtensions(w http.ResponseWriter, _ *http.Request) error {
	return answer(w, map[string][]string{"extensions": r.extensions})
}

// servePools says how many children wait for the forks of each template.
func (r *Relay) servePools(w http.ResponseWriter, _ *http.Request) error {
	pools := []pool{}
	for _, p := range r.inventory.Prestarted() {
		pools = append(pools, pool{Template: p.Template, Prestarted: p.Ready, Want: p.Want})
	}
	return answer(w, map[string][]pool{"pools": pools})
}

func answer(w http.ResponseWriter, value any) error {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(value) // fails when the client is gone
	return nil
}
