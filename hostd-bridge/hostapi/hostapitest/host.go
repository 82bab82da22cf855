// Package hostapitest is a fake of what a host offers beside vSphere (package hostapi), in memory, for tests of its clients.
package hostapitest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
)

// Host is a host without vSphere. Its methods may be called by several goroutines.
type Host struct {
	mu      sync.Mutex
	answers Answers
	vms     map[string]*VM
}

// Answers are what a host says of itself.
type Answers struct {
	Extensions []string
	Pools      []hostapi.Pool
	Memory     []hostapi.MachineMemory
	Networks   hostapi.Networks
}

// New returns a host without VMs that has all extensions.
func New() *Host {
	return &Host{vms: map[string]*VM{}, answers: Answers{
		Extensions: []string{hostapi.ExtensionDiskAtFork, hostapi.ExtensionLog, hostapi.ExtensionNetworks, hostapi.ExtensionVsock, hostapi.ExtensionCPULimit},
		Networks:   hostapi.Networks{Networks: []hostapi.NetworkState{{Name: hostapi.DefaultNetwork, Network: "network-10"}}},
	}}
}

// Answer sets what the host says of itself from now on.
func (h *Host) Answer(a Answers) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.answers = a
}

// VM returns the VM with a moref value. It is made, off and without a log, when it is asked for first.
func (h *Host) VM(moref string) *VM {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.vms[moref] == nil {
		h.vms[moref] = &VM{changed: make(chan struct{}), ports: map[uint32]Serve{}}
	}
	return h.vms[moref]
}

func (h *Host) find(moref string) (*VM, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	v, ok := h.vms[moref]
	return v, ok
}

// Start serves a host until the test ends, and returns its URL.
func (h *Host) Start(t testing.TB) string {
	server := httptest.NewServer(h.Handler())
	t.Cleanup(func() {
		server.CloseClientConnections() // of logs that are followed
		server.Close()
	})
	return server.URL
}

// Handler serves the routes of package hostapi but RouteMetrics. It asks for no session.
func (h *Host) Handler() http.Handler {
	mux := http.NewServeMux()
	for route, answer := range map[string]func(Answers) any{
		hostapi.RouteExtensions: func(a Answers) any { return hostapi.Extensions{Extensions: a.Extensions} },
		hostapi.RoutePools:      func(a Answers) any { return hostapi.Pools{Pools: a.Pools} },
		hostapi.RouteMemory:     func(a Answers) any { return hostapi.Machines{Machines: a.Memory} },
		hostapi.RouteNetworks:   func(a Answers) any { return a.Networks },
	} {
		mux.HandleFunc("GET "+route, func(w http.ResponseWriter, _ *http.Request) {
			h.mu.Lock()
			said := h.answers
			h.mu.Unlock()
			write(w, http.StatusOK, answer(said))
		})
	}
	mux.HandleFunc("PUT "+hostapi.RouteNetworks+"/{name}", h.setNetwork)
	mux.HandleFunc("GET "+hostapi.RouteLog+"/{moref}", h.ofVM((*VM).serveLog))
	mux.HandleFunc("GET "+hostapi.RouteVsock+"/{moref}/{port}", h.ofVM((*VM).serveVsock))
	return mux
}

// setNetwork sets the settings of a network that the host says it has.
func (h *Host) setNetwork(w http.ResponseWriter, r *http.Request) {
	var s hostapi.NetworkSettings
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, hostapi.MaxNetworkSettings)).Decode(&s)
	if err == nil {
		err = s.Check()
	}
	if err != nil {
		refuse(w, http.StatusBadRequest, "cannot read the settings of the network: %v", err)
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	all := slices.Clone(h.answers.Networks.Networks)
	at := slices.IndexFunc(all, func(n hostapi.NetworkState) bool { return n.Name == r.PathValue("name") })
	if at < 0 {
		refuse(w, http.StatusNotFound, "no network is %s", r.PathValue("name"))
		return
	}
	all[at].Settings = s
	h.answers.Networks.Networks = all
	w.WriteHeader(http.StatusNoContent)
}

// Network is a network as the host has it; false: it has none with that name.
func (h *Host) Network(name string) (hostapi.NetworkState, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, n := range h.answers.Networks.Networks {
		if n.Name == name {
			return n, true
		}
	}
	return hostapi.NetworkState{}, false
}

func (h *Host) ofVM(serve func(*VM, http.ResponseWriter, *http.Request)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v, ok := h.find(r.PathValue("moref"))
		if !ok {
			refuse(w, http.StatusNotFound, "no VM is %s", r.PathValue("moref"))
			return
		}
		serve(v, w, r)
	}
}

func refuse(w http.ResponseWriter, status int, format string, args ...any) {
	write(w, status, hostapi.Error{Message: fmt.Sprintf(format, args...)})
}

func write(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(value) // fails when the client is gone
}
