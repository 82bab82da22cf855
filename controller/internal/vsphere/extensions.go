package vsphere

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"

	"github.com/containerd/errdefs"
)

// DiskAtFork is the extension of a host whose instant clones take a disk along (CloneSpec.RootParent).
const DiskAtFork = "diskAtFork"

// maxExtensions bounds what a host may say of its extensions, pools and machines, in bytes.
const maxExtensions = 1 << 20

// Has reports whether the host named an extension when the session began.
func (c *Client) Has(extension string) bool { return slices.Contains(c.extensions, extension) }

// readExtensions asks for the names of what the host offers beside the vSphere API; none on a host that knows no such
// question.
func (c *Client) readExtensions(ctx context.Context) ([]string, error) {
	var answer struct{ Extensions []string }
	if err := c.ask(ctx, "extensions", &answer); err != nil && !errdefs.IsNotImplemented(err) {
		return nil, fmt.Errorf("cannot learn its extensions: %w", err)
	}
	return answer.Extensions, nil
}

// Pool is how many machines the host keeps started for future clones of a frozen VM.
type Pool struct {
	Template   Ref
	Prestarted int
	Want       int
}

// Pools returns the host's pools; none on a host that has no such thing.
func (c *Client) Pools(ctx context.Context) ([]Pool, error) {
	var answer struct {
		Pools []struct {
			Template         string
			Prestarted, Want int
		}
	}
	if err := c.ask(ctx, "pools", &answer); err != nil && !errdefs.IsNotImplemented(err) {
		return nil, fmt.Errorf("cannot learn of the host's pools: %w", err)
	}
	var pools []Pool
	for _, p := range answer.Pools {
		pools = append(pools, Pool{Template: Ref{Type: "VirtualMachine", Value: p.Template}, Prestarted: p.Prestarted, Want: p.Want})
	}
	return pools, nil
}

// Memory is what a machine takes of its host's memory, in KiB.
type Memory struct {
	VM Ref
	// SharedKiB is what the memory holds that a frozen machine is, or that it was forked from; 0 of a machine that was booted.
	SharedKiB int64
	// GuestPrivateKiB is the guest's memory that no one else has.
	GuestPrivateKiB int64
	// OverheadKiB is the host's own for the machine, beside the guest's memory.
	OverheadKiB int64
}

// Memory has the host measure all machines that are on; none on a host that has no such thing.
func (c *Client) Memory(ctx context.Context) ([]Memory, error) {
	var answer struct {
		Machines []struct {
			VM                                      string
			SharedKiB, GuestPrivateKiB, OverheadKiB int64
		}
	}
	if err := c.ask(ctx, "memory", &answer); err != nil && !errdefs.IsNotImplemented(err) {
		return nil, fmt.Errorf("cannot learn of the machines' memory: %w", err)
	}
	var all []Memory
	for _, m := range answer.Machines {
		ref := Ref{Type: "VirtualMachine", Value: m.VM}
		all = append(all, Memory{VM: ref, SharedKiB: m.SharedKiB, GuestPrivateKiB: m.GuestPrivateKiB, OverheadKiB: m.OverheadKiB})
	}
	return all, nil
}

// ask gets one of the host's own JSON documents.
func (c *Client) ask(ctx context.Context, name string, answer any) error {
	res, err := c.do(ctx, &http.Request{Method: http.MethodGet, URL: c.extension(name), Header: http.Header{}})
	if err := extensionError(res, err, http.StatusOK); err != nil {
		return err
	}
	defer res.Body.Close()
	return json.NewDecoder(io.LimitReader(res.Body, maxExtensions)).Decode(answer)
}
