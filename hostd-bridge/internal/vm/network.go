package vm

import "github.com/containervm/containervm/hostd-bridge/hostapi"

// DefaultNetwork is the moref value of the network hostapi.DefaultNetwork, which belongs to the host.
const DefaultNetwork = "network-10"

// Network is a network at one moment; like a VM it is never changed once it is published.
type Network struct {
	Ref      string                  `json:"-"`
	Name     string                  `json:"name"` // of its port group
	Settings hostapi.NetworkSettings `json:"settings"`
}

// Net returns what the VM is in its networks beside having cards there.
func (c *Config) Net() hostapi.Net {
	text := c.Extra[hostapi.KeyNet]
	if text == "" {
		return hostapi.Net{}
	}
	n, _ := hostapi.DecodeNet(text) // CheckExtra has decoded it
	return n
}
