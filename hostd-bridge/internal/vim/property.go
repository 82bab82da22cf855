package vim

import (
	"reflect"
	"strings"

	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// property reads the property at path of a managed object (a pointer to a struct of package mo). It returns nil when
// the property is unset and an InvalidProperty fault when objects of this type have no such property.
func property(object any, path string) (any, error) {
	var field mo.Field
	if !field.FromString(path) {
		return nil, invalidProperty(path)
	}
	v, ok := walk(reflect.ValueOf(object).Elem(), field.Path)
	if !ok {
		return nil, invalidProperty(path)
	}
	if field.Key == nil || !v.IsValid() {
		return propertyValue(v), nil
	}
	item, ok := keyed(v, field.Key)
	if !ok {
		return nil, invalidProperty(path)
	}
	if field.Item != "" && item.IsValid() {
		if item, ok = walk(item, field.Item); !ok {
			return nil, invalidProperty(path)
		}
	}
	return propertyValue(item), nil
}

func invalidProperty(path string) error {
	return fault(&types.InvalidProperty{Name: path}, "The property %q does not exist.", path)
}

// walk follows a dotted path. The value is invalid when something on the way is unset; ok is false when the path does
// not exist, which shows in the types alone.
func walk(v reflect.Value, path string) (_ reflect.Value, ok bool) {
	t := v.Type()
	for name := range strings.SplitSeq(path, ".") {
		for t.Kind() == reflect.Pointer {
			t = t.Elem()
			v = elem(v)
		}
		if t.Kind() == reflect.Interface {
			if v = elem(elem(v)); !v.IsValid() {
				return v, true // what could stand here is not known
			}
			t = v.Type()
		}
		if t.Kind() != reflect.Struct || name == "" {
			return reflect.Value{}, false
		}
		f, found := t.FieldByName(strings.ToUpper(name[:1]) + name[1:])
		if !found || f.Anonymous || f.Name == "Self" {
			return reflect.Value{}, false
		}
		t = f.Type
		if v.IsValid() {
			v = v.FieldByIndex(f.Index)
		}
	}
	return v, true
}

// elem dereferences a pointer or interface; the result is invalid when it is nil.
func elem(v reflect.Value) reflect.Value {
	if !v.IsValid() || (v.Kind() != reflect.Pointer && v.Kind() != reflect.Interface) {
		return v
	}
	return v.Elem()
}

// keyed returns the element of an array whose Key is key.
func keyed(array reflect.Value, key any) (_ reflect.Value, ok bool) {
	if array.Kind() != reflect.Slice {
		return reflect.Value{}, false
	}
	for n := range array.Len() {
		item := elem(elem(array.Index(n)))
		if item.Kind() != reflect.Struct {
			return reflect.Value{}, false
		}
		if k := item.FieldByName("Key"); k.IsValid() && k.Interface() == key {
			return item, true
		}
	}
	return reflect.Value{}, true
}

// propertyValue returns what stands for a value in an answer: arrays become vim25's ArrayOf types; nil is unset.
func propertyValue(v reflect.Value) any {
	v = elem(v)
	if !v.IsValid() {
		return nil
	}
	switch v.Kind() {
	case reflect.String:
		if v.Len() == 0 {
			return nil
		}
	case reflect.Interface:
		if v = elem(elem(v)); !v.IsValid() {
			return nil
		}
	case reflect.Slice:
		return arrayOf(v)
	}
	return v.Interface()
}

// arrayName is the name of a type in the name of its array in vim25 (ArrayOfInt).
func arrayName(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Uint8:
		return "Byte"
	case reflect.Int16:
		return "Short"
	case reflect.Int32:
		return "Int"
	case reflect.Int64:
		return "Long"
	case reflect.String:
		if t.Name() == "string" {
			return "String"
		}
	}
	return strings.TrimPrefix(t.Name(), "Base")
}

// arrayOf wraps a slice in its ArrayOf type.
func arrayOf(v reflect.Value) any {
	name := arrayName(v.Type().Elem())
	t, ok := types.TypeFunc()("ArrayOf" + name)
	if !ok {
		return nil
	}
	array := reflect.New(t)
	array.Elem().FieldByName(name).Set(v)
	return array.Elem().Interface()
}

// allProperties returns the values of all properties of an object that are set, by their names.
func allProperties(object any) map[string]any {
	out := map[string]any{}
	collectAll(reflect.ValueOf(object).Elem(), out)
	return out
}

func collectAll(v reflect.Value, out map[string]any) {
	for n := range v.NumField() {
		f := v.Type().Field(n)
		switch {
		case f.Anonymous:
			collectAll(v.Field(n), out)
		case f.Name != "Self":
			if value := propertyValue(v.Field(n)); value != nil {
				out[strings.ToLower(f.Name[:1])+f.Name[1:]] = value
			}
		}
	}
}

// isA says whether an object of package mo is of the named type or derived from it.
func isA(object any, name string) bool {
	t := reflect.TypeOf(object).Elem()
	if t.Name() == name {
		return true
	}
	f, ok := t.FieldByName(name)
	return ok && f.Anonymous
}

// references returns the references in a property's value.
func references(value any) []types.ManagedObjectReference {
	switch v := value.(type) {
	case types.ManagedObjectReference:
		return []types.ManagedObjectReference{v}
	case types.ArrayOfManagedObjectReference:
		return v.ManagedObjectReference
	case nil:
		return nil
	}
	return nil
}
