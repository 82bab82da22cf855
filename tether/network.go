package main

import (
	"context"
	"errors"
	"net"
	"net/netip"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/containervm/containervm/tether/internal/identity"
	"github.com/containervm/containervm/tether/internal/netconf"
	"github.com/containervm/containervm/tether/internal/process"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// networkRequest asks the loop to make the container's network another one.
type networkRequest struct {
	network *tetherv1.ConfigureRequest
	done    chan<- networkChanged // has room for the answer
}

type networkChanged struct {
	network *tetherv1.ConfigureResponse
	err     error
}

// networkBy is the agent's way to change the network: it asks the loop, which ends with the process.
func networkBy(networks chan<- networkRequest, ended <-chan struct{}) func(context.Context, *tetherv1.ConfigureRequest) (*tetherv1.ConfigureResponse, error) {
	return func(ctx context.Context, r *tetherv1.ConfigureRequest) (*tetherv1.ConfigureResponse, error) {
		done := make(chan networkChanged, 1)
		select {
		case networks <- networkRequest{network: r, done: done}:
			changed := <-done
			return changed.network, changed.err
		case <-ended:
			return nil, process.ErrEnded
		case <-ctx.Done():
			return nil, link.Refuse(ctx.Err(), "%v", ctx.Err())
		}
	}
}

// changeNetwork makes the network of the running container what r says. What was done before something failed stays.
func (t *tether) changeNetwork(r *tetherv1.ConfigureRequest) networkChanged {
	spec := t.instance.spec
	before := spec.Interfaces
	if !t.cards.Same(r.Interfaces) {
		if err := errors.Join(t.cards.Change(r.Interfaces), t.cards.Settle()); err != nil {
			return networkChanged{err: link.Refuse(errdefs.ErrFailedPrecondition, "%v", err)}
		}
	}
	spec.Interfaces, spec.Hosts, spec.Resolver = r.Interfaces, r.Hosts, r.Resolver
	base, err := t.rootBase()
	if err == nil {
		err = t.instance.container.Do(func() error {
			_, err := t.instance.root(base).Renew()
			return err
		})
	}
	if err == nil {
		err = resetGone(before, r.Interfaces)
	}
	if err != nil {
		return networkChanged{err: err}
	}
	t.reporter.Set(link.KeyIP, identity.FirstAddress(spec))
	return networkChanged{network: &tetherv1.ConfigureResponse{Interfaces: t.cards.Interfaces()}}
}

// resetGone ends the connections of addresses that the container no longer has.
func resetGone(before, after []*tetherv1.Interface) error {
	gone := map[netip.Addr]bool{}
	for _, side := range []struct {
		interfaces []*tetherv1.Interface
		gone       bool
	}{{before, true}, {after, false}} {
		for _, i := range side.interfaces {
			for _, text := range i.Addresses {
				if p, err := netip.ParsePrefix(text); err == nil {
					gone[p.Addr()] = side.gone
				}
			}
		}
	}
	_, err := netconf.ResetConnections(func(ip net.IP) bool {
		a, ok := netip.AddrFromSlice(ip)
		return ok && gone[a.Unmap()]
	})
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil // they end by themselves, later
	}
	return err
}
