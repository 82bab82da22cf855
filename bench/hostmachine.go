package main

import (
	"context"
	"fmt"
	"net/url"

	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/session"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/soap"

	"github.com/containervm/containervm/bench/internal/measure"
	hostd "github.com/containervm/containervm/hostd-bridge/daemon"
	"github.com/containervm/containervm/hostd-bridge/hostapi/hostclient"
)

// machine is that of a container, as hostd-bridge knows it.
type machine struct {
	host *hostclient.Client // with a session
	ref  string             // moref value
}

// findMachine logs in and finds the machine of a container, whose VM has the name of its ID.
func findMachine(ctx context.Context, e hostd.Endpoint, id string) (machine, error) {
	u, err := url.Parse(e.URL)
	if err != nil {
		return machine{}, fmt.Errorf("cannot parse address of hostd-bridge: %w", err)
	}
	transport := soap.NewClient(u, false)
	if e.CAFile != "" {
		if err := transport.SetRootCAs(e.CAFile); err != nil {
			return machine{}, fmt.Errorf("cannot read certificate of hostd-bridge: %w", err)
		}
	}
	v, err := vim25.NewClient(ctx, transport)
	if err != nil {
		return machine{}, fmt.Errorf("cannot reach hostd-bridge: %w", err)
	}
	c := &govmomi.Client{Client: v, SessionManager: session.NewManager(v)}
	if err := c.Login(ctx, url.UserPassword(e.Username, e.Password)); err != nil {
		return machine{}, fmt.Errorf("cannot log in: %w", err)
	}
	found, err := find.NewFinder(v).VirtualMachine(ctx, "/ha-datacenter/vm/"+id)
	if err != nil {
		return machine{}, fmt.Errorf("cannot find machine of container: %w", err)
	}
	return machine{host: hostclient.New(u, transport.Client.Do), ref: found.Reference().Value}, nil
}

// memory has the host measure its machines, and returns this one's. A machine that was forked has no name in QEMU's arguments by
// which it could be found here.
func (m machine) memory(ctx context.Context) (measure.Memory, error) {
	all, err := m.host.Memory(ctx)
	if err != nil {
		return measure.Memory{}, fmt.Errorf("cannot have the memory measured: %w", err)
	}
	for _, one := range all {
		if one.VM == m.ref {
			return measure.Memory{GuestMiB: float64(one.GuestPrivateKiB) / 1024, OverheadMiB: float64(one.OverheadKiB) / 1024}, nil
		}
	}
	return measure.Memory{}, fmt.Errorf("the host has not measured machine %s", m.ref)
}
