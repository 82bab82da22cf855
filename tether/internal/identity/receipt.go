package identity

import (
	"errors"
	"fmt"
	"time"

	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// Item is one thing that must not be the same in two machines.
type Item struct {
	Name string
	// Do makes it this machine's own and says what it did, for people. An error made by Skip says that there is nothing to do.
	Do func() (detail string, err error)
}

// skip says that a machine has nothing of an item's kind.
type skip struct{ why string }

func (s skip) Error() string { return s.why }

// Skip is what an Item returns that has nothing to do.
func Skip(why string) error { return skip{why} }

// Receipt collects what was done to make a fork a machine of its own. It has one user at a time.
type Receipt struct {
	began  time.Time
	result tetherv1.Receipt
}

// NewReceipt begins a receipt; began is when the fork was seen.
func NewReceipt(began time.Time) *Receipt { return &Receipt{began: began} }

// Do does the items in order and stops at the first that fails: a fork that shares one of them with its source must not go on.
func (r *Receipt) Do(items ...Item) error {
	for _, i := range items {
		if err := r.do(i); err != nil {
			return fmt.Errorf("cannot make the fork a machine of its own: %s: %w", i.Name, err)
		}
	}
	return nil
}

func (r *Receipt) do(i Item) error {
	begin := time.Now()
	detail, err := i.Do()
	entry := &tetherv1.ReceiptItem{
		Name: i.Name, Outcome: tetherv1.ReceiptItem_DONE, Micros: uint32(time.Since(begin).Microseconds()), Detail: detail,
	}
	r.result.Items = append(r.result.Items, entry)
	var skipped skip
	switch {
	case errors.As(err, &skipped):
		entry.Outcome, entry.Detail = tetherv1.ReceiptItem_SKIPPED, skipped.why
		return nil
	case err != nil:
		entry.Outcome, entry.Detail = tetherv1.ReceiptItem_FAILED, err.Error()
	}
	return err
}

// Close completes the receipt of the fork f.
func (r *Receipt) Close(f *tetherv1.Fork) *tetherv1.Receipt {
	r.result.Micros = uint32(time.Since(r.began).Microseconds())
	r.result.Generation, r.result.Index = f.GetGeneration(), f.GetIndex()
	return &r.result
}
