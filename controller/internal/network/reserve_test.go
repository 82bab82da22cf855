package network

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"

	"github.com/containervm/containervm/controller/internal/record"
	"github.com/containervm/containervm/hostd-bridge/hostapi"
)

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }

// small is a network of both families in which six addresses of IPv4 can be chosen, and more be wished.
func small(t testing.TB, s *Service) Network {
	t.Helper()
	yes := true
	return create(t, s, network.CreateRequest{Name: "small", EnableIPv6: &yes, IPAM: &network.IPAM{Config: []network.IPAMConfig{
		{
			Subnet: prefix("10.9.0.0/27"), IPRange: prefix("10.9.0.8/29"), Gateway: addr("10.9.0.9"),
			AuxAddress: map[string]netip.Addr{"printer": addr("10.9.0.11")},
		},
		{Subnet: prefix("fd00:9::/64")},
	}}})
}

// TestAddressesAreUnique: whatever order machines come, go and fail in, no two have an address, a MAC address or a slot in common,
// nobody has one that is not for machines, and there is one for each as long as there are any.
func TestAddressesAreUnique(t *testing.T) {
	for seed := range uint64(50) {
		dice := rand.New(rand.NewPCG(seed, 0))
		h := newFakeHost()
		s := newService(t, h)
		n := small(t, s)
		type machine struct {
			at      record.Endpoint
			release func() // nil: its record names it
		}
		var there []machine
		for step := range 300 {
			switch what := dice.IntN(6); {
			case what < 3:
				w := Want{Network: "small"}
				if dice.IntN(3) == 0 {
					w.IPv4 = netip.AddrFrom4([4]byte{10, 9, 0, byte(dice.IntN(32))})
				}
				e, release, err := s.Reserve(nil, w)
				if err != nil {
					free := 0
					for a := range byte(8) {
						candidate := netip.AddrFrom4([4]byte{10, 9, 0, 8 + a})
						if n.IPv4.spare(candidate) && !slices.ContainsFunc(there, func(m machine) bool { return m.at.IPv4.Addr() == candidate }) {
							free++
						}
					}
					if !w.IPv4.IsValid() && free > 0 {
						t.Fatalf("seed %d, step %d: %d are free, and: %v", seed, step, free, err)
					}
					continue
				}
				there = append(there, machine{e[0], release})
			case len(there) == 0:
			case what == 3: // made
				i := dice.IntN(len(there))
				if m := &there[i]; m.release != nil {
					h.put(t, m.at.ID, []record.Endpoint{m.at})
					m.release()
					m.release = nil
				}
			default: // failed, or removed
				i := dice.IntN(len(there))
				if there[i].release != nil {
					there[i].release()
				} else {
					h.remove(there[i].at.ID)
				}
				there = slices.Delete(there, i, i+1)
			}
			seen := map[any]bool{}
			for _, m := range there {
				for _, key := range []any{m.at.IPv4, m.at.IPv6, m.at.MAC, m.at.ID} {
					if seen[key] {
						t.Fatalf("seed %d, step %d: %v is had twice", seed, step, key)
					}
					seen[key] = true
				}
				if !n.IPv4.spare(m.at.IPv4.Addr()) || !n.IPv6.spare(m.at.IPv6.Addr()) || m.at.IPv4.Bits() != 27 || m.at.IPv6.Bits() != 64 {
					t.Fatalf("seed %d, step %d: a machine has %v and %v", seed, step, m.at.IPv4, m.at.IPv6)
				}
				if mac, err := net.ParseMAC(m.at.MAC); err != nil || mac[0]&3 != 2 {
					t.Fatalf("seed %d: MAC address %s", seed, m.at.MAC)
				}
			}
		}
	}
}

// TestReserveAtOnce: those who reserve at once share nothing.
func TestReserveAtOnce(t *testing.T) {
	s := newService(t, newFakeHost())
	small(t, s)
	var work sync.WaitGroup
	got := make([][]record.Endpoint, 20)
	for i := range got {
		work.Go(func() { got[i], _, _ = s.Reserve(nil, Want{Network: "small"}) })
	}
	work.Wait()
	seen := map[netip.Prefix]bool{}
	for _, e := range got {
		if len(e) > 0 {
			if seen[e[0].IPv4] {
				t.Errorf("%v is had twice", e[0].IPv4)
			}
			seen[e[0].IPv4] = true
		}
	}
	if len(seen) != 6 {
		t.Errorf("%d have an address, want 6", len(seen))
	}
}

