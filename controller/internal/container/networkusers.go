package container

import (
	"github.com/containervm/containervm/controller/internal/network"
	"github.com/containervm/containervm/controller/internal/record"
)

// NetworkUsers tells which containers have endpoints in the network with an ID.
func (s *Service) NetworkUsers(networkID string) []network.User {
	var users []network.User
	for _, c := range s.All() {
		endpoints, err := record.DecodeNetworks(c.VM.Extra[record.KeyNetworks])
		if err != nil {
			s.log.Warn("the networks of a container cannot be read", "container", c.ID, "err", err)
			continue
		}
		for _, e := range endpoints {
			if e.NetworkID == networkID {
				users = append(users, network.User{
					Who: network.Who{ID: c.ID, Name: c.Name, Hostname: c.Config.Hostname}, VM: c.VM.Ref, Running: c.Running(), Endpoint: e,
				})
			}
		}
	}
	return users
}
