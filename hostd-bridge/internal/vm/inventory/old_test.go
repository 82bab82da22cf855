package inventory_test

import (
	"encoding/json"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/containervm/containervm/hostd-bridge/internal/datastore"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/inventory"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/journal"
)

// TestOlderJournal: what a daemon recorded before runs had numbers is read as it was meant.
func TestOlderJournal(t *testing.T) {
	const doc = `{"name":"one","pool":"resgroup-0","home":"one","cpus":1,"memoryMiB":64,"cid":3,"power":"poweredOn","runs":2,
		"nics":[{"MAC":"00:50:56:80:00:01","Connected":true,"key":4000}],
		"disk":{"path":"one/root.vmdk","parent":"base.vmdk","own":true},
		"pending":{"kind":"detach","disk":{"path":"one/root.vmdk","parent":"base.vmdk","own":true},"made":true,"drop":true,"boot":"b"}}`
	dir := t.TempDir()
	j, err := journal.Open(filepath.Join(dir, "journal"))
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	if err := j.Commit(journal.Change{Key: "vm/vm-1", Value: json.RawMessage(doc)}); err != nil {
		t.Fatal(err)
	}
	store, err := datastore.Open(filepath.Join(dir, "store"))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	i, err := inventory.Open(j, store)
	if err != nil {
		t.Fatal(err)
	}
	v, ok := i.Get("vm-1")
	if !ok {
		t.Fatal("the VM is not there")
	}
	if card := v.NICs[0]; len(v.NICs) != 1 || card.Network != vm.DefaultNetwork || card.Slot() != 0 || card.MAC != "00:50:56:80:00:01" || !card.Connected {
		t.Errorf("cards %+v, which were in the one network that there was", v.NICs)
	}
	disk := &vm.Disk{Path: "one/root.vmdk", Parent: "base.vmdk", Owned: true}
	operation := &vm.Operation{Kind: vm.OpDetach, Disk: disk, MakeFile: true, DropFile: true, Boot: "b"}
	if !reflect.DeepEqual(v.Disk, disk) || !reflect.DeepEqual(v.InFlight, operation) || v.Runs != 2 || v.Run != 0 {
		t.Errorf("disk %+v, operation %+v, run %d of %d", v.Disk, v.InFlight, v.Run, v.Runs)
	}
}
