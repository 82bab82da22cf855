package qemu

import (
	"fmt"
	"strings"
	"testing"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/frames/framestest"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
	"github.com/containervm/containervm/tether/link"
)

// nicOf is the n-th machine's card in a network.
func nicOf(n int, hub *framestest.Hub) vm.NIC {
	return vm.NIC{MAC: macOf(n).String(), Connected: true, Frames: hub.Socket}
}

// heardText waits until a card has sent a frame with a text. The text begins behind the frame's header.
func heardText(hub *framestest.Hub, mac, text string) {
	hub.Await(text+" comes from "+mac, func() bool { return strings.Contains(texts(hub, mac), text) })
}

func texts(hub *framestest.Hub, mac string) (all string) {
	for _, f := range hub.Heard(mac) {
		all += string(f[14:]) + "\n"
	}
	return all
}

// TestCards: of either machine type the guest's cards are in the order of their slots, spare ones have no carrier, and a card can be
// changed while the machine runs.
func TestCards(t *testing.T) {
	for _, machine := range []string{hostapi.MachineMicroVM, hostapi.MachineQ35} {
		t.Run(machine, func(t *testing.T) {
			one, other := framestest.New(t), framestest.New(t)
			g := startGuest(t, func(s *vm.MachineSpec) {
				s.Machine = machine
				s.NICs = []vm.NIC{nicOf(1, one), {}, {MAC: macOf(2).String()}}
			})
			ask := g.asker()
			wantAnswer(t, ask("cards"), fmt.Sprintf("eth0 %v 1,eth1 %s 0,eth2 %v 0,eth3 %s 0", macOf(1), placeholderMAC(1), macOf(2), placeholderMAC(3)))
			one.AwaitCard(macOf(1).String())
			ask("send eth0 first")
			heardText(one, macOf(1).String(), "first")
			must(t, g.SetNIC(t.Context(), 3, nicOf(3, other)))
			wantAnswer(t, ask("carrier eth3 1"), "ok")
			g.meets(other, 3, "eth3")
			g.readopt()
			must(t, g.SetNIC(t.Context(), 0, nicOf(1, other))) // to another network, with a link all the time
			one.AwaitNone()
			g.meets(other, 1, "eth0")
			one.Stop() // nobody is there
			must(t, g.SetNIC(t.Context(), 0, nicOf(1, one)))
			must(t, g.SetNIC(t.Context(), 3, vm.NIC{}))
			wantAnswer(t, ask("carrier eth3 0"), "ok")
			other.AwaitNone()
			one.Start()
			g.meets(one, 1, "eth0")
			for slot, nic := range map[int]vm.NIC{-1: nicOf(1, one), 4: nicOf(1, one), 1: {Connected: true, MAC: "none"}, 2: {Connected: true}} {
				if err := g.SetNIC(t.Context(), slot, nic); err == nil {
					t.Errorf("slot %d became %+v", slot, nic)
				}
			}
		})
	}
}

// meets has the guest's card, the n-th, hear and be heard in a network.
func (g *guest) meets(hub *framestest.Hub, n int, card string) {
	g.t.Helper()
	hub.AwaitCard(macOf(n).String())
	hear, say := g.asker(), g.asker()
	heard := make(chan string, 1)
	go func() { heard <- hear("hear %s welcome", card) }()
	for seen := ""; seen == ""; { // the card may not know yet that it has joined, nor the guest listen
		say("send %s here", card)
		hub.Send(append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 0x77, 0x88, 0xb5}, "welcome"...))
		select {
		case seen = <-heard:
		default:
		}
	}
	heardText(hub, macOf(n).String(), "here")
}

// TestTwoMachinesMeet passes frames between two machines, both ways.
func TestTwoMachinesMeet(t *testing.T) {
	hub := framestest.New(t)
	g := frozenGuest(t)
	tpl := g.template()
	var ask []func(string, ...any) string
	for n := 1; n <= 2; n++ {
		c := g.child(tpl, n, func(s *vm.MachineSpec) { s.NICs = []vm.NIC{nicOf(n, hub)} })
		c.awaitKey(link.KeyPhase)
		c.receipt()
		ask = append(ask, c.asker())
		ask[n-1]("cards")
		hub.AwaitCard(macOf(n).String())
	}
	for n := range ask {
		heard := make(chan string, 1)
		go func() { heard <- ask[1-n]("hear eth0 from%d", n) }()
		for seen := ""; seen == ""; {
			ask[n]("send eth0 from%d", n)
			select {
			case seen = <-heard:
			default:
			}
		}
	}
}

// receipt has the guest hand in a receipt without a failure.
func (g *guest) receipt() {
	g.t.Helper()
	if got := g.asker()("receipt"); got != "" {
		g.t.Errorf("the host answers the receipt with %q", got)
	}
}

// TestNoFrameBeforeReceipt: neither a template's child nor a copy of a running machine passes a frame until its receipt, whatever the
// guest sends; the machine that was copied goes on in its network.
func TestNoFrameBeforeReceipt(t *testing.T) {
	hub := framestest.New(t)
	g := frozenGuest(t)
	source := g.child(g.template(), 1, func(s *vm.MachineSpec) { s.NICs = []vm.NIC{nicOf(1, hub)} })
	source.awaitKey("guestinfo.settled")
	check := func(c *guest, n int) {
		t.Helper()
		hub.AwaitCard(macOf(n).String())
		ask := c.asker()
		ask("cards")
		for range 100 {
			wantAnswer(t, ask("send eth0 early"), "ok")
		}
		must(t, c.SetNIC(t.Context(), 1, nicOf(10+n, hub))) // nor on a card that comes before it
		hub.AwaitCard(macOf(10 + n).String())
		wantAnswer(t, ask("carrier eth1 1"), "ok")
		wantAnswer(t, ask("send eth1 early"), "ok")
		c.receipt()
		for range 3 {
			c.meets(hub, n, "eth0")
			c.meets(hub, 10+n, "eth1")
		}
		if sent := texts(hub, macOf(n).String()) + texts(hub, macOf(10+n).String()); strings.Contains(sent, "early") {
			t.Errorf("frames of before the receipt: %q", sent)
		}
	}
	check(source, 1)
	point, err := source.Snapshot(t.Context(), vm.NewDisks{})
	must(t, err)
	defer point.Close()
	c := source.child(point, 2, func(s *vm.MachineSpec) { s.NICs = []vm.NIC{nicOf(2, hub), {}} })
	source.meets(hub, 1, "eth0")
	check(c, 2)
}
