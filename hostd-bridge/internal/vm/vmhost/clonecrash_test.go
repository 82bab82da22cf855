package vmhost_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/containervm/containervm/hostd-bridge/internal/vm"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/journal"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/vmhost"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/vmtest"
)

// Whatever the journal has of a clone when its daemon is killed, the next one finds it whole, if it was answered, or ends its
// machine and leaves nothing of it. The cuts go backwards: what is undone at one is as if it had never been at those before.
func TestCloneKilledAtEveryRecord(t *testing.T) {
	for what, guest := range map[string]vmtest.Guest{"frozen": freezer, "running": vmtest.Idle} {
		t.Run(what, func(t *testing.T) {
			h := newHost(t, guest)
			path := filepath.Join(h.dir, "journal")
			source := h.running("source")
			if what == "frozen" {
				h.wait(source, frozen)
			}
			size := func() int {
				info, err := os.Stat(path)
				h.must(err)
				return int(info.Size())
			}
			before := size()
			child := h.clone(source, "child")
			answered := size()
			data, err := os.ReadFile(path)
			h.must(err)
			h.must(h.Close())
			for cut := answered; cut >= before; cut -= 7 {
				h.must(os.WriteFile(path, data[:cut], 0o600))
				h.open()
				h.chain(h.vm(source).Disk.Path)
				if h.vm(source).Power != vm.PoweredOn || h.vm(source).InFlight != nil {
					t.Fatalf("cut at %d of %d: the source is %+v", cut, answered, h.vm(source))
				}
				_, there := h.Get(child)
				running := h.hv.Machine(child).Exit() == nil
				dirs := list(t, filepath.Join(h.dir, "run"))
				switch {
				case cut == answered && !(there && running && h.vm(child).Power == vm.PoweredOn && h.exists("child/root.vmdk")):
					t.Fatalf("an answered clone is not whole: %v, %v", there, running)
				case cut < answered && (there || running || h.exists("child") || len(dirs) != 1):
					t.Fatalf("cut at %d of %d: something is left: VM %v, machine %v, directories %v", cut, answered, there, running, dirs)
				}
				h.must(h.Close())
			}
			h.open()
			h.end(source)
			h.nothingLeft()
		})
	}
}

// A clone that may have been answered before the host went down is there afterwards, and off.
func TestHostGoesDownAfterAClone(t *testing.T) {
	h := newHost(t, freezer, func(o *vmhost.Options) { o.BootID = "one" })
	source := h.template("template", nil)
	child := h.clone(source, "child")
	h.must(h.Close())
	// what was synced before the answer: the child as one that is being made
	doc := map[string]any{}
	h.must(json.Unmarshal(h.journal.Documents()["vm/"+child], &doc))
	doc["pending"], doc["power"] = map[string]any{"kind": "clone", "boot": "one"}, "poweredOff"
	put, err := journal.Put("vm/"+child, doc)
	h.must(err)
	h.must(h.journal.Commit(put))
	h.must(h.journal.Close())
	h.hv.KillAll()
	h.options.BootID = "two"
	h.open()
	if v := h.vm(child); v.Power != vm.PoweredOff || v.InFlight != nil || v.Exit == nil || !h.exists("child") {
		t.Errorf("after the host's crash: %+v", v)
	}
	h.must(h.PowerOn(t.Context(), child))
}
