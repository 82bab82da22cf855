package container

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// Kinds of a machine's start.
const (
	kindFork = "fork"
	kindBoot = "boot"
)

// startNote says how the controller brought the machine of the present or last run up: the value of cvm.start.
type startNote struct {
	Why   string `json:"why,omitempty"` // it was booted, or not forked in the usual way
	Marks []Mark `json:"marks,omitempty"`
}

// Mark is a point of a start-up timeline.
type Mark struct {
	Name     string `json:"name"`
	UnixNano int64  `json:"unixNano"`
}

func mark(name string, at time.Time) Mark { return Mark{Name: name, UnixNano: at.UnixNano()} }

// ReceiptItem is one thing that a fork did to become someone else.
type ReceiptItem struct {
	Name    string `json:"name"`
	Outcome string `json:"outcome"`
	Micros  uint32 `json:"micros"`
	Detail  string `json:"detail"`
}

// ForkInfo says how a container's machine came up: the key Fork of an inspection.
type ForkInfo struct {
	Kind       string
	Why        string
	Template   string
	Generation uint32
	Index      uint32
	Receipt    []ReceiptItem
	Timeline   []Mark
}

// parseFork reads what the VM says of a fork. What a guest writes may be nonsense, which counts as nothing.
func (c *Container) parseFork() {
	extra := c.VM.Extra
	if f, err := link.DecodeFork(extra[link.KeyFork]); err == nil && extra[link.KeyFork] != "" {
		c.fork = f
	}
	if r, err := link.DecodeReceipt(extra[link.KeyReceipt]); err == nil && extra[link.KeyReceipt] != "" {
		c.receipt = r
	}
	c.gate = extra[link.KeyGate] == link.GateOpen
	_ = json.Unmarshal([]byte(extra[keyStart]), &c.start) // its absence changes nothing but what an inspection shows
}

// shut reports whether the machine was made as a fork whose process was never let go.
func (c *Container) shut() bool { return c.fork != nil && !c.gate }

// parked reports whether the machine is on but waits at its gate: the container is not started.
func (c *Container) parked() bool {
	return c.VM.PowerState == vsphere.PoweredOn && c.shut() && !c.ran()
}

// forked reports whether the machine of the present or last run is a fork, and not one that was booted from its disk since.
func (c *Container) forked() bool {
	return c.fork != nil && (c.receipt != nil || !c.ran())
}

// forkFailed reports whether the machine ended because it could not become someone else.
func (c *Container) forkFailed() bool {
	return c.Status.GetState() == tetherv1.State_FAILED && c.Status.GetFailure().GetReason() == tetherv1.Failure_FORK
}

// failure says why the process never ran; of a fork that failed, which item of its receipt.
func (c *Container) failure() string {
	text := failureText(c.Status.GetFailure(), c.args())
	if item := link.Failed(c.receipt); c.forkFailed() && item != nil {
		return withoutPhrases(fmt.Sprintf("the fork could not become this container: %s: %s", item.Name, cmp.Or(item.Detail, text)))
	}
	return text
}

// Fork says how the machine of the present or last run came up.
func (s *Service) Fork(c Container) ForkInfo {
	info := ForkInfo{Kind: kindBoot, Why: c.start.Why, Receipt: []ReceiptItem{}, Timeline: s.timeline(c)}
	if !c.forked() {
		if c.fork != nil && info.Why == "" {
			info.Why = whyOff // powered on by someone else
		}
		return info
	}
	info.Kind, info.Template, info.Generation, info.Index = kindFork, c.fork.GetSource(), c.fork.GetGeneration(), c.fork.GetIndex()
	info.Receipt = receiptItems(c.receipt)
	return info
}

func receiptItems(r *tetherv1.Receipt) []ReceiptItem {
	items := []ReceiptItem{}
	for _, i := range r.GetItems() {
		items = append(items, ReceiptItem{Name: i.GetName(), Outcome: strings.ToLower(i.GetOutcome().String()), Micros: i.GetMicros(), Detail: i.GetDetail()})
	}
	return items
}

// timeline joins the marks of the API, of the host and of the guest, in the order of time.
func (s *Service) timeline(c Container) []Mark {
	all := append([]Mark{}, c.start.Marks...)
	if own := s.clock.get(c.ID); own != nil {
		all = append([]Mark{}, own...)
	}
	var host []struct {
		Name string
		At   time.Time
	}
	_ = json.Unmarshal([]byte(c.VM.Extra[keyMarks]), &host) // a host that says nothing, or nonsense, has no marks
	for _, m := range host {
		all = append(all, mark(m.Name, m.At))
	}
	for _, m := range c.Status.GetMarks() {
		all = append(all, Mark{Name: m.GetName(), UnixNano: m.GetUnixNano()})
	}
	slices.SortStableFunc(all, func(a, b Mark) int { return cmp.Compare(a.UnixNano, b.UnixNano) })
	return all
}
