package container

import (
	"strings"

	"github.com/moby/moby/api/types/container"

	"github.com/containervm/containervm/controller/internal/record"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// parseLink reads "CONTAINER" or "CONTAINER:ALIAS": a name under which a container finds another one of its network.
func parseLink(text string) (target, alias string, err error) {
	target, alias, _ = strings.Cut(text, ":")
	target = strings.TrimPrefix(target, "/")
	if alias == "" {
		alias = target
	}
	alias = alias[strings.LastIndexByte(alias, '/')+1:] // as inspect shows it: /target:/container/alias
	if target == "" || alias == "" || strings.ContainsAny(alias, ": \t\n") {
		return "", "", invalid("bad format for links: %s", text)
	}
	return target, alias, nil
}

// addLinks makes the links of a request, which name no network, those of the network of its mode.
func addLinks(h *container.HostConfig, all []wish) error {
	if len(h.Links) == 0 {
		return nil
	}
	if len(all) == 0 || !h.NetworkMode.IsUserDefined() {
		return notImplemented("links in network %s are not supported: put both containers on a network of your own, where each finds the other by its name", h.NetworkMode)
	}
	all[0].settings.Links = append(all[0].settings.Links, h.Links...)
	return nil
}

// checkLinks refuses links to what is not there.
func (s *Service) checkLinks(attached []attachment) error {
	for _, at := range attached {
		for _, text := range at.wish.settings.Links {
			target, _, err := parseLink(text)
			if err != nil {
				return err
			}
			if _, err := s.Get(target); err != nil {
				return invalid("could not get container for %s: %v", target, err)
			}
		}
	}
	return nil
}

// linked are the names that a container knows others by through links, with the addresses that those have in its networks. One that is
// gone, or in another network, has none there.
func (s *Service) linked(endpoints []record.Endpoint) (hosts []*tetherv1.HostEntry) {
	for _, own := range endpoints {
		for _, text := range own.Wish.Links {
			target, alias, err := parseLink(text)
			if err != nil {
				continue
			}
			other, err := s.Get(target)
			if err != nil {
				continue
			}
			for _, e := range other.Endpoints() {
				if e.NetworkID != own.NetworkID {
					continue
				}
				if e.IPv4.IsValid() {
					hosts = append(hosts, &tetherv1.HostEntry{Address: e.IPv4.Addr().String(), Names: []string{alias}})
				}
				if e.IPv6.IsValid() {
					hosts = append(hosts, &tetherv1.HostEntry{Address: e.IPv6.Addr().String(), Names: []string{alias}})
				}
			}
		}
	}
	return hosts
}
