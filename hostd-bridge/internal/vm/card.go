package vm

import (
	"crypto/rand"
	"fmt"
	"net"
	"slices"
)

// firstNICKey is the device key of the first network card, as on ESXi.
const firstNICKey = 4000

// placeNICs gives every card a key and a MAC of its own; the caller holds mu.
func (i *Inventory) placeNICs(v *VM) error {
	for n := range v.NICs {
		card := &v.NICs[n]
		if card.Key <= 0 {
			card.Key = firstNICKey
			for slices.ContainsFunc(v.NICs, func(c Card) bool { return c != *card && c.Key == card.Key }) {
				card.Key++
			}
		}
		if err := i.placeMAC(v, n); err != nil {
			return err
		}
	}
	return nil
}

func (i *Inventory) placeMAC(v *VM, n int) error {
	taken := func(mac string) bool {
		has := func(v *VM, except int) bool {
			for at, c := range v.NICs {
				if at != except && c.MAC == mac {
					return true
				}
			}
			return false
		}
		return has(v, n) || i.any(func(other *VM) bool { return other.Ref != v.Ref && has(other, -1) })
	}
	card := &v.NICs[n]
	if card.MAC != "" {
		hw, err := net.ParseMAC(card.MAC)
		if err != nil || len(hw) != 6 || hw[0]&1 != 0 {
			return &DeviceError{Why: fmt.Sprintf("MAC address %q is no unicast Ethernet address", card.MAC)}
		}
		if card.MAC = hw.String(); taken(card.MAC) {
			return &DeviceError{Why: "MAC address " + card.MAC + " is taken"}
		}
		return nil
	}
	for card.MAC == "" || taken(card.MAC) {
		card.MAC = randomMAC()
	}
	return nil
}

// randomMAC returns an address of the range that vCenter gives out: VMware's OUI 00:50:56, fourth byte 80 to bf.
func randomMAC() string {
	var b [3]byte
	rand.Read(b[:])
	return net.HardwareAddr{0x00, 0x50, 0x56, 0x80 | b[0]&0x3f, b[1], b[2]}.String()
}
