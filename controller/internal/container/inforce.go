package container

import (
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"github.com/containervm/containervm/controller/internal/logconf"
)

// defaultShm is the size of /dev/shm without a wish, in bytes: Docker's, and the tether's.
const defaultShm = 64 * mib

// InForce is a container's HostConfig as inspect shows it: with what is so where the request left it open, by Docker's words for it. The record
// keeps what was asked for. Runtime stays open: a container without one is forked if it can be and boots else, and a copy of it is to be so too.
func (c *Container) InForce() container.HostConfig {
	h := c.HostConfig
	h.LogConfig = logconf.Complete(h.LogConfig)
	if h.NetworkMode == "" {
		h.NetworkMode = network.NetworkBridge
	}
	if h.RestartPolicy.Name == "" {
		h.RestartPolicy.Name = container.RestartPolicyDisabled
	}
	if h.IpcMode.IsEmpty() {
		h.IpcMode = container.IPCModePrivate
	}
	if h.CgroupnsMode.IsEmpty() {
		h.CgroupnsMode = container.CgroupnsModePrivate
	}
	if h.ShmSize == 0 {
		h.ShmSize = defaultShm
	}
	if s := h.MemorySwappiness; s != nil && *s < 0 {
		h.MemorySwappiness = nil // "the kernel's own", as older clients say it
	}
	if h.Memory == 0 {
		h.Memory = defaultMemory
	}
	h.MemorySwap = h.Memory + swapBytes(&h.Resources)
	h.Isolation = ""
	h.DNS, h.DNSOptions, h.DNSSearch = some(h.DNS), some(h.DNSOptions), some(h.DNSSearch)
	h.MaskedPaths, h.ReadonlyPaths = some(h.MaskedPaths), some(h.ReadonlyPaths)
	h.BlkioWeightDevice, h.BlkioDeviceReadBps, h.BlkioDeviceWriteBps = some(h.BlkioWeightDevice), some(h.BlkioDeviceReadBps), some(h.BlkioDeviceWriteBps)
	h.BlkioDeviceReadIOps, h.BlkioDeviceWriteIOps = some(h.BlkioDeviceReadIOps), some(h.BlkioDeviceWriteIOps)
	h.Devices, h.Ulimits = some(h.Devices), some(h.Ulimits)
	if h.PortBindings == nil {
		h.PortBindings = network.PortMap{}
	}
	return h
}

// some is a list that JSON writes as one, also if it is empty.
func some[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}
