package network

import (
	"encoding/json"
	"fmt"
	"maps"

	"github.com/moby/moby/api/types/network"

	"github.com/containervm/containervm/controller/internal/indexfile"
)

// indexVersion is the version of the index's format; a reader refuses a newer one rather than losing what it means.
const indexVersion = 1

const (
	indexPath = "cvm/networks.json"
	// maxIndexBytes bounds the index on the datastore: that is some 50,000 networks.
	maxIndexBytes = 32 << 20
)

// index is the content of `cvm/networks.json`. A value that has been published is never changed again; changes are made to a clone.
type index struct {
	Version  int                `json:"version"`
	Networks map[string]Network `json:"networks"` // by ID; the default network too
}

// indexFormat is how the index lies on the datastore.
func indexFormat() indexfile.Format[index] {
	return indexfile.Format[index]{
		Path: indexPath, Name: "the index of networks", Max: maxIndexBytes, Remedy: "remove networks",
		New:    func() *index { return &index{Version: indexVersion, Networks: map[string]Network{}} },
		Clone:  func(x *index) *index { return &index{Version: x.Version, Networks: maps.Clone(x.Networks)} },
		Decode: decodeIndex,
	}
}

// decodeIndex reads an index. Unknown fields are ignored; what contradicts itself is refused.
func decodeIndex(data []byte) (*index, error) {
	x := &index{}
	if err := json.Unmarshal(data, x); err != nil {
		return nil, err
	}
	if x.Version < 1 || x.Version > indexVersion {
		return nil, fmt.Errorf("format version %d, known is 1 to %d", x.Version, indexVersion)
	}
	if x.Networks == nil {
		x.Networks = map[string]Network{}
	}
	names := map[string]bool{}
	for id, n := range x.Networks {
		switch {
		case id != n.ID:
			return nil, fmt.Errorf("network %q has the ID %q", id, n.ID)
		case n.Name == "" || names[n.Name]:
			return nil, fmt.Errorf("two networks have the name %q", n.Name)
		case n.PortGroup == "":
			return nil, fmt.Errorf("network %q has no port group", n.Name)
		}
		if err := n.Settings().Check(); err != nil {
			return nil, fmt.Errorf("network %q: %w", n.Name, err)
		}
		for _, p := range []Pool{n.IPv4, n.IPv6} {
			if err := p.check(); err != nil {
				return nil, fmt.Errorf("network %q: %w", n.Name, err)
			}
		}
		names[n.Name] = true
	}
	return x, nil
}

// named returns the network with a name, also one that is being made or removed.
func (x *index) named(name string) (Network, bool) {
	for _, n := range x.Networks {
		if n.Name == name {
			return n, true
		}
	}
	return Network{}, false
}

// ready are the networks that are whole.
func (x *index) ready() []Network {
	var all []Network
	for _, n := range x.Networks {
		if n.Phase == "" {
			all = append(all, n)
		}
	}
	return all
}

// bridge is the default network.
func (x *index) bridge() Network {
	n, _ := x.named(network.NetworkBridge)
	return n
}
