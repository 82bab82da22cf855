package vsphere

import (
	"context"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/hostapi/hostclient"
)

// Has reports whether the host named an extension (hostapi.ExtensionDiskAtFork) when the session began.
func (c *Client) Has(extension string) bool { return slices.Contains(c.extensions, extension) }

// LimitsCPUs reports whether the host keeps to limits of CPU time: a vSphere does, a host with extensions says so.
func (c *Client) LimitsCPUs() bool { return len(c.extensions) == 0 || c.Has(hostapi.ExtensionCPULimit) }

// readExtensions learns the names of the host's extensions; a host that knows no such question has none.
func (c *Client) readExtensions(ctx context.Context) (err error) {
	c.extensions, err = c.host.Extensions(ctx)
	if err != nil && !errdefs.IsNotImplemented(err) {
		return fmt.Errorf("cannot learn its extensions: %w", err)
	}
	return nil
}

// Pool is how many machines the host keeps prestarted for future clones of a frozen VM.
type Pool struct {
	Template   Ref
	Prestarted int
	Want       int
}

// Pools returns the host's pre-start pools; none on a host that has no such thing.
func (c *Client) Pools(ctx context.Context) ([]Pool, error) {
	answer, err := c.host.Pools(ctx)
	if err != nil && !errdefs.IsNotImplemented(err) {
		return nil, fmt.Errorf("cannot learn of the host's pre-start pools: %w", err)
	}
	var pools []Pool
	for _, p := range answer {
		pools = append(pools, Pool{Template: vmRef(p.Template), Prestarted: p.Prestarted, Want: p.Want})
	}
	return pools, nil
}

// Memory is what a machine takes of its host's memory.
type Memory struct {
	VM Ref
	hostapi.Memory
}

// Memory has the host measure all machines that are on; none on a host that has no such thing.
func (c *Client) Memory(ctx context.Context) ([]Memory, error) {
	answer, err := c.host.Memory(ctx)
	if err != nil && !errdefs.IsNotImplemented(err) {
		return nil, fmt.Errorf("cannot learn of the machines' memory: %w", err)
	}
	var all []Memory
	for _, m := range answer {
		all = append(all, Memory{VM: vmRef(m.VM), Memory: m.Memory})
	}
	return all, nil
}

func vmRef(value string) Ref { return Ref{Type: "VirtualMachine", Value: value} }

// OpenLog reads the log of a VM's main process as records (package link) from a byte offset; -1 is the present end. With
// follow it goes on as the log grows and ends with the run; with wait it goes on with the next run when the VM is off. It
// returns once the host has taken the request, so no byte after that is missed. ctx bounds the whole read.
func (c *Client) OpenLog(ctx context.Context, vm Ref, from int64, follow, wait bool) (*hostclient.Log, error) {
	select {
	case <-c.watched: // who follows a log would log in again
		return nil, ErrClosed
	default:
		return c.host.OpenLog(ctx, vm.Value, from, follow, wait)
	}
}
