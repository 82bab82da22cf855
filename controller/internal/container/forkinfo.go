package container

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/containervm/containervm/controller/internal/guest"
	"github.com/containervm/containervm/controller/internal/record"
	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// Kinds of a machine's start.
const (
	kindFork = "fork"
	kindBoot = "boot"
)

// ReceiptItem is one thing that a fork did to take on its identity.
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
	Timeline   []record.Mark
}

// forked reports whether the machine of the present or last run is a fork, and not one that was booted from its disk since.
func (c *Container) forked() bool {
	return c.fork != nil && (c.receipt != nil || !c.Ran())
}

// forkFailed reports whether the machine ended because it could not become this container.
func (c *Container) forkFailed() bool {
	return c.Status.GetState() == tetherv1.State_FAILED && c.Status.GetFailure().GetReason() == tetherv1.Failure_FORK
}

// failure says why the process never ran; of a fork that failed, which item of its receipt.
func (c *Container) failure() string {
	text := guest.FailureText(c.Status.GetFailure(), c.args())
	if item := link.Failed(c.receipt); c.forkFailed() && item != nil {
		return guest.WithoutPhrases(fmt.Sprintf("the fork could not become this container: %s: %s", item.Name, cmp.Or(item.Detail, text)))
	}
	return text
}

// Fork says how the machine of the present or last run came up.
func (s *Service) Fork(c Container) ForkInfo {
	info := ForkInfo{Kind: kindBoot, Why: c.start.Why, Receipt: []ReceiptItem{}, Timeline: s.timeline(c)}
	if !c.forked() {
		if c.fork != nil && info.Why == "" {
			info.Why = whyOff // powered on by another client
		}
		return info
	}
	info.Kind, info.Template, info.Generation, info.Index = kindFork, c.fork.GetSource(), c.fork.GetGeneration(), c.fork.GetIndex()
	info.Receipt = c.ReceiptItems()
	return info
}

// ReceiptItems are what the fork did to become this container; none: it was booted, or has not said it yet.
func (c *Container) ReceiptItems() []ReceiptItem {
	items := []ReceiptItem{}
	for _, i := range c.receipt.GetItems() {
		items = append(items, ReceiptItem{Name: i.GetName(), Outcome: strings.ToLower(i.GetOutcome().String()), Micros: i.GetMicros(), Detail: i.GetDetail()})
	}
	return items
}

// Generation is how many forks of a running container lie between the machine and one that was booted, or made of a template:
// a template's children have 1, machines that were booted 0.
func (c *Container) Generation() uint32 {
	if !c.forked() {
		return 0
	}
	return c.fork.GetGeneration()
}

// EndOf says why a machine that was being forked is off.
func EndOf(vm vsphere.VM) string {
	c := Container{}.at(vm)
	return c.WhyEnded()
}

// WhyEnded says why a fork is off, whether its gate was open or not.
func (c *Container) WhyEnded() string {
	tried := *c
	tried.gate = true // what happened to it counts
	if tried.Phase() == PhaseFailed {
		return tried.failure()
	}
	return cmp.Or(tried.Trouble(), "the host does not say why")
}

// timeline joins the marks of the API, of the host and of the guest, in the order of time.
func (s *Service) timeline(c Container) []record.Mark {
	all := append([]record.Mark{}, c.start.Marks...)
	if own := s.clock.get(c.ID); own != nil {
		all = append([]record.Mark{}, own...)
	}
	host, _ := hostapi.DecodeTimeline(c.VM.Extra[hostapi.KeyTimeline]) // a host that says nothing, or nonsense, has no marks
	for _, m := range host {
		all = append(all, record.MarkAt(m.Name, m.At))
	}
	for _, m := range c.Status.GetMarks() {
		all = append(all, record.Mark{Name: m.GetName(), UnixNano: m.GetUnixNano()})
	}
	slices.SortStableFunc(all, func(a, b record.Mark) int { return cmp.Compare(a.UnixNano, b.UnixNano) })
	return all
}