// TestExhausted has Docker's words, and leaves nothing reserved.
func TestExhausted(t *testing.T) {
	h := newFakeHost()
	s := newService(t, h)
	n := small(t, s)
	for range 6 {
		if _, _, err := s.Reserve(nil, Want{Network: "small"}); err != nil {
			t.Fatal(err)
		}
	}
	before := len(s.uses.reserved[fixedID("bridge")])
	_, _, err := s.Reserve(nil, Want{}, Want{Network: "small"})
	want := "no available IPv4 addresses on this network's address pools: small (" + n.ID + ")"
	if err == nil || err.Error() != want || errdefs.IsInvalidArgument(err) || errdefs.IsConflict(err) {
		t.Errorf("%v, want %s", err, want)
	}
	if len(s.uses.reserved[fixedID("bridge")]) != before {
		t.Error("a reservation that failed left one in another network")
	}
	e, _, err := s.Reserve(nil, Want{Network: "small", Wish: record.Wish{IPv4: addr("10.9.0.2")}})
	if err != nil || e[0].IPv4 != prefix("10.9.0.2/27") {
		t.Errorf("one outside of the range is wished: %v, %v", e, err)
	}
	if got := s.Status(n)[prefix("10.9.0.0/27")]; got.DynamicIPsAvailable != 0 || got.IPsInUse != 6+1+2+2 {
		t.Errorf("status: %+v", got)
	}
}

