package api

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
)

// filters is a request's "filters" parameter: an item passes when for each name one of the values fits.
type filters map[string][]string

// readFilters decodes the parameter. Names that the table of routes lacks have been refused (checkQuery).
func readFilters(r *http.Request) (filters, error) {
	text := param(r, "filters")
	if text == "" {
		return nil, nil
	}
	return parseFilters(text)
}

// parseFilters takes both of Docker's forms: {"name":{"value":true}} and the older {"name":["value"]}.
func parseFilters(text string) (filters, error) {
	f := filters{}
	var sets map[string]map[string]bool
	if json.Unmarshal([]byte(text), &sets) == nil {
		for name, values := range sets {
			for v, on := range values {
				if on {
					f[name] = append(f[name], v)
				}
			}
			slices.Sort(f[name])
		}
		return f, nil
	}
	if err := json.Unmarshal([]byte(text), &f); err != nil {
		return nil, invalid("invalid filter: %v", err)
	}
	return f, nil
}

// match reports whether one of a name's values fits, or the name is not filtered by.
func (f filters) match(name string, fits func(value string) bool) bool {
	return len(f[name]) == 0 || slices.ContainsFunc(f[name], fits)
}

// matchLabels reports whether all "label" values ("key" or "key=value") are among labels, and no "label!" value is.
func (f filters) matchLabels(labels map[string]string) bool {
	has := func(want string) bool {
		k, v, exact := strings.Cut(want, "=")
		have, ok := labels[k]
		return ok && (!exact || have == v)
	}
	for _, want := range f["label"] {
		if !has(want) {
			return false
		}
	}
	return !slices.ContainsFunc(f["label!"], has)
}
