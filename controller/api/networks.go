package api

import (
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"

	"github.com/containervm/containervm/controller/internal/container"
	"github.com/containervm/containervm/controller/internal/fields"
	net "github.com/containervm/containervm/controller/internal/network"
)

// networkDriver is the name of what connects containers.
const networkDriver = net.DriverBridge

// networkAPI serves networks.
type networkAPI struct {
	containers *container.Service
	networks   *net.Service
}

func (a *networkAPI) routes(r *router) {
	r.handle("GET /networks", a.list)
	r.handle("GET /networks/{id}", a.inspect)
	r.handle("POST /networks/create", a.create)
	r.handle("POST /networks/prune", a.prune)
	r.handle("DELETE /networks/{id}", a.remove)
	r.handle("POST /networks/{id}/connect", a.connect)
	r.handle("POST /networks/{id}/disconnect", a.disconnect)
}

func (a *networkAPI) connect(w http.ResponseWriter, r *http.Request) error {
	var req network.ConnectRequest
	if _, err := readRequest(w, r, fields.Connect(), &req); err != nil {
		return err
	}
	if e := req.EndpointConfig; e != nil { // as in Docker, what a version did not know is not looked at in it
		if !atLeast(r.Context(), "1.48") {
			e.GwPriority = 0
		}
		if !atLeast(r.Context(), "1.54") {
			e.MacAddress = nil
		}
	}
	return a.containers.Connect(r.Context(), req.Container, r.PathValue("id"), req.EndpointConfig)
}

// disconnect takes Force and needs no force: a container is in a network as its VM's record says, and nowhere else.
func (a *networkAPI) disconnect(w http.ResponseWriter, r *http.Request) error {
	var req network.DisconnectRequest
	if _, err := readRequest(w, r, fields.Disconnect(), &req); err != nil {
		return err
	}
	return a.containers.Disconnect(r.Context(), req.Container, r.PathValue("id"))
}

func (a *networkAPI) list(w http.ResponseWriter, r *http.Request) error {
	f, err := readFilters(r)
	if err != nil {
		return err
	}
	fits, err := a.networkFilter(f)
	if err != nil {
		return err
	}
	out := []any{}
	for _, n := range a.networks.All() {
		switch {
		case !fits(n):
		case atLeast(r.Context(), "1.52"):
			out = append(out, network.Summary{Network: n.Docker()})
		case atLeast(r.Context(), "1.28"): // an empty key is all that there is
			out = append(out, network.Inspect{Network: n.Docker(), Containers: map[string]network.EndpointResource{}})
		default:
			out = append(out, network.Inspect{Network: n.Docker(), Containers: a.containersOf(n)})
		}
	}
	return writeJSON(w, http.StatusOK, out)
}

// containersOf are the containers that run in a network, by ID.
func (a *networkAPI) containersOf(n net.Network) map[string]network.EndpointResource {
	all := map[string]network.EndpointResource{}
	for _, user := range a.containers.NetworkUsers(n.ID) {
		if user.Running {
			all[user.ID] = user.Docker()
		}
	}
	return all
}

// networkFilter is moby's filter of networks (daemon/network/filter.go).
func (a *networkAPI) networkFilter(f filters) (func(net.Network) bool, error) {
	dangling, byUse, err := danglingFilter(f)
	if err != nil {
		return nil, err
	}
	for _, kind := range f["type"] {
		if kind != "builtin" && kind != "custom" {
			return nil, invalid("invalid filter: 'type'='%s'", kind)
		}
	}
	return func(n net.Network) bool {
		return f.match("name", func(v string) bool { return fitsText(v, n.Name) }) &&
			f.match("id", func(v string) bool { return fitsText(v, n.ID) }) &&
			f.match("driver", func(v string) bool { return n.Driver == v }) &&
			f.match("scope", func(v string) bool { return v == net.ScopeLocal }) &&
			f.match("type", func(v string) bool { return (v == "builtin") == n.Predefined() }) &&
			f.matchLabels(n.Labels) &&
			(!byUse || dangling == (!n.Predefined() && !a.used(n)))
	}, nil
}

// danglingFilter reads the filter by use: dangling networks are those that someone made and no container runs in, dangling volumes those that no
// container has.
func danglingFilter(f filters) (dangling, byUse bool, err error) {
	switch values := f["dangling"]; {
	case len(values) == 0:
		return false, false, nil
	case len(values) > 1:
		return false, false, invalid(`got more than one value for filter key "dangling"`)
	case slices.Contains([]string{"0", "false"}, values[0]):
		return false, true, nil
	case slices.Contains([]string{"1", "true"}, values[0]):
		return true, true, nil
	default:
		return false, false, invalid(`invalid value for filter 'dangling', must be "true" (or "1"), or "false" (or "0")`)
	}
}

// fitsText reports whether a filter's value is in a text, or matches it as a regular expression, as in Docker.
func fitsText(value, text string) bool {
	if strings.Contains(text, value) {
		return true
	}
	ok, err := regexp.MatchString(value, text)
	return err == nil && ok
}

func (a *networkAPI) used(n net.Network) bool {
	return slices.ContainsFunc(a.containers.NetworkUsers(n.ID), func(u net.User) bool { return u.Running })
}

func (a *networkAPI) inspect(w http.ResponseWriter, r *http.Request) error {
	if v := param(r, "verbose"); v != "" {
		if _, err := strconv.ParseBool(v); err != nil {
			return invalid("invalid value for verbose: %s: %v", v, err)
		}
	}
	id := r.PathValue("id")
	n, err := a.networks.Find(id)
	if err != nil {
		return err
	}
	if scope := param(r, "scope"); scope != "" && scope != net.ScopeLocal {
		return errdefs.ErrNotFound.WithMessage("network " + id + " not found")
	}
	out := network.Inspect{Network: n.Docker(), Containers: a.containersOf(n)}
	if atLeast(r.Context(), "1.52") {
		out.Status = &network.Status{IPAM: network.IPAMStatus{Subnets: a.networks.Status(n)}}
	}
	return writeJSON(w, http.StatusOK, out)
}

func (a *networkAPI) create(w http.ResponseWriter, r *http.Request) error {
	var req network.CreateRequest
	if _, err := readRequest(w, r, fields.NetworkCreate(), &req); err != nil {
		return err
	}
	if !atLeast(r.Context(), "1.48") {
		req.EnableIPv4 = nil // as in Docker: older clients do not know it
	}
	n, err := a.networks.Create(r.Context(), req)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusCreated, network.CreateResponse{ID: n.ID})
}

func (a *networkAPI) remove(w http.ResponseWriter, r *http.Request) error {
	if err := a.networks.Remove(r.Context(), r.PathValue("id"), a.containers); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (a *networkAPI) prune(w http.ResponseWriter, r *http.Request) error {
	f, err := readFilters(r)
	if err != nil {
		return err
	}
	before, err := untilFilter(f)
	if err != nil {
		return err
	}
	names, err := a.networks.Prune(r.Context(), func(n net.Network) bool {
		return f.matchLabels(n.Labels) && !n.Created.After(before)
	}, a.containers)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, network.PruneReport{NetworksDeleted: names})
}
