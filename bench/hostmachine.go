package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/session"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/soap"

	"github.com/containervm/containervm/bench/internal/measure"
	hostd "github.com/containervm/containervm/hostd-bridge/daemon"
)

// machine is that of a container, as hostd-bridge knows it.
type machine struct {
	client     *http.Client // with a session
	extensions string       // address of hostd-bridge's own documents and streams
	ref        string       // moref value
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
	return machine{client: &transport.Client, extensions: "https://" + u.Host + "/cvm", ref: found.Reference().Value}, nil
}

// maxMemory bounds what a host may say of its machines' memory, in bytes.
const maxMemory = 1 << 20

// memory has the host measure its machines, and returns this one's. A machine that was forked has no name in QEMU's arguments by
// which it could be found here.
func (m machine) memory(ctx context.Context) (measure.Memory, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, m.extensions+"/memory", nil)
	if err != nil {
		return measure.Memory{}, err
	}
	res, err := m.client.Do(req)
	if err != nil {
		return measure.Memory{}, fmt.Errorf("cannot have the memory measured: %w", err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return measure.Memory{}, fmt.Errorf("cannot have the memory measured: %s", res.Status)
	}
	return decodeMemory(io.LimitReader(res.Body, maxMemory), m.ref)
}

// decodeMemory takes one machine out of the host's answer.
func decodeMemory(r io.Reader, ref string) (measure.Memory, error) {
	var answer struct {
		Machines []struct {
			VM                           string
			GuestPrivateKiB, OverheadKiB float64
		}
	}
	if err := json.NewDecoder(r).Decode(&answer); err != nil {
		return measure.Memory{}, fmt.Errorf("cannot understand what the machines take: %w", err)
	}
	for _, m := range answer.Machines {
		if m.VM == ref {
			return measure.Memory{GuestMiB: m.GuestPrivateKiB / 1024, OverheadMiB: m.OverheadKiB / 1024}, nil
		}
	}
	return measure.Memory{}, fmt.Errorf("the host has not measured machine %s", ref)
}
