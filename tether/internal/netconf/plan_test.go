package netconf

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// fourCards are as the kernel has them at a boot: up to the given number, they are in use as a template leaves them.
func fourCards(ready int) state {
	var s state
	for i := range 4 {
		c := card{slot: i, device: fmt.Sprintf("virtio%d", i), mac: fmt.Sprintf("52:54:00:00:00:0%d", i), index: i + 2, name: fmt.Sprintf("eth%d", i), mtu: 1500}
		if i < ready {
			c.up, c.ipv6 = true, ipv6Off
		}
		s.cards = append(s.cards, c)
	}
	return s
}

// planned is the plan for what is wanted, one step a line, and what the cards are then.
func planned(s state, wanted []*tetherv1.Interface, keep bool) (string, state, error) {
	decoded, err := decode(wanted)
	if err != nil {
		return "", s, err
	}
	slots, err := choose(decoded, s.cards)
	if err != nil {
		return "", s, err
	}
	steps, then := plan(s, decoded, slots, names(decoded, slots, s.cards, keep))
	var lines []string
	for _, s := range steps {
		lines = append(lines, s.String())
	}
	return strings.Join(lines, "\n"), then, nil
}

func TestPlan(t *testing.T) {
	running := fourCards(1)
	running.cards[0].addresses = []netip.Prefix{netip.MustParsePrefix("172.17.0.2/16")}
	running.gw[0] = gateway{2, netip.MustParseAddr("172.17.0.1")}
	six := fourCards(0)
	six.cards[0].up, six.cards[0].ipv6 = true, ipv6On
	six.cards[0].addresses = []netip.Prefix{netip.MustParsePrefix("fd00::2/64")}
	six.gw[1] = gateway{2, netip.MustParseAddr("fd00::1")}
	for _, test := range []struct {
		name   string
		from   state
		wanted []*tetherv1.Interface
		keep   bool
		plan   string
	}{
		{"nothing", fourCards(0), nil, false, ""},
		{"a boot, IPv4", fourCards(0), []*tetherv1.Interface{{Addresses: []string{"10.0.2.15/24"}, Gateway: "10.0.2.2"}}, false,
			"link 2: no IPv6 on eth0\nlink 2: address 10.0.2.15/24\nlink 2: up\nlink 2: default route by 10.0.2.2"},
		{"by MAC, renamed, both families", fourCards(0), []*tetherv1.Interface{{
			Mac: "52:54:00:00:00:01", Name: "net0", Mtu: 1400, Addresses: []string{"10.1.0.2/16", "fd00::2/64", "fd00::3/64"},
		}}, false, "link 3: name net0\nlink 3: mtu 1400\nlink 3: IPv6 on net0\n" +
			"link 3: address 10.1.0.2/16\nlink 3: address fd00::2/64\nlink 3: address fd00::3/64\nlink 3: up"},
		{"a template's child", fourCards(1), []*tetherv1.Interface{{
			Slot: 1, Mac: "02:42:ac:11:00:02", Addresses: []string{"172.17.0.2/16"}, Gateway: "172.17.0.1",
		}}, false, "link 2: MAC address 02:42:ac:11:00:02\nlink 2: address 172.17.0.2/16\nlink 2: default route by 172.17.0.1"},
		{"a fork of a running container", running, []*tetherv1.Interface{{
			Slot: 1, Mac: "02:42:ac:11:00:03", Addresses: []string{"172.17.0.3/16"}, Gateway: "172.17.0.1",
		}}, true, "link 2: MAC address 02:42:ac:11:00:03\nlink 2: no address 172.17.0.2/16\nlink 2: address 172.17.0.3/16\n" +
			"link 2: default route by 172.17.0.1"},
		{"two networks: the first has the default route", fourCards(0), []*tetherv1.Interface{
			{Slot: 1, Addresses: []string{"10.1.0.2/16", "fd01::2/64"}, Gateway: "10.1.0.1"},
			{Slot: 2, Addresses: []string{"10.2.0.2/16", "fd02::2/64"}, Gateway: "10.2.0.1", Gateway6: "fd02::1"},
		}, false, "link 2: IPv6 on eth0\nlink 2: address 10.1.0.2/16\nlink 2: address fd01::2/64\nlink 2: up\n" +
			"link 3: IPv6 on eth1\nlink 3: address 10.2.0.2/16\nlink 3: address fd02::2/64\nlink 3: up\n" +
			"link 2: default route by 10.1.0.1\nlink 3: default route by fd02::1"},
		{"names by order, those of others are in the way", fourCards(0), []*tetherv1.Interface{{Slot: 2}, {Slot: 1}}, false,
			"link 2: name cvm0\nlink 3: name eth0\nlink 2: name eth1\nlink 3: no IPv6 on eth0\nlink 3: up\nlink 2: no IPv6 on eth1\nlink 2: up"},
		{"connected: who runs keeps its name", fourCards(1), []*tetherv1.Interface{{Slot: 2}, {Slot: 1}}, true,
			"link 3: no IPv6 on eth1\nlink 3: up"},
		{"a gateway without an address is none", fourCards(1), []*tetherv1.Interface{{Slot: 1, Gateway: "172.17.0.1"}}, false, ""},
		{"the default route goes", running, []*tetherv1.Interface{{Slot: 1, Addresses: []string{"172.17.0.2/16"}}}, true,
			"link 2: no default route by 172.17.0.1"},
		{"the default route moves", running, []*tetherv1.Interface{
			{Slot: 2, Addresses: []string{"10.1.0.2/16"}, Gateway: "10.1.0.1"}, {Slot: 1, Addresses: []string{"172.17.0.2/16"}, Gateway: "172.17.0.1"},
		}, true, "link 3: no IPv6 on eth1\nlink 3: address 10.1.0.2/16\nlink 3: up\n" +
			"link 2: no default route by 172.17.0.1\nlink 3: default route by 10.1.0.1"},
		{"a rename while it is up takes IPv6 and routes along", six, []*tetherv1.Interface{
			{Slot: 1, Name: "lan", Addresses: []string{"fd00::2/64"}, Gateway6: "fd00::1"},
		}, false, "link 2: down\nlink 2: name lan\nlink 2: address fd00::2/64\nlink 2: up\nlink 2: default route by fd00::1"},
		{"a MAC address that no card has is given to the n-th", fourCards(1), []*tetherv1.Interface{{Mac: "02:42:ac:11:00:09"}}, false,
			"link 2: MAC address 02:42:ac:11:00:09"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, then, err := planned(test.from, test.wanted, test.keep)
			if err != nil {
				t.Fatal(err)
			}
			if got != test.plan {
				t.Errorf("plan\n%s\nwant\n%s", got, test.plan)
			}
			if again, _, err := planned(then, test.wanted, test.keep); again != "" || err != nil {
				t.Errorf("once more: %q, %v", again, err)
			}
		})
	}
}

