package fields

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
)

// CheckKeys refuses a JSON object that has a key with a value which the Go type of request does not know, by that key's name: what a client
// says there would be lost. Keys of earlier versions of the API have lines in the table. A key whose value says nothing (null, false, 0, "",
// or empty) is no matter.
func (t Table) CheckKeys(body []byte, request any) error {
	var all any
	if err := json.Unmarshal(body, &all); err != nil {
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid JSON: %v", err))
	}
	return t.keys("", "", all, reflect.TypeOf(request))
}

// place is where a key of an object goes.
type place struct {
	path string
	kind reflect.Type
}

func (t Table) keys(path, shown string, v any, kind reflect.Type) error {
	for kind.Kind() == reflect.Pointer {
		kind = kind.Elem()
	}
	switch v := v.(type) {
	case []any:
		if kind.Kind() != reflect.Slice && kind.Kind() != reflect.Array {
			return nil
		}
		for _, e := range v {
			if err := t.keys(path, shown, e, kind.Elem()); err != nil {
				return err
			}
		}
	case map[string]any:
		switch kind.Kind() {
		case reflect.Struct:
			return t.object(path, shown, v, kind)
		case reflect.Map:
			for _, key := range slices.Sorted(maps.Keys(v)) {
				if err := t.keys(path, join(shown, key), v[key], kind.Elem()); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (t Table) object(path, shown string, v map[string]any, kind reflect.Type) error {
	known := map[string]place{}
	places(path, kind, known)
	if len(known) == 0 {
		return nil // a type with a JSON of its own
	}
	for _, key := range slices.Sorted(maps.Keys(v)) {
		if p, ok := known[strings.ToLower(key)]; ok { // as encoding/json: letters' case is no matter
			if err := t.keys(p.path, join(shown, key), v[key], p.kind); err != nil {
				return err
			}
			continue
		}
		if saysNothing(v[key]) {
			continue
		}
		l, ok := t[join(path, key)]
		switch {
		case !ok:
			return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("unknown field %q in the request: it would be ignored, so leave it out", join(shown, key)))
		case l.State == Refused:
			return refusal(join(shown, key), l.Text)
		}
	}
	return nil
}

// places collects the keys of a struct, in lower case, those of embedded structs included.
func places(path string, kind reflect.Type, to map[string]place) {
	for kind.Kind() == reflect.Pointer {
		kind = kind.Elem()
	}
	for i := range kind.NumField() {
		f := kind.Field(i)
		switch at := join(path, f.Name); {
		case f.Anonymous:
			places(at, f.Type, to)
		case f.IsExported():
			to[strings.ToLower(jsonName(f))] = place{at, f.Type}
		}
	}
}

func saysNothing(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case bool:
		return !v
	case float64:
		return v == 0
	case string:
		return v == ""
	case []any:
		return len(v) == 0
	case map[string]any:
		return len(v) == 0
	default:
		return false
	}
}
