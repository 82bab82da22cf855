package relay

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
)

// serveNetworks says how all networks are.
func (r *Relay) serveNetworks(w http.ResponseWriter, _ *http.Request) error {
	answer(w, http.StatusOK, r.inventory.Switches.State())
	return nil
}

// setNetwork changes the settings of a network.
func (r *Relay) setNetwork(w http.ResponseWriter, req *http.Request) error {
	data, err := io.ReadAll(http.MaxBytesReader(w, req.Body, hostapi.MaxNetworkSettings))
	if err != nil {
		return badRequest(fmt.Sprintf("cannot read the settings of the network: %v", err))
	}
	settings, err := decodeSettings(data)
	if err != nil {
		return badRequest(fmt.Sprintf("cannot read the settings of the network: %v", err))
	}
	network, ok := r.inventory.NetworkNamed(req.PathValue("name"))
	if !ok {
		return &vm.NotFoundError{Ref: fmt.Sprintf("network %q", req.PathValue("name"))}
	}
	if err := r.inventory.SetNetwork(network.Ref, settings); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// decodeSettings reads settings. What it does not know is an error: nothing that was asked for is left undone in silence.
func decodeSettings(data []byte) (s hostapi.NetworkSettings, err error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return s, err
	}
	if _, more := d.Token(); !errors.Is(more, io.EOF) {
		return s, errors.New("something follows the document")
	}
	return s, s.Check()
}
