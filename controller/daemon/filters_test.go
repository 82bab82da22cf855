package daemon_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containervm/containervm/controller/internal/fields"
)

// TestEveryFilter: each filter that the table of routes takes is looked at: with a value that fits nothing, or is none, the answer is not the one
// without it, and nothing is pruned.
func TestEveryFilter(t *testing.T) {
	e := start(t, nil)
	for _, r := range []struct{ path, body string }{
		{"/containers/create?name=c", `{"Image":"base","Cmd":["true"],"Labels":{"k":"v"}}`},
		{"/networks/create", `{"Name":"n","Labels":{"k":"v"}}`},
		{"/volumes/create", `{"Labels":{"k":"v"}}`},
		{"/commit?container=c", `{"Labels":{"k":"v"}}`},
	} {
		if status, text := e.request(t, "POST", r.path, r.body); status != 201 {
			t.Fatalf("%s: %d %s", r.path, status, text)
		}
	}
	begin := time.Now()
	ask := func(route fields.Route, filter string) (int, string) {
		method, path, _ := strings.Cut(route.Pattern, " ")
		query := url.Values{"filters": {filter}}
		switch path {
		case "/events":
			query.Set("since", "1")
			query.Set("until", fmt.Sprintf("%d.%09d", begin.Unix(), begin.Nanosecond()))
		case "/containers/json":
			query.Set("all", "1")
		}
		return e.request(t, method, path+"?"+query.Encode(), "")
	}
	there := func() (n int) {
		for _, path := range []string{"/containers/json?all=1", "/networks", "/volumes", "/images/json"} {
			status, text := e.request(t, "GET", path, "")
			if status != 200 {
				t.Fatalf("%s: %d %s", path, status, text)
			}
			n += strings.Count(text, `"k":"v"`)
		}
		return n
	}
	all := there()
	if all != 4 {
		t.Fatalf("%d things are there, want 4", all)
	}
	values := map[string]string{"label!": "k", "is-task": "true"}
	looked := 0
	routes := fields.Routes()
	for _, pattern := range slices.Sorted(maps.Keys(routes)) {
		route := routes[pattern]
		if route.State != fields.Done || route.Text != "" { // its text says that there is nothing that could be chosen
			continue
		}
		whole := ""
		if strings.HasPrefix(pattern, "GET") { // another would prune
			_, whole = ask(route, "")
		}
		for _, f := range route.Filters {
			looked++
			value, ok := values[f.Name]
			if !ok {
				value = "nonesuch"
			}
			filter, err := json.Marshal(map[string][]string{f.Name: {value}})
			if err != nil {
				t.Fatal(err)
			}
			status, text := ask(route, string(filter))
			if status == 200 && text == whole || status > 200 && status != 400 && status != 404 {
				t.Errorf("%s does not look at its filter %s: %d %.300s", pattern, f.Name, status, text)
			}
			if n := there(); n != all {
				t.Fatalf("%s with filter %s has removed something: %d things are there, want %d", pattern, filter, n, all)
			}
		}
	}
	if looked < 40 {
		t.Errorf("there are %d filters, want some more", looked)
	}
}