// TestWishes: what cannot be had is refused in Docker's words.
func TestWishes(t *testing.T) {
	h := newFakeHost()
	s := newService(t, h)
	small(t, s)
	taken := record.Wish{IPv4: addr("10.9.0.8"), MAC: "02:00:00:00:00:07"}
	e, _, err := s.Reserve(nil, Want{Network: "small", Wish: taken})
	if err != nil || e[0].MAC != taken.MAC {
		t.Fatal(e, err)
	}
	bridge, _, err := s.Reserve(nil, Want{})
	if err != nil {
		t.Fatal(err)
	}
	if b := bridge[0]; b.IPv4 != prefix("172.17.0.2/16") || b.MAC != "02:42:ac:11:00:02" || b.Gateway4 != addr("172.17.0.1") || b.Slot != 0 || b.PortGroup != hostapi.DefaultNetwork {
		t.Errorf("the first in the default network: %+v", b)
	}
	four := []record.Endpoint{{Slot: 0}, {Slot: 1}, {Slot: 2}, {Slot: 3}}
	for name, c := range map[string]struct {
		have  []record.Endpoint
		want  Want
		class func(error) bool
		text  string
	}{
		"taken":        {nil, Want{Network: "small", Wish: record.Wish{IPv4: addr("10.9.0.8")}}, errdefs.IsPermissionDenied, "Address already in use"},
		"gateway":      {nil, Want{Network: "small", Wish: record.Wish{IPv4: addr("10.9.0.9")}}, errdefs.IsPermissionDenied, "Address already in use"},
		"auxiliary":    {nil, Want{Network: "small", Wish: record.Wish{IPv4: addr("10.9.0.11")}}, errdefs.IsPermissionDenied, "Address already in use"},
		"broadcast":    {nil, Want{Network: "small", Wish: record.Wish{IPv4: addr("10.9.0.31")}}, errdefs.IsPermissionDenied, "Address already in use"},
		"outside":      {nil, Want{Network: "small", Wish: record.Wish{IPv4: addr("10.8.0.8")}}, errdefs.IsInvalidArgument, "invalid endpoint settings:\nno configured subnet contains IP address 10.8.0.8"},
		"outside of 6": {nil, Want{Network: "small", Wish: record.Wish{IPv6: addr("fd00:8::8")}}, errdefs.IsInvalidArgument, "invalid endpoint settings:\nno configured subnet contains IP address fd00:8::8"},
		"other family": {nil, Want{Network: "small", Wish: record.Wish{IPv4: addr("fd00:9::8")}}, errdefs.IsInvalidArgument, "invalid endpoint settings:\ninvalid IPv4 address: fd00:9::8"},
		"bridge": {nil, Want{Network: "", Wish: record.Wish{IPv4: addr("172.17.0.9"), Aliases: []string{"x"}}}, errdefs.IsInvalidArgument,
			"invalid endpoint settings:\n* user-specified IP address is supported on user-defined networks only\n* network-scoped aliases are only supported for user-defined networks"},
		"MAC taken":     {nil, Want{Network: "small", Wish: record.Wish{MAC: "02:00:00:00:00:07"}}, errdefs.IsPermissionDenied, "MAC address 02:00:00:00:00:07 already in use"},
		"MAC multicast": {nil, Want{Network: "small", Wish: record.Wish{MAC: "03:00:00:00:00:07"}}, errdefs.IsInvalidArgument, "invalid MAC address: 03:00:00:00:00:07 is no address of one card"},
		"no MAC":        {nil, Want{Network: "small", Wish: record.Wish{MAC: "xx"}}, errdefs.IsInvalidArgument, "invalid MAC address: xx"},
		"long MAC":      {nil, Want{Network: "small", Wish: record.Wish{MAC: "02:00:00:00:00:07:00:00"}}, errdefs.IsInvalidArgument, "invalid MAC address: 02:00:00:00:00:07:00:00"},
		"unknown":       {nil, Want{Network: "nope"}, errdefs.IsNotFound, "network nope not found"},
		"twice":         {e, Want{Network: "small"}, errdefs.IsPermissionDenied, "endpoint already exists in network small"},
		"none":          {nil, Want{Network: "none"}, errdefs.IsInvalidArgument, "container cannot be connected to multiple networks with one of the networks in private (none) mode"},
		"a fifth":       {four, Want{Network: "small"}, errdefs.IsInvalidArgument, "a container is in 4 networks at most: its machine has places for as many network cards; disconnect it from one first"},
	} {
		if _, _, err := s.Reserve(c.have, c.want); err == nil || err.Error() != c.text || !c.class(err) {
			t.Errorf("%s: %v, want %s", name, err, c.text)
		}
	}
	further, _, err := s.Reserve([]record.Endpoint{{Slot: 0}, {Slot: 2}}, Want{}, Want{Network: "small"})
	if err != nil || further[0].Slot != 1 || further[1].Slot != 3 {
		t.Errorf("slots: %+v, %v", further, err)
	}
}

// TestDerivedMACTaken: one that a rule makes is another when a client has wished it before.
func TestDerivedMACTaken(t *testing.T) {
	s := newService(t, newFakeHost())
	small(t, s)
	if _, _, err := s.Reserve(nil, Want{Network: "small", Wish: record.Wish{IPv4: addr("10.9.0.20"), MAC: "02:42:0a:09:00:08"}}); err != nil {
		t.Fatal(err)
	}
	e, _, err := s.Reserve(nil, Want{Network: "small"})
	if err != nil || e[0].IPv4.Addr() != addr("10.9.0.8") || e[0].MAC == "02:42:0a:09:00:08" || !strings.HasPrefix(e[0].MAC, "02:42:") {
		t.Errorf("%+v, %v", e, err)
	}
}

// TestMACOfAnotherNetwork: a host gives each card a MAC address of its own, whatever network it is in; a machine that was warm in one brings
// its own into another, where nobody else may have it.
func TestMACOfAnotherNetwork(t *testing.T) {
	h := newFakeHost()
	s := newService(t, h)
	small(t, s)
	warm, release, err := s.Reserve(nil, Want{})
	if err != nil {
		t.Fatal(err)
	}
	ref := h.put(t, "warm", warm)
	release()
	moved, release, err := s.Reserve(nil, Want{Network: "small", CardMAC: warm[0].MAC})
	if err != nil || moved[0].MAC != warm[0].MAC {
		t.Fatal(moved, err)
	}
	delete(h.vms, ref)
	for range 2 { // while it is reserved, and when a record has it
		next, done, err := s.Reserve(nil, Want{})
		if err != nil || next[0].IPv4 != warm[0].IPv4 || next[0].MAC == warm[0].MAC {
			t.Errorf("%+v, %v", next, err)
		}
		done()
		h.put(t, "moved", moved)
		release()
	}
	wish := Want{Wish: record.Wish{MAC: warm[0].MAC}}
	if _, _, err := s.Reserve(nil, wish); !errdefs.IsPermissionDenied(err) {
		t.Errorf("a MAC address that a card in another network has was given: %v", err)
	}
}

