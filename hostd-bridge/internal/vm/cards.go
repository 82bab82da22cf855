package vm

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
)

// Card is a network card.
type Card struct {
	NIC
	Key     int32  `json:"key"`               // in vSphere's device list: hostapi.FirstCardKey + its slot
	Network string `json:"network,omitempty"` // moref value
}

// Slot is which of a machine's cards the card is, 0 to hostapi.MaxCards-1.
func (c *Card) Slot() int { return int(c.Key - hostapi.FirstCardKey) }

// CardEdit is a change of a network card; a field's zero value leaves what it names as it is.
type CardEdit struct {
	MAC       string // needs the VM off, but for a clone's
	Network   string // moref value
	Connected *bool
}

// CardChanges are changes of a VM's network cards: first some are removed, then edited, then added.
type CardChanges struct {
	Remove []int32            // keys
	Edit   map[int32]CardEdit // by key
	Add    []Card             // each takes the slot of its key if that is a free one's, else the first free one
}

// Any says whether there are any.
func (c *CardChanges) Any() bool { return len(c.Remove)+len(c.Edit)+len(c.Add) > 0 }

// address says whether a card gets another MAC.
func (c *CardChanges) address() bool {
	for _, edit := range c.Edit {
		if edit.MAC != "" {
			return true
		}
	}
	return false
}

// Applied returns the cards as they are after the changes, by their slots.
func (c *CardChanges) Applied(cards []Card) ([]Card, error) {
	cards = slices.Clone(cards)
	at := func(key int32) (int, error) {
		n := slices.IndexFunc(cards, func(card Card) bool { return card.Key == key })
		if n < 0 {
			return n, &DeviceError{Why: fmt.Sprintf("no network card has the key %d", key)}
		}
		return n, nil
	}
	for _, key := range c.Remove {
		n, err := at(key)
		if err != nil {
			return nil, err
		}
		cards = slices.Delete(cards, n, n+1)
	}
	for key, edit := range c.Edit {
		n, err := at(key)
		if err != nil {
			return nil, err
		}
		edit.apply(&cards[n])
	}
	cards = append(cards, c.Add...)
	if err := placeSlots(cards, len(cards)-len(c.Add)); err != nil {
		return nil, err
	}
	return cards, nil
}

func (e CardEdit) apply(card *Card) {
	card.MAC, card.Network = cmp.Or(e.MAC, card.MAC), cmp.Or(e.Network, card.Network)
	if e.Connected != nil {
		card.Connected = *e.Connected
	}
}

// placeSlots gives a slot to each card from new on; keys that are no slot's are a client's own way to tell cards apart. It sorts
// the cards by their slots.
func placeSlots(cards []Card, new int) error {
	if len(cards) > hostapi.MaxCards {
		return &DeviceError{Why: fmt.Sprintf("%d network cards: a VM has %d at most", len(cards), hostapi.MaxCards)}
	}
	taken := map[int32]bool{}
	isSlot := func(key int32) bool {
		return key >= hostapi.FirstCardKey && key < hostapi.FirstCardKey+hostapi.MaxCards
	}
	for n := range cards {
		if key := &cards[n].Key; n >= new && (!isSlot(*key) || taken[*key]) {
			*key = 0
		}
		taken[cards[n].Key] = true
	}
	for n := range cards {
		for key := int32(hostapi.FirstCardKey); cards[n].Key == 0; key++ {
			if !taken[key] {
				cards[n].Key, taken[key] = key, true
			}
		}
	}
	slices.SortFunc(cards, func(a, b Card) int { return cmp.Compare(a.Key, b.Key) })
	return nil
}

// In says whether the VM has a card in the network with the moref value ref.
func (c *Config) In(ref string) bool {
	return slices.ContainsFunc(c.NICs, func(card Card) bool { return card.Network == ref })
}

// Slots returns the cards of the VM's machine by their slots, up to the last one that is used. switchOf returns the path of the socket
// of a network's switch.
func (c *Config) Slots(switchOf func(network string) string) []NIC {
	var slots []NIC
	for _, card := range c.NICs {
		for len(slots) <= card.Slot() {
			slots = append(slots, NIC{})
		}
		nic := card.NIC
		if nic.Connected {
			nic.Frames = switchOf(card.Network)
		}
		slots[card.Slot()] = nic
	}
	return slots
}

// completeCards gives each card of a new VM a network and a slot.
func (c *Config) completeCards() error {
	c.NICs = slices.Clone(c.NICs)
	for n := range c.NICs {
		c.NICs[n].Network = cmp.Or(c.NICs[n].Network, DefaultNetwork)
	}
	return placeSlots(c.NICs, 0)
}

// Mend makes of cards that an older daemon recorded what they are now: all were in the one network that there was.
func (c *Config) Mend() {
	if c.completeCards() != nil { // it has too many, which its machine has too
		for n := range c.NICs {
			c.NICs[n].Key = hostapi.FirstCardKey + int32(n)
		}
	}
}
