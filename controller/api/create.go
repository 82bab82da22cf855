package api

import (
	"bytes"
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	ctr "github.com/containervm/containervm/controller/internal/container"
)

// createRequest is a request for a container, with what older versions of the API have beside.
type createRequest struct {
	*container.Config
	HostConfig       *container.HostConfig
	NetworkingConfig *network.NetworkingConfig
	// MacAddress is the container's where a version knew only one (before 1.44), and of the network of its mode until 1.52.
	MacAddress network.HardwareAddr
	// Runtime is HostConfig's, where docker-py has it.
	Runtime string
}

func (a *containerAPI) create(w http.ResponseWriter, r *http.Request) error {
	if p := param(r, "platform"); p != "" && p != "linux" && p != "linux/amd64" {
		return invalid("platform %s is not supported: containerVMs are linux/amd64", p)
	}
	var req createRequest
	warnings, err := readRequest(w, r, a.fields, &req)
	if err != nil {
		return err
	}
	obsolete, err := req.adapt(r)
	if err != nil {
		return err
	}
	id, more, err := a.containers.Create(r.Context(), ctr.Request{
		Name: param(r, "name"), Config: req.Config, HostConfig: req.HostConfig, Networking: req.NetworkingConfig, HostFiles: mayReadHost(r.Context()),
	})
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusCreated, container.CreateResponse{ID: id, Warnings: slices.Concat(more, warnings, obsolete)})
}

// adapt makes of a request in an older version of the API one in the newest, by the rules of that version, and says what is obsolete.
func (req *createRequest) adapt(r *http.Request) (warnings []string, err error) {
	if req.HostConfig == nil {
		req.HostConfig = &container.HostConfig{}
	}
	if req.HostConfig.Runtime == "" {
		req.HostConfig.Runtime = req.Runtime
	}
	if req.NetworkingConfig == nil {
		req.NetworkingConfig = &network.NetworkingConfig{}
	}
	endpoints := req.NetworkingConfig.EndpointsConfig
	ctx := r.Context()
	if !atLeast(ctx, "1.44") && len(endpoints) > 1 {
		names := make([]string, 0, len(endpoints))
		for name := range endpoints {
			names = append(names, name)
		}
		slices.Sort(names)
		return nil, invalid("Container cannot be created with multiple network endpoints: %s", strings.Join(names, ", "))
	}
	for _, e := range endpoints {
		if e == nil {
			continue // refused by its name later
		}
		if !atLeast(ctx, "1.44") {
			e.MacAddress = nil
		}
		if !atLeast(ctx, "1.48") {
			e.GwPriority = 0
		}
	}
	if len(req.MacAddress) == 0 {
		return nil, nil
	}
	if atLeast(ctx, "1.52") {
		return nil, invalid("container-wide MAC address no longer supported; use endpoint-specific MAC address instead")
	}
	if err := req.moveMAC(atLeast(ctx, "1.44")); err != nil {
		return nil, err
	}
	if atLeast(ctx, "1.44") {
		warnings = append(warnings, "The container-wide MacAddress field is now deprecated. It should be specified in EndpointsConfig instead.")
	}
	return warnings, nil
}

// moveMAC gives the container's MAC address to its place in the network of its mode. exact: that has to be named as the mode is.
func (req *createRequest) moveMAC(exact bool) error {
	mode := req.HostConfig.NetworkMode
	name := string(mode)
	if mode == "" || mode.IsDefault() {
		name = network.NetworkBridge
	}
	if container.NetworkMode(name) != network.NetworkBridge && !container.NetworkMode(name).IsUserDefined() {
		if exact {
			return nil // it has no network that is its own
		}
		return invalid("conflicting options: mac-address and the network mode")
	}
	conf := req.NetworkingConfig
	if len(conf.EndpointsConfig) == 0 {
		conf.EndpointsConfig = map[string]*network.EndpointSettings{name: {}}
	}
	e := conf.EndpointsConfig[name]
	if e == nil && name == network.NetworkBridge {
		e = conf.EndpointsConfig[network.NetworkDefault]
	}
	for _, only := range conf.EndpointsConfig {
		if !exact && only != nil {
			e = only
		}
	}
	switch {
	case e == nil:
		return invalid("HostConfig.NetworkMode must match the identity of a network in NetworkSettings.Networks")
	case len(e.MacAddress) > 0 && !bytes.Equal(e.MacAddress, req.MacAddress):
		return invalid("the container-wide MAC address must match the endpoint-specific MAC address for the main network, or be left empty")
	}
	e.MacAddress = req.MacAddress
	return nil
}

// withFields adds fields to an object's JSON that its Go type has not, at a path of keys.
func withFields(v any, add map[string]map[string]any) (map[string]json.RawMessage, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(text, &all); err != nil {
		return nil, err
	}
	for key, fields := range add {
		inner := map[string]json.RawMessage{}
		if err := json.Unmarshal(all[key], &inner); err != nil {
			return nil, err
		}
		for name, value := range fields {
			if inner[name], err = json.Marshal(value); err != nil {
				return nil, err
			}
		}
		if all[key], err = json.Marshal(inner); err != nil {
			return nil, err
		}
	}
	return all, nil
}
