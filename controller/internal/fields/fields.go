// Package fields is the one table of what clients can say to the API: which routes there are, which query parameters and filters each takes,
// and what becomes of each field of a request's body. It drives the checks of requests, the warnings of a create, and docs/api.md. What it
// does not name is refused by its name, so that nothing is accepted and not done.
package fields

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
)

// State is what becomes of something that a client can say.
type State string

// States.
const (
	Done    State = "done"    // it has Docker's effect; values are checked by who does it
	Refused State = "refused" // it is refused by name, with the reason and what to do
	Warned  State = "warned"  // it has no effect, which the answer says
	Nothing State = "nothing" // it asks for nothing that could be done: shown only, a client's own, or so anyway
)

// Line is what becomes of one field.
type Line struct {
	// Path is the field's Go path from the request, the names of embedded structs included; elements of slices and maps have that of their
	// container.
	Path  string
	State State
	// Text of a refusal says why, and what to do; of a warning, the warning; of Nothing, why.
	Text string
	// Takes are values, as fmt.Sprint writes them, that are taken of a field that is refused: what is so anyway.
	Takes []string
	// Key: the path ends in a JSON key that no field has. Earlier versions of the API had it, or clients send it all the same.
	Key bool
}

// Table is what becomes of the fields of one kind of request, by path.
type Table map[string]Line

// newTable puts lines together.
func newTable(parts ...[]Line) Table {
	t := Table{}
	for _, lines := range parts {
		for _, l := range lines {
			t[l.Path] = l
		}
	}
	return t
}

// done are fields with their effect, by their names below a path.
func done(under, names string) []Line {
	var all []Line
	for _, name := range strings.Fields(names) {
		all = append(all, Line{Path: under + name, State: Done})
	}
	return all
}

// refused are fields for one reason.
func refused(under, names, text string) []Line {
	var all []Line
	for _, name := range strings.Fields(names) {
		all = append(all, Line{Path: under + name, State: Refused, Text: text})
	}
	return all
}

// nothing are fields that ask for nothing, for one reason.
func nothing(under, names, why string) []Line {
	var all []Line
	for _, name := range strings.Fields(names) {
		all = append(all, Line{Path: under + name, State: Nothing, Text: why})
	}
	return all
}

// keys marks lines as those of JSON keys without a field.
func keys(parts ...[]Line) []Line {
	all := slices.Concat(parts...)
	for i := range all {
		all[i].Key = true
	}
	return all
}

// Check refuses a request of which a field that is not zero is refused, by the field's name, and returns the warnings of others. A field that
// the table lacks is refused too.
func (t Table) Check(request any) (warnings []string, err error) {
	w := walk{table: t, seen: map[string]bool{}}
	err = w.value("", "", reflect.ValueOf(request))
	return w.warnings, err
}

// walk goes through a request's fields that are not zero.
type walk struct {
	table    Table
	warnings []string
	seen     map[string]bool // paths of which a warning was given
}

// value looks at what is at a path. shown is that as a client knows it: without the names of embedded structs.
func (w *walk) value(path, shown string, v reflect.Value) error {
	if isZero(v) {
		return nil
	}
	if l, ok := w.table[path]; ok {
		return w.apply(l, shown, v)
	}
	switch v.Kind() {
	case reflect.Pointer:
		return w.value(path, shown, v.Elem())
	case reflect.Struct:
		return w.fields(path, shown, v)
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			if err := w.value(path, shown, v.Index(i)); err != nil {
				return err
			}
		}
		return nil
	case reflect.Map:
		for _, key := range v.MapKeys() {
			if err := w.value(path, shown, v.MapIndex(key)); err != nil {
				return err
			}
		}
		return nil
	default:
		return refusal(shown, "nobody has decided what it does")
	}
}

func (w *walk) fields(path, shown string, v reflect.Value) error {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		name := shown
		if !f.Anonymous {
			name = join(shown, jsonName(f))
		}
		if err := w.value(join(path, f.Name), name, v.Field(i)); err != nil {
			return err
		}
	}
	return nil
}

func (w *walk) apply(l Line, shown string, v reflect.Value) error {
	switch l.State {
	case Refused:
		for v.Kind() == reflect.Pointer {
			v = v.Elem()
		}
		text := fmt.Sprint(v)
		if slices.Contains(l.Takes, text) {
			return nil
		}
		return refusal(shown, l.Text)
	case Warned:
		if !w.seen[l.Path] {
			w.seen[l.Path] = true
			w.warnings = append(w.warnings, l.Text)
		}
	}
	return nil
}

func refusal(shown, text string) error {
	return errdefs.ErrNotImplemented.WithMessage(shown + " is not supported: " + text)
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// jsonName is the key of a field in JSON.
func jsonName(f reflect.StructField) string {
	if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" {
		return name
	}
	return f.Name
}

// isZero reports whether a value says nothing: an empty collection does not, nor a pointer to a number, text or
// boolean that is zero. Clients send all of them.
func isZero(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Slice, reflect.Map:
		return v.Len() == 0
	case reflect.Pointer:
		return v.IsNil() || v.Elem().Kind() != reflect.Struct && isZero(v.Elem())
	case reflect.Invalid:
		return true
	default:
		return v.IsZero()
	}
}
