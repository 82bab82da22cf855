package container

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/moby/moby/api/types/events"

	"github.com/containervm/containervm/controller/internal/network"
	"github.com/containervm/containervm/controller/internal/record"
	"github.com/containervm/containervm/controller/internal/volume"
	"github.com/containervm/containervm/controller/internal/vsphere"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// Events yields what happens to containers from now on, until ctx ends. It comes from the inventory alone, so it holds
// also what other clients of the host do.
func (s *Service) Events(ctx context.Context) <-chan events.Message {
	changes := s.host.Subscribe(ctx)
	out := make(chan events.Message)
	go func() {
		defer close(out)
		for change := range changes {
			for _, m := range eventsOf(change, time.Now()) {
				select {
				case out <- m:
				case <-ctx.Done():
				}
			}
		}
	}()
	return out
}

// eventsOf says what a change of a VM means in Docker's terms. A start and a death belong to a run: each is told once for it, also
// when the change holds the whole run.
func eventsOf(change vsphere.VMEvent, now time.Time) []events.Message {
	before, had := containerOf(change.Before)
	after, has := containerOf(change.After)
	var out []events.Message
	add := func(c Container, action events.Action, more map[string]string) {
		out = append(out, message(c, action, more, now))
	}
	switch {
	case !had && !has:
	case !had:
		add(after, events.ActionCreate, nil)
	case !has:
		add(before, events.ActionDestroy, nil)
	default:
		if after.Name != before.Name {
			add(after, events.ActionRename, map[string]string{"oldName": "/" + before.Name})
		}
		if after.BegunSince(&before) {
			out = append(out, networkEvents(after, nil, after.Endpoints(), now)...)
			out = append(out, mountEvents(after, events.ActionMount, now)...)
			add(after, events.ActionStart, nil)
		}
		if after.goneSince(&before) {
			if after.OOMKilled() {
				add(after, events.ActionOOM, nil)
			}
			add(after, events.ActionDie, map[string]string{"exitCode": strconv.Itoa(after.ExitCode())})
			out = append(out, networkEvents(after, before.Endpoints(), nil, now)...)
			out = append(out, mountEvents(after, events.ActionUnmount, now)...)
		}
		if before.Running() && after.Running() && after.Run == before.Run {
			out = append(out, networkEvents(after, before.Endpoints(), after.Endpoints(), now)...)
		}
	}
	return out
}

// networkEvents tell that a container that runs is no more in networks, or is in them.
func networkEvents(c Container, from, to []record.Endpoint, now time.Time) (out []events.Message) {
	add := func(action events.Action, all, but []record.Endpoint) {
		for _, e := range all {
			if !slices.ContainsFunc(but, func(other record.Endpoint) bool { return other.ID == e.ID }) {
				out = append(out, network.Message(action, e.NetworkID, e.Network, map[string]string{"container": c.ID}, now))
			}
		}
	}
	add(events.ActionDisconnect, from, to)
	add(events.ActionConnect, to, from)
	return out
}

// mountEvents tell that the volumes of a container are mounted, or not any more.
func mountEvents(c Container, action events.Action, now time.Time) (out []events.Message) {
	for _, m := range c.Mounts {
		if m.Volume == "" {
			continue
		}
		attributes := map[string]string{"driver": volume.Driver, "container": c.ID}
		if action == events.ActionMount {
			attributes["destination"], attributes["propagation"] = m.Target, ""
			attributes["read/write"] = strconv.FormatBool(!m.ReadOnly)
		}
		out = append(out, volume.Message(action, m.Volume, attributes, now))
	}
	return out
}

func containerOf(vm *vsphere.VM) (Container, bool) {
	if vm == nil || vm.Extra[record.KeyRole] != record.RoleContainer {
		return Container{}, false
	}
	c, err := Parse(*vm)
	return c, err == nil
}

func message(c Container, action events.Action, more map[string]string, now time.Time) events.Message {
	attributes := map[string]string{}
	maps.Copy(attributes, c.Config.Labels)
	attributes["image"], attributes["name"] = c.Config.Image, c.Name
	maps.Copy(attributes, more)
	return events.Message{
		Type: events.ContainerEventType, Action: action, Scope: "local",
		Actor: events.Actor{ID: c.ID, Attributes: attributes},
		Time:  now.Unix(), TimeNano: now.UnixNano(),
	}
}

// OOMKilled reports whether the guest's kernel ended the process for lack of memory.
func (c *Container) OOMKilled() bool {
	return c.Status.GetState() == tetherv1.State_EXITED && c.Status.GetExit().GetOomKilled()
}
