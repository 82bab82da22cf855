package vm

import (
	"cmp"
	"crypto/rand"
	"errors"
	"os"
	"slices"
	"sync"
	"time"
)

// Children are prepared ahead of time for the templates in use: the VMs that froze, or were forked, in the last
// templateIdle. Each has Options.Prestart of them, within Options.PrestartMemoryMiB for all; where that is too little, the
// template that was used last comes first.
const (
	templateIdle = 10 * time.Minute
	// preparedMiB is counted for a prepared child: QEMU's own memory, since it has no guest's yet.
	preparedMiB = 25
	// restockQuiet is for how long no operation may have been under way before a child is prepared: what a user waits for
	// goes on after its operations have ended, up to the first byte of a process, and is not to share its CPUs.
	restockQuiet = 250 * time.Millisecond
	// preparedPrefix begins the names of their directories, beside those of running machines.
	preparedPrefix = "pre-"
)

// Prestarted says how many children wait for the forks of a frozen VM.
type Prestarted struct {
	Template string // moref value
	Ready    int
	Want     int
}

// stock is the prepared children; Inventory.mu guards it.
type stock struct {
	shelves map[string]*shelf // by the moref values of frozen VMs in use
	held    map[uint32]bool   // CIDs of prepared children
	under   int               // operations under way
	quiet   time.Time         // when the last one ended
	stir    chan struct{}     // tells the keeper that something has changed
}

// shelf is a frozen VM's part of the stock.
type shelf struct {
	used  time.Time
	ready []*prepared
}

// prepared is a child that waits.
type prepared struct {
	child Child
	cid   uint32
	dir   string
}

func newStock() stock {
	return stock{shelves: map[string]*shelf{}, held: map[uint32]bool{}, stir: make(chan struct{}, 1)}
}

// under counts an operation as under way until the function that it returns is called.
func (i *Inventory) under() (done func()) {
	i.mu.Lock()
	i.stock.under++
	i.mu.Unlock()
	return sync.OnceFunc(func() {
		i.mu.Lock()
		i.stock.under--
		i.stock.quiet = time.Now()
		i.mu.Unlock()
		i.stir()
	})
}

func (i *Inventory) stir() {
	select {
	case i.stock.stir <- struct{}{}:
	default: // the keeper has not yet looked at the change before
	}
}

// use marks a frozen VM as in use, and takes a child that was prepared for it, if there is one.
func (i *Inventory) use(ref string, take bool) *prepared {
	i.mu.Lock()
	defer i.mu.Unlock()
	sh := i.stock.shelves[ref]
	if sh == nil {
		sh = &shelf{}
		i.stock.shelves[ref] = sh
	}
	sh.used = time.Now()
	if !take || len(sh.ready) == 0 {
		return nil
	}
	p := sh.ready[0]
	sh.ready = slices.Delete(sh.ready, 0, 1)
	return p
}

// putBack returns a child that was taken and is still nobody, or one that was just prepared.
func (i *Inventory) putBack(ref string, p *prepared) {
	i.mu.Lock()
	sh := i.stock.shelves[ref]
	keep := sh != nil && !i.closing
	if keep {
		sh.ready = append(sh.ready, p)
	}
	i.mu.Unlock()
	if !keep {
		i.discard(p)
	}
}

// discard ends children that are not started.
func (i *Inventory) discard(all ...*prepared) {
	for _, p := range all {
		if err := errors.Join(p.child.Close(), os.RemoveAll(p.dir)); err != nil {
			i.opt.Log.Warn("cannot end a prepared machine", "err", err)
		}
		i.mu.Lock()
		delete(i.stock.held, p.cid)
		i.mu.Unlock()
	}
}

// unshelve ends what was prepared for a template.
func (i *Inventory) unshelve(ref string) {
	i.mu.Lock()
	sh := i.stock.shelves[ref]
	delete(i.stock.shelves, ref)
	i.mu.Unlock()
	if sh != nil {
		i.discard(sh.ready...)
	}
}

// Prestarted returns the state of the stock, for each frozen VM, oldest first.
func (i *Inventory) Prestarted() []Prestarted {
	out := []Prestarted{}
	for _, v := range i.List() {
		if v.Frozen {
			out = append(out, Prestarted{Template: v.Ref})
		}
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	wants := i.wants()
	for n := range out {
		p := &out[n]
		p.Want = wants[p.Template]
		if sh := i.stock.shelves[p.Template]; sh != nil {
			p.Ready = len(sh.ready)
		}
	}
	return out
}

// wants says how many children each template in use should have ready; the caller holds mu.
func (i *Inventory) wants() map[string]int {
	left := max(i.opt.PrestartMemoryMiB, 0) / preparedMiB
	out := map[string]int{}
	for _, ref := range i.byUse() {
		out[ref] = min(i.opt.Prestart, left)
		left -= out[ref]
	}
	return out
}

// byUse returns the templates in use, that which was used last first; the caller holds mu.
func (i *Inventory) byUse() []string {
	refs := make([]string, 0, len(i.stock.shelves))
	for ref := range i.stock.shelves {
		refs = append(refs, ref)
	}
	slices.SortFunc(refs, func(a, b string) int {
		return cmp.Or(i.stock.shelves[b].used.Compare(i.stock.shelves[a].used), cmp.Compare(a, b))
	})
	return refs
}

// shelfDir makes the directory of a child that is prepared. Its name is random: a child of a daemon that was killed may still
// be on its way out of one that is counted. It is short, because it holds sockets.
func (i *Inventory) shelfDir() (string, error) {
	dir := i.runDir(preparedPrefix + rand.Text()[:8])
	return dir, os.MkdirAll(dir, 0o700)
}