func TestPlanRefuses(t *testing.T) {
	one := state{cards: fourCards(0).cards[:1]}
	for text, wanted := range map[string][]*tetherv1.Interface{
		"malformed MAC":          {{Mac: "x"}},
		"the machine has 1":      {{}, {}},
		"network card 3":         {{Slot: 4}},
		"another one's":          {{Slot: 1}, {Slot: 1}},
		"malformed address":      {{Addresses: []string{"10.0.2.15"}}},
		"malformed gateway":      {{Gateway: "router"}},
		"malformed name":         {{Name: "../eth0"}},
		"has the name x":         {{Name: "x"}, {Name: "x"}},
		"MTU":                    {{Mtu: 70000}},
		"\"::ffff:1.2.3.4/120\"": {{Addresses: []string{"::ffff:1.2.3.4/120"}}},
	} {
		if _, _, err := planned(one, wanted, false); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%v: %v, want %q", wanted, err, text)
		}
	}
}

// FuzzPlan: whatever is asked for, before and after, the plan leads there, and no name is in use twice on the way.
func FuzzPlan(f *testing.F) {
	f.Add(uint8(1), uint8(0), uint8(2), uint8(1), "10.0.0.2/8", "fd00::2/64", "10.0.0.1", "eth1", true)
	f.Add(uint8(2), uint8(1), uint8(1), uint8(2), "10.0.0.2/8", "10.0.0.3/8", "fd00::1", "", false)
	f.Fuzz(func(t *testing.T, slot1, slot2, slot3, slot4 uint8, a1, a2, gw, name string, keep bool) {
		before := []*tetherv1.Interface{{Slot: uint32(slot1 % 5), Addresses: []string{a1}, Gateway: gw, Name: name}, {Slot: uint32(slot2 % 5)}}
		after := []*tetherv1.Interface{{Slot: uint32(slot3 % 5), Addresses: []string{a2, a1}}, {Slot: uint32(slot4 % 5), Name: name, Gateway6: gw}}
		_, s, err := planned(fourCards(0), before, false)
		if err != nil {
			return
		}
		decoded, err := decode(after)
		if err != nil {
			return
		}
		slots, err := choose(decoded, s.cards)
		if err != nil {
			return
		}
		chosen := names(decoded, slots, s.cards, keep)
		steps, then := plan(s, decoded, slots, chosen)
		used := map[int]string{}
		for _, slot := range slots {
			used[s.cards[slot].index] = s.cards[slot].name
		}
		for _, step := range steps {
			if step.do != rename {
				continue
			}
			for index, name := range used {
				if index != step.link && name == step.name {
					t.Fatalf("%v: the name is taken: %v", step, steps)
				}
			}
			used[step.link] = step.name
		}
		for n, slot := range slots {
			c := then.cards[slot]
			if c.name != chosen[n] || used[c.index] != chosen[n] || !c.up || len(c.addresses) != len(decoded[n].addresses) {
				t.Fatalf("%+v is not %+v", c, decoded[n])
			}
			for _, a := range decoded[n].addresses {
				if !slices.Contains(c.addresses, a) {
					t.Fatalf("%+v has not %v", c, a)
				}
			}
		}
	})
}
