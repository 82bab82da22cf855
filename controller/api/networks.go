package api

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/netip"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"

	"github.com/containervm/containervm/controller/internal/container"
	"github.com/containervm/containervm/hostd-bridge/hostapi"
)

// networkDriver is the name of what connects containers: each has a user-mode network of its own.
const networkDriver = "user"

// networkAPI shows the networks there are; none can be made yet.
type networkAPI struct{ containers *container.Service }

func (a *networkAPI) routes(r *router) {
	r.handle("GET /networks", a.list)
	r.handle("GET /networks/{id}", a.inspect)
	r.handle("POST /networks/create", a.refuse)
	r.handle("DELETE /networks/{id}", a.refuse)
	r.handle("POST /networks/{id}/connect", a.refuse)
	r.handle("POST /networks/{id}/disconnect", a.refuse)
	r.handle("GET /volumes", a.volumes)
	r.handle("POST /volumes/create", a.refuseVolume)
}

func (a *networkAPI) refuse(http.ResponseWriter, *http.Request) error {
	return notImplemented("networks other than bridge and none are not supported yet")
}

func (a *networkAPI) refuseVolume(http.ResponseWriter, *http.Request) error {
	return notImplemented("volumes are not supported yet")
}

func (a *networkAPI) volumes(w http.ResponseWriter, _ *http.Request) error {
	return writeJSON(w, http.StatusOK, struct {
		Volumes  []string
		Warnings []string
	}{[]string{}, []string{}})
}

// networks are all there are.
func networks() []network.Network {
	bridge := network.Network{
		Name: "bridge", ID: networkID("bridge"), Scope: "local", Driver: networkDriver, EnableIPv4: true,
		IPAM: network.IPAM{Driver: "default", Config: []network.IPAMConfig{{
			Subnet: netip.MustParsePrefix(hostapi.GuestAddress).Masked(), Gateway: netip.MustParseAddr(hostapi.Gateway),
		}}},
		Options: map[string]string{}, Labels: map[string]string{},
	}
	none := network.Network{
		Name: "none", ID: networkID("none"), Scope: "local", Driver: "null",
		IPAM: network.IPAM{Driver: "default", Config: []network.IPAMConfig{}}, Options: map[string]string{}, Labels: map[string]string{},
	}
	return []network.Network{bridge, none}
}

// networkID is the ID of a network that exists by itself: derived from its name, so that it is always the same.
func networkID(name string) string {
	sum := sha256.Sum256([]byte("containervm network " + name))
	return hex.EncodeToString(sum[:])
}

func (a *networkAPI) list(w http.ResponseWriter, r *http.Request) error {
	f, err := readFilters(r, "driver", "id", "label", "name", "scope", "type", "dangling")
	if err != nil {
		return err
	}
	out := []network.Network{}
	for _, n := range networks() {
		if f.match("name", func(v string) bool { return strings.Contains(n.Name, v) }) &&
			f.match("id", func(v string) bool { return strings.HasPrefix(n.ID, v) }) &&
			f.match("driver", func(v string) bool { return n.Driver == v }) && f.matchLabels(n.Labels) {
			out = append(out, n)
		}
	}
	return writeJSON(w, http.StatusOK, out)
}

func (a *networkAPI) inspect(w http.ResponseWriter, r *http.Request) error {
	id := r.PathValue("id")
	for _, n := range networks() {
		if n.Name == id || len(id) >= 4 && strings.HasPrefix(n.ID, id) {
			return writeJSON(w, http.StatusOK, network.Inspect{Network: n, Containers: a.members(n.Name)})
		}
	}
	return errdefs.ErrNotFound.WithMessage("network " + id + " not found")
}

func (a *networkAPI) members(name string) map[string]network.EndpointResource {
	members := map[string]network.EndpointResource{}
	for _, c := range a.containers.All() {
		if e := endpoints(c)[name]; e != nil && c.Running() {
			members[c.ID] = network.EndpointResource{Name: c.Name, IPv4Address: netip.PrefixFrom(e.IPAddress, e.IPPrefixLen)}
		}
	}
	return members
}