// TestDamagedRecord: a VM whose record cannot be read stops nobody.
func TestDamagedRecord(t *testing.T) {
	h := newFakeHost()
	s := newService(t, h)
	ref := h.put(t, "odd", nil)
	h.vms[ref].Extra[record.KeyNetworks] = "{"
	if _, _, err := s.Reserve(nil, Want{}); err != nil {
		t.Error(err)
	}
}

// TestEndpointsTold: what the host, the tether and Docker's clients are told of a container in three networks.
func TestEndpointsTold(t *testing.T) {
	h := newFakeHost()
	s := newService(t, h)
	small(t, s)
	create(t, s, network.CreateRequest{Name: "inner", Internal: true})
	all, _, err := s.Reserve(nil, Want{}, Want{Network: "small", Wish: record.Wish{Aliases: []string{"db", "WEB"}, IPv4: addr("10.9.0.8"), GwPriority: 1}}, Want{Network: "inner"})
	if err != nil {
		t.Fatal(err)
	}
	who := Who{ID: strings.Repeat("ab", 32), Name: "web", Hostname: "abababababab"}
	n := hostapi.Net{Endpoints: HostEndpoints(who, all)}
	if _, err := n.Encode(); err != nil {
		t.Error(err)
	}
	if got := n.Endpoints[1]; got.Network != "cvm-small" || !slices.Equal(got.Names, []string{"web", "db", "abababababab"}) || len(got.Addresses) != 2 {
		t.Errorf("told the host: %+v", got)
	}
	var told []string
	for _, i := range Interfaces(all) {
		told = append(told, fmt.Sprint(i.Slot, i.Mac, i.Addresses, i.Gateway, i.Gateway6))
	}
	want := []string{
		"1 02:42:ac:11:00:02 [172.17.0.2/16]  ",
		"2 02:42:0a:09:00:08 [10.9.0.8/27 fd00:9::2/64] 10.9.0.9 fd00:9::1",
		"3 02:42:ac:12:00:02 [172.18.0.2/16]  ",
	}
	for i, w := range want {
		if strings.ReplaceAll(told[i], " ", "") != strings.ReplaceAll(w, " ", "") {
			t.Errorf("told the tether: %q, want %q", told[i], w)
		}
	}
	if got := s.Nameservers(all); !slices.Equal(got, []netip.Addr{addr("10.9.0.9"), addr("172.17.0.1"), addr("172.18.0.1")}) {
		t.Errorf("name servers: %v", got)
	}
	d := Docker(who, &all[1])
	if d.IPAddress != addr("10.9.0.8") || d.IPPrefixLen != 27 || d.Gateway != addr("10.9.0.9") || d.GlobalIPv6PrefixLen != 64 ||
		d.MacAddress.String() != "02:42:0a:09:00:08" || d.IPAMConfig.IPv4Address != addr("10.9.0.8") || d.DNSNames[0] != "web" || d.GwPriority != 1 {
		t.Errorf("shown: %+v", d)
	}
	if d := Docker(who, &all[2]); d.Gateway.IsValid() || d.IPAMConfig != nil {
		t.Errorf("shown of an internal one: %+v", d)
	}
	if cards := Cards(all); cards[2].Slot != 2 || cards[2].Network != "cvm-inner" || cards[2].MAC != "02:42:ac:12:00:02" {
		t.Errorf("cards: %+v", cards)
	}
	if w := s.Warnings(all); len(w) != 0 {
		t.Errorf("warnings: %q", w)
	}
	h.plain = true
	if w := s.Warnings(all); len(w) != 1 || len(s.Nameservers(all)) != 0 {
		t.Errorf("on a host without switches: %q, %v", w, s.Nameservers(all))
	}
}
