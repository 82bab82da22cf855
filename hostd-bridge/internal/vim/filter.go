package vim

import (
	"reflect"

	"github.com/vmware/govmomi/vim25/types"
)

// filter is a PropertyFilter. What the client has seen belongs to the wait in flight.
type filter struct {
	ref   types.ManagedObjectReference
	owner *collector
	spec  types.PropertyFilterSpec
	seen  map[types.ManagedObjectReference]*seenObject
}

// seenObject is what the client knows of an object.
type seenObject struct {
	object any // the managed object itself: equal pointers mean that nothing has changed
	values map[string]any
}

// updates compares what the filter selects with what the client has seen. more says that limit was reached.
func (f *filter) updates(s scope, limit int) (changes []types.ObjectUpdate, more bool, err error) {
	refs, err := s.choose(&f.spec)
	if err != nil {
		return nil, false, err
	}
	if f.seen == nil {
		f.seen = map[types.ManagedObjectReference]*seenObject{}
	}
	present := make(map[types.ManagedObjectReference]bool, len(refs))
	for _, ref := range refs {
		present[ref] = true
		if len(changes) == limit {
			return changes, true, nil
		}
		change, changed, err := f.compare(s, ref)
		if err != nil {
			return nil, false, err
		}
		if changed {
			changes = append(changes, change)
		}
	}
	for ref := range f.seen {
		if present[ref] {
			continue
		}
		if len(changes) == limit {
			return changes, true, nil
		}
		delete(f.seen, ref)
		changes = append(changes, types.ObjectUpdate{Kind: types.ObjectUpdateKindLeave, Obj: ref})
	}
	return changes, false, nil
}

// compare returns how an object differs from what the client has seen of it.
func (f *filter) compare(s scope, ref types.ManagedObjectReference) (change types.ObjectUpdate, changed bool, err error) {
	object, ok := s.objects.get(s.session, ref)
	old := f.seen[ref]
	if !ok || (old != nil && old.object == object) {
		return change, false, nil
	}
	names, values, ok, err := read(object, f.spec.PropSet)
	if err != nil || !ok {
		return change, false, err
	}
	f.seen[ref] = &seenObject{object: object, values: values}
	change = types.ObjectUpdate{Kind: types.ObjectUpdateKindModify, Obj: ref}
	if old == nil {
		change.Kind, old = types.ObjectUpdateKindEnter, &seenObject{}
	}
	change.ChangeSet = differences(old.values, names, values)
	return change, change.Kind == types.ObjectUpdateKindEnter || len(change.ChangeSet) > 0, nil
}

func differences(old map[string]any, names []string, values map[string]any) (out []types.PropertyChange) {
	for _, name := range names {
		if before, ok := old[name]; !ok || !reflect.DeepEqual(before, values[name]) {
			out = append(out, types.PropertyChange{Name: name, Op: types.PropertyChangeOpAssign, Val: values[name]})
		}
	}
	for name := range old {
		if _, ok := values[name]; !ok {
			out = append(out, types.PropertyChange{Name: name, Op: types.PropertyChangeOpAssign}) // unset
		}
	}
	return out
}
