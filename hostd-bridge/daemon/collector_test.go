package daemon_test

import (
	"testing"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/containervm/containervm/hostd-bridge/daemon/daemontest"
)

// TestVanishedObject: of the objects that one filter names, the one that is destroyed leaves, and the others do not.
func TestVanishedObject(t *testing.T) {
	h := daemontest.Start(t, nil)
	c := connect(t, h.Endpoint)
	refs := []types.ManagedObjectReference{newVM(t, h.Endpoint, c, "one"), newVM(t, h.Endpoint, c, "two"), newVM(t, h.Endpoint, c, "three")}
	p, err := property.DefaultCollector(c.Client).Create(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	spec := types.PropertyFilterSpec{PropSet: []types.PropertySpec{{Type: "VirtualMachine", PathSet: []string{"name"}}}}
	for _, ref := range refs {
		spec.ObjectSet = append(spec.ObjectSet, types.ObjectSpec{Obj: ref})
	}
	if _, err := p.CreateFilter(t.Context(), types.CreateFilter{Spec: spec}); err != nil {
		t.Fatal(err)
	}
	w := &watch{client: c.Client, collector: p}
	if set := w.next(t); len(set.FilterSet) != 1 || len(set.FilterSet[0].ObjectSet) != 3 {
		t.Fatalf("at first: %+v", set.FilterSet)
	}
	done(t)(object.NewVirtualMachine(c.Client, refs[1]).Destroy(t.Context()))
	if set := w.next(t); len(set.FilterSet) != 1 || len(set.FilterSet[0].ObjectSet) != 1 ||
		set.FilterSet[0].ObjectSet[0].Obj != refs[1] || set.FilterSet[0].ObjectSet[0].Kind != types.ObjectUpdateKindLeave {
		t.Fatalf("after the second is destroyed: %+v", set.FilterSet)
	}
	done(t)(object.NewVirtualMachine(c.Client, refs[2]).Rename(t.Context(), "other"))
	w.expect(t, refs[2], types.ObjectUpdateKindModify, "name", "other")
	if _, err := property.DefaultCollector(c.Client).CreateFilter(t.Context(), types.CreateFilter{Spec: spec}); !isFault(err, &types.ManagedObjectNotFound{}) {
		t.Errorf("a new filter over what is gone: %v", err)
	}
}
