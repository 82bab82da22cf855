package vm

import (
	"log/slog"
	"time"

	"github.com/containervm/containervm/hostd-bridge/internal/datastore"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/journal"
)

// Options is what an Inventory works with. Every field is needed, unless it says otherwise.
type Options struct {
	Journal       *journal.Journal // closed by the caller, after Close
	Store         *datastore.Store
	Hypervisor    Hypervisor
	Disks         Disks
	RunDir        string // sockets and state of running machines, one directory each
	HostMemoryMiB int64
	HostCPUs      int
	Blank         string // datastore path of the disk that new disks without a parent are deltas of
	Log           *slog.Logger
	// Prestart is how many children are kept ready for each template in use, PrestartMemoryMiB bounds their memory in all.
	Prestart          int
	PrestartMemoryMiB int
	// Observe, if it is not nil, is told of each power-on and clone that has ended. It must not block.
	Observe func(Outcome)
	// BootID names the host's present boot; empty: /proc says it.
	BootID string
	// MemAvailable returns the memory in MiB that the host could give away now; nil: /proc/meminfo says it.
	MemAvailable func() (int64, error)
}

// Outcome is how a start of a machine ended.
type Outcome struct {
	Fork     bool // by a clone; else by a power-on
	Prepared bool // the fork took a child that was prepared
	Took     time.Duration
	Err      error
}

func (i *Inventory) observe(o Outcome, begun time.Time) {
	if i.opt.Observe != nil {
		o.Took = time.Since(begun)
		i.opt.Observe(o)
	}
}
