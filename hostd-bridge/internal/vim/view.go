package vim

import (
	"slices"

	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// view is a ContainerView or a ListView.
type view struct {
	ref  types.ManagedObjectReference
	spec *types.CreateContainerView     // of a ContainerView
	list []types.ManagedObjectReference // of a ListView
}

// object returns the view as a managed object. What a ContainerView holds is computed when it is asked for.
func (v *view) object(o *objects) any {
	if v.spec == nil {
		return &mo.ListView{ManagedObjectView: mo.ManagedObjectView{Self: v.ref, View: v.list}}
	}
	return &mo.ContainerView{
		ManagedObjectView: mo.ManagedObjectView{Self: v.ref, View: o.contained(v.spec)},
		Container:         v.spec.Container, Type: v.spec.Type, Recursive: v.spec.Recursive,
	}
}

// contained returns what is in a container, directly or at any depth, and is of one of the types; no type means all.
func (o *objects) contained(spec *types.CreateContainerView) []types.ManagedObjectReference {
	out := []types.ManagedObjectReference{}
	done := map[types.ManagedObjectReference]bool{}
	var visit func(ref types.ManagedObjectReference)
	visit = func(ref types.ManagedObjectReference) {
		for _, child := range o.children(ref) {
			if done[child] {
				continue
			}
			done[child] = true
			if object, ok := o.get(nil, child); ok && isOneOf(object, spec.Type) {
				out = append(out, child)
			}
			if spec.Recursive {
				visit(child)
			}
		}
	}
	visit(spec.Container)
	return out
}

func isOneOf(object any, kinds []string) bool {
	return len(kinds) == 0 || slices.ContainsFunc(kinds, func(kind string) bool { return isA(object, kind) })
}

// addView keeps a new view in the session.
func (x *session) addView(v *view) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.views) >= maxPerSession {
		return tooMany("views")
	}
	x.views[v.ref.Value] = v
	return nil
}

func (x *session) view(ref types.ManagedObjectReference) (*view, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	v, ok := x.views[ref.Value]
	return v, ok && v.ref == ref
}

func createContainerView(c *call, req *types.CreateContainerView) (*types.CreateContainerViewResponse, error) {
	if _, ok := c.server.objects.get(c.session, req.Container); !ok {
		return nil, notFound(req.Container)
	}
	v := &view{ref: c.session.newRef("ContainerView"), spec: req}
	return &types.CreateContainerViewResponse{Returnval: v.ref}, c.session.addView(v)
}

func createListView(c *call, req *types.CreateListView) (*types.CreateListViewResponse, error) {
	v := &view{ref: c.session.newRef("ListView"), list: req.Obj}
	return &types.CreateListViewResponse{Returnval: v.ref}, c.session.addView(v)
}

func modifyListView(c *call, req *types.ModifyListView) (*types.ModifyListViewResponse, error) {
	old, ok := c.session.view(req.This)
	if !ok || old.spec != nil {
		return nil, notFound(req.This)
	}
	list := slices.DeleteFunc(slices.Clone(old.list), func(r types.ManagedObjectReference) bool {
		return slices.Contains(req.Remove, r) || slices.Contains(req.Add, r)
	})
	new := &view{ref: old.ref, list: append(list, req.Add...)}
	err := c.session.addView(new)
	c.server.Inventory.Signal().Wake()
	return &types.ModifyListViewResponse{}, err
}

func resetListView(c *call, req *types.ResetListView) (*types.ResetListViewResponse, error) {
	if old, ok := c.session.view(req.This); !ok || old.spec != nil {
		return nil, notFound(req.This)
	}
	err := c.session.addView(&view{ref: req.This, list: req.Obj})
	c.server.Inventory.Signal().Wake()
	return &types.ResetListViewResponse{}, err
}

func destroyView(c *call, req *types.DestroyView) (*types.DestroyViewResponse, error) {
	if _, ok := c.session.view(req.This); !ok {
		return nil, notFound(req.This)
	}
	c.session.mu.Lock()
	defer c.session.mu.Unlock()
	delete(c.session.views, req.This.Value)
	return &types.DestroyViewResponse{}, nil
}
