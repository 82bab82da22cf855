package vsphere

import (
	"context"
	"runtime"

	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
)

// HostInfo describes the host for people.
type HostInfo struct {
	Name         string
	Product      string // "VMware vCenter Server 8.0.3 build-..."
	Version      string
	Model        string
	CPUModel     string
	CPUs         int // threads
	CPUMHz       int // of each
	MemoryBytes  int64
	Accelerator  string   // what runs machines and why; empty: not said
	Jail         string   // how machines are kept from their host; empty: not said
	Lacks        []string // what of that the host lacks, for people
	Architecture string
	Datastore    string // where machines are, as vSphere writes it: "[datastore1]"
	Kernel       string // release of what machines boot, as uname -r says it; empty: not known
}

// Host asks the host who it is. On a vCenter it is the sum of what the first host says.
func (c *Client) Host(ctx context.Context) (HostInfo, error) {
	about := c.vim.ServiceContent.About
	info := HostInfo{Product: about.FullName, Version: about.Version, Architecture: runtime.GOARCH, Datastore: c.path(""), Kernel: c.kernelRelease(ctx)}
	finder := find.NewFinder(c.vim)
	finder.SetDatacenter(c.place.datacenter)
	hosts, err := finder.HostSystemList(ctx, "*")
	if err != nil {
		return info, failed(err, "find the host")
	}
	var host mo.HostSystem
	pc := property.DefaultCollector(c.vim)
	if err := pc.RetrieveOne(ctx, hosts[0].Reference(), []string{"name", "summary.hardware"}, &host); err != nil {
		return info, failed(err, "describe the host")
	}
	info.Name = host.Name
	if hw := host.Summary.Hardware; hw != nil {
		info.Model, info.CPUModel = hw.Vendor+" "+hw.Model, hw.CpuModel
		info.CPUs, info.CPUMHz, info.MemoryBytes = int(hw.NumCpuThreads), int(hw.CpuMhz), hw.MemorySize
		if hw.Vendor == hostapi.Vendor {
			info.Accelerator = hw.Model
			info.Jail, info.Lacks = isolation(hw.OtherIdentifyingInfo)
		}
	}
	return info, nil
}

// isolation reads what a host of ours says of its machines' jails.
func isolation(identities []types.HostSystemIdentificationInfo) (jail string, lacks []string) {
	for _, i := range identities {
		if i.IdentifierType == nil {
			continue
		}
		switch i.IdentifierType.GetElementDescription().Key {
		case hostapi.IdentityJail:
			jail = i.IdentifierValue
		case hostapi.IdentityLacks:
			lacks = append(lacks, i.IdentifierValue)
		}
	}
	return jail, lacks
}
