package vsphere_test

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/hostd-bridge/hostapi"
)

// vcenter is the simulator of a vCenter, whose machines may be in a standard or in a distributed network.
func vcenter(t *testing.T, network string) vsphere.Config {
	cfg := simulate(t, "vCenter")
	cfg.Network = network
	return cfg
}

// TestSimulatorNetworks: port groups and cards in the words of vSpheres that no one here wrote: an ESXi host, and a vCenter with a
// standard and with a distributed switch.
func TestSimulatorNetworks(t *testing.T) {
	for name, cfg := range map[string]vsphere.Config{
		"host": simulate(t, "host"), "vCenter": vcenter(t, ""), "distributed": vcenter(t, "DC0_DVPG0"),
	} {
		t.Run(name, func(t *testing.T) {
			c := connect(t, cfg)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			must := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			want := hostapi.DefaultNetwork
			if name == "distributed" {
				want = "DC0_DVPG0"
			}
			if c.DefaultNetwork() != want {
				t.Errorf("the default network is %s, want %s", c.DefaultNetwork(), want)
			}
			must(c.AddPortGroup(ctx, "cvm-a"))
			if err := c.AddPortGroup(ctx, "cvm-a"); !errdefs.IsAlreadyExists(err) {
				t.Errorf("made twice: %v", err)
			}
			must(c.AddPortGroup(ctx, "cvm-b"))
			groups, err := c.PortGroups(ctx)
			if err != nil || !slices.Contains(groups, "cvm-a") || !slices.Contains(groups, "cvm-b") || !slices.Contains(groups, want) {
				t.Errorf("port groups %v, %v", groups, err)
			}
			boot := c.Boot()
			ref, err := c.CreateVM(ctx, vsphere.VMSpec{
				Name: "one", UUID: "01234567-89ab-4def-8123-456789abcdef", CPUs: 1, MemoryMiB: 64, Kernel: boot.Kernel, Initrd: boot.Initrd,
				Cards: []vsphere.Card{{MAC: "02:42:ac:11:00:02"}, {Slot: 1, Network: "cvm-a", MAC: "02:42:ac:12:00:02", Unplugged: true}},
			})
			must(err)
			cards := func() []string { return cardsOf(t, cfg, ref) }
			if got := cards(); !slices.Equal(got, []string{"4000 02:42:ac:11:00:02 true", "4001 02:42:ac:12:00:02 false"}) {
				t.Errorf("made with %q", got)
			}
			from := []vsphere.Card{{MAC: "02:42:ac:11:00:02"}, {Slot: 1, Network: "cvm-a", MAC: "02:42:ac:12:00:02", Unplugged: true}}
			to := []vsphere.Card{{Network: "cvm-b", MAC: "02:42:ac:13:00:02"}, {Slot: 2, Network: "cvm-a", MAC: "02:42:ac:12:00:03"}}
			must(c.Change(ctx, ref, vsphere.Change{Cards: vsphere.CardChange{From: from, To: to}, Extra: map[string]string{"cvm.networks": "x"}}))
			if got := cards(); !slices.Equal(got, []string{"4000 02:42:ac:13:00:02 true", "4002 02:42:ac:12:00:03 true"}) {
				t.Errorf("changed to %q", got)
			}
			if vm, _ := c.Get("one"); vm.Extra["cvm.networks"] != "x" {
				t.Errorf("the key that came with the cards: %v", vm.Extra)
			}
			must(c.Change(ctx, ref, vsphere.Change{Cards: vsphere.CardChange{From: to}}))
			if got := cards(); len(got) > 0 {
				t.Errorf("left: %q", got)
			}
			if name == "distributed" { // the simulator ends itself over one in a standard network that is not there
				err := c.Change(ctx, ref, vsphere.Change{Cards: vsphere.CardChange{To: []vsphere.Card{{Network: "nope"}}}})
				if err == nil || !strings.Contains(err.Error(), `cannot find network "nope"`) {
					t.Errorf("a card in a network that is not there: %v", err)
				}
			}
			for range 2 {
				must(c.RemovePortGroup(ctx, "cvm-a"))
			}
			must(c.RemovePortGroup(ctx, "cvm-b"))
			if groups, err := c.PortGroups(ctx); err != nil || slices.Contains(groups, "cvm-a") || slices.Contains(groups, "cvm-b") {
				t.Errorf("port groups %v are left, %v", groups, err)
			}
			if all, err := c.HostNetworks(ctx); err != nil || len(all.Networks) > 0 {
				t.Errorf("it has switches: %v, %v", all, err)
			}
		})
	}
}

// cardsOf are a VM's cards: key, MAC address, and whether it is plugged in when the VM is powered on.
func cardsOf(t *testing.T, cfg vsphere.Config, ref vsphere.Ref) (cards []string) {
	t.Helper()
	devices, err := object.NewVirtualMachine(simulated(t, cfg), ref).Device(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range devices.SelectByType((*types.VirtualEthernetCard)(nil)) {
		nic := d.(types.BaseVirtualEthernetCard).GetVirtualEthernetCard()
		plugged := "false"
		if nic.Connectable.StartConnected {
			plugged = "true"
		}
		cards = append(cards, strings.Join([]string{strconv.Itoa(int(nic.Key)), nic.MacAddress, plugged}, " "))
	}
	slices.Sort(cards)
	return cards
}

// TestSimulatorNamesNetwork: a network that is asked for must be there; of several, one is asked for.
func TestSimulatorNamesNetwork(t *testing.T) {
	cfg := simulate(t, "host")
	cfg.Network = "nope"
	if _, err := vsphere.Connect(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "cannot find its network") {
		t.Error(err)
	}
}
