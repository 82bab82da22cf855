package vim

import (
	"reflect"
	"strings"

	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// findByInventoryPath finds an entity by a path such as "ha-datacenter/vm/name". No entity is no error.
func findByInventoryPath(c *call, req *types.FindByInventoryPath) (*types.FindByInventoryPathResponse, error) {
	at := rootFolderRef
	for name := range strings.SplitSeq(strings.Trim(req.InventoryPath, "/"), "/") {
		next := c.server.objects.child(at, name)
		if next == nil {
			return &types.FindByInventoryPathResponse{}, nil
		}
		at = *next
	}
	return &types.FindByInventoryPathResponse{Returnval: &at}, nil
}

func findChild(c *call, req *types.FindChild) (*types.FindChildResponse, error) {
	if _, ok := c.server.objects.get(c.session, req.Entity); !ok {
		return nil, notFound(req.Entity)
	}
	return &types.FindChildResponse{Returnval: c.server.objects.child(req.Entity, req.Name)}, nil
}

// child returns the entity with a name in a container, or nil.
func (o *objects) child(of types.ManagedObjectReference, name string) *types.ManagedObjectReference {
	for _, ref := range o.children(of) {
		if object, ok := o.get(nil, ref); ok && entityOf(object).Name == name {
			return &ref
		}
	}
	return nil
}

// entityOf returns the ManagedEntity in an entity.
func entityOf(object any) mo.ManagedEntity {
	e, _ := reflect.ValueOf(object).Elem().FieldByName("ManagedEntity").Interface().(mo.ManagedEntity)
	return e
}

// findByUUID finds a VM by its BIOS or instance UUID. No VM is no error.
func findByUUID(c *call, req *types.FindByUuid) (*types.FindByUuidResponse, error) {
	res := &types.FindByUuidResponse{}
	if !req.VmSearch {
		return res, nil
	}
	for _, v := range c.server.Inventory.List() {
		id := v.UUID
		if isTrue(req.InstanceUuid) {
			id = v.InstanceUUID
		}
		if strings.EqualFold(id, req.Uuid) {
			ref := vmRef(v.Ref)
			res.Returnval = &ref
			return res, nil
		}
	}
	return res, nil
}
