package vmhost_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/containervm/containervm/hostd-bridge/internal/vm"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/vmtest"
)

// unlimited is a resource pool without limits.
func unlimited(name, parent string) vm.Pool {
	none := vm.Limits{Limit: vm.Unlimited}
	return vm.Pool{Name: name, Parent: parent, CPU: none, Memory: none}
}

func (h *host) pool(name, parent string) string {
	h.t.Helper()
	ref, err := h.CreatePool(unlimited(name, parent))
	h.must(err)
	return ref
}

// wantTree checks that the tree of pools is whole: each pool has a parent, and each VM a pool, that is there.
func (h *host) wantTree() {
	h.t.Helper()
	there := map[string]bool{"": true}
	for _, p := range h.Pools() {
		there[p.Ref] = true
	}
	for _, p := range h.Pools() {
		if !there[p.Parent] {
			h.t.Errorf("pool %s is in %s, which is not there", p.Ref, p.Parent)
		}
	}
	for _, v := range h.List() {
		if v.Pool == "" || !there[v.Pool] {
			h.t.Errorf("VM %s is in pool %q, which is not there", v.Ref, v.Pool)
		}
	}
}

// Pools that are destroyed at once, one below the other, with VMs that come to them meanwhile: all go, and what was in them is in
// the root pool.
func TestDestroysOfAPoolAndItsParent(t *testing.T) {
	h := newHost(t, vmtest.Idle)
	for round := range 50 {
		var refs []string
		parent := vm.RootPool
		for depth := range 4 {
			parent = h.pool(fmt.Sprint("pool", depth), parent)
			refs = append(refs, parent)
			c := config(fmt.Sprint("vm", round, "-", depth))
			c.Pool = parent
			h.create(c, nil)
		}
		var all sync.WaitGroup
		for _, ref := range refs {
			all.Go(func() {
				if err := h.DestroyPool(ref); err != nil {
					t.Errorf("destroy of %s: %v", ref, err)
				}
			})
			all.Go(func() {
				c := config(fmt.Sprint("late", round, ref))
				c.Pool = ref
				var missing *vm.NotFoundError
				if _, err := h.Create(t.Context(), c, nil); err != nil && !errors.As(err, &missing) {
					t.Errorf("create in %s: %v", ref, err)
				}
			})
		}
		all.Wait()
		if n := len(h.Pools()); n != 1 {
			t.Fatalf("%d pools are left", n-1)
		}
		h.wantTree()
		for _, v := range h.List() {
			h.must(h.Destroy(t.Context(), v.Ref))
		}
	}
	h.restart()
	h.wantTree()
}

// Only one of those who destroy a pool at once does it.
func TestOneDestroyOfAPool(t *testing.T) {
	h := newHost(t, vmtest.Idle)
	for range 50 {
		ref := h.pool("pool", vm.RootPool)
		results := make(chan error)
		for range 2 {
			go func() { results <- h.DestroyPool(ref) }()
		}
		a, b := <-results, <-results
		var missing *vm.NotFoundError
		if (a == nil) == (b == nil) || !errors.As(errors.Join(a, b), &missing) {
			t.Fatalf("two destroys of a pool: %v, %v", a, b)
		}
	}
}

// Whatever the journal has of the destruction of a pool when its daemon is killed, the next one finds all of it or nothing.
func TestPoolIsDestroyedInOneRecord(t *testing.T) {
	h := newHost(t, vmtest.Idle)
	outer := h.pool("outer", vm.RootPool)
	inner := h.pool("inner", outer)
	c := config("one")
	c.Pool = outer
	ref := h.create(c, nil)
	path := filepath.Join(h.dir, "journal")
	before, err := os.Stat(path)
	h.must(err)
	h.must(h.DestroyPool(outer))
	data, err := os.ReadFile(path)
	h.must(err)
	h.must(h.Close())
	for cut := int(before.Size()); cut <= len(data); cut++ {
		h.must(os.WriteFile(path, data[:cut], 0o600))
		h.open()
		want := outer
		if cut == len(data) {
			want = vm.RootPool
		}
		p, there := h.Pool(inner)
		if _, old := h.Pool(outer); old != (want == outer) || !there || p.Parent != want || h.vm(ref).Pool != want {
			t.Fatalf("cut at %d of %d: outer is there: %v, inner is in %+v, the VM in %s", cut, len(data), old, p, h.vm(ref).Pool)
		}
		h.must(h.Close())
	}
}

// A pool that is destroyed while one of its VMs is reconfigured is not in the VM's new configuration.
func TestPoolGoesDuringAReconfigure(t *testing.T) {
	h := newHost(t, vmtest.Idle)
	pool := h.pool("pool", vm.RootPool)
	c := config("one")
	c.Pool = pool
	ref := h.create(c, nil)
	h.must(h.PowerOn(t.Context(), ref))
	h.hv.On(vmtest.Tell, func() error { return h.DestroyPool(pool) })
	h.must(h.Reconfigure(t.Context(), ref, vm.Change{Extra: map[string]string{"guestinfo.b": "2"}}))
	h.wantTree()
}

// VMs that are destroyed together with their pool do not come back.
func TestVMsGoWithTheirPool(t *testing.T) {
	h := newHost(t, vmtest.Idle)
	for round := range 40 {
		pool := h.pool("pool", vm.RootPool)
		var all sync.WaitGroup
		for n := range 8 {
			c := config(fmt.Sprint("vm", round, "-", n))
			c.Pool = pool
			ref := h.create(c, nil)
			all.Go(func() {
				if err := h.Destroy(t.Context(), ref); err != nil {
					t.Error(err)
				}
			})
		}
		all.Go(func() {
			if err := h.DestroyPool(pool); err != nil {
				t.Error(err)
			}
		})
		all.Wait()
		for key, doc := range h.journal.Documents() {
			if strings.HasPrefix(key, "vm/") {
				t.Fatalf("round %d: the journal has %s", round, doc)
			}
		}
	}
}
