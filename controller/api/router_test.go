package api

import (
	"flag"
	"log/slog"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/containervm/containervm/controller/internal/fields"
)

var update = flag.Bool("update", false, "write docs/api.md anew")

// mobysRoutes are the routes of testdata/routes.txt, and the parameters of each.
func mobysRoutes(t *testing.T) map[string][]string {
	t.Helper()
	text, err := os.ReadFile("testdata/routes.txt")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]string{}
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		if len(words) < 2 || words[0] == "#" {
			continue
		}
		route := words[0] + " " + words[1]
		parameters := all[route]
		for _, query := range words[2:] {
			parameters = append(parameters, strings.Split(query, ",")...)
		}
		all[route] = parameters // none, too
	}
	return all
}

// servedBy is a path that a route serves.
func servedBy(route string) (method, path string) {
	method, path, _ = strings.Cut(route, " ")
	return method, strings.NewReplacer("{id}", "x", "{name}", "a/b:c", "{checkpoint}", "y").Replace(path)
}

// TestEveryRoute: each route of moby's API is decided on, with all its parameters, and answers; no other has a handler.
func TestEveryRoute(t *testing.T) {
	r := routes(Deps{Log: slog.New(slog.DiscardHandler)})
	mobys := mobysRoutes(t)
	if len(mobys) < 100 {
		t.Fatalf("testdata/routes.txt has %d routes", len(mobys))
	}
	for name, params := range mobys {
		route, ok := r.routes[name]
		if !ok {
			t.Errorf("nobody has decided what %s does", name)
			continue
		}
		for _, p := range params {
			if err := route.Check(map[string][]string{p: {"1"}}); err != nil && strings.Contains(err.Error(), "unknown query parameter") && route.State == fields.Done {
				t.Errorf("nobody has decided what %s of %s does", p, name)
			}
		}
		method, path := servedBy(name)
		if strings.Contains(name, "/volumes/") || strings.Contains(name, "/networks/") {
			path = strings.ReplaceAll(path, "a/b:c", "a")
		}
		if _, pattern := r.mux.Handler(httptest.NewRequest(method, path, nil)); pattern == "/" || pattern == "" {
			t.Errorf("%s is no page (%q)", name, pattern)
		}
	}
	for name, route := range r.routes {
		if _, ok := mobys[name]; !ok && !route.Own && name != "POST /containers/{id}/copy" {
			t.Errorf("%s is none of moby's routes", name)
		}
		if route.State == fields.Refused && (route.Text == "" || route.Status < 400) {
			t.Errorf("%s is refused without a word", name)
		}
	}
	for pattern := range r.taken {
		if strings.HasSuffix(pattern, "{path...}") || pattern == "/" {
			continue
		}
		if r.routes[routeOf(pattern, nil)].Pattern == "" {
			t.Errorf("%s has a handler, and no line in the table of routes", pattern)
		}
	}
}

// TestNeverRoutes: what there will never be says so with its status.
func TestNeverRoutes(t *testing.T) {
	h := New(Deps{Log: slog.New(slog.DiscardHandler)})
	for name, route := range fields.Routes() {
		if route.State != fields.Refused {
			continue
		}
		method, path := servedBy(name)
		if strings.Contains(name, "/volumes/") {
			path = "/volumes/a"
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(method, "/v1.50"+path+"?any=1", nil))
		if w.Code != route.Status || !strings.HasPrefix(w.Body.String(), `{"message":"`) || len(w.Body.String()) < 30 {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
	}
}

// TestUnknownParameters: what a route does not take is refused by name; what says nothing is no matter.
func TestUnknownParameters(t *testing.T) {
	h := New(Deps{Log: slog.New(slog.DiscardHandler)})
	for _, c := range []struct {
		method, target string
		status         int
		says           string
	}{
		{"GET", "/_ping?bogus=1", 400, `unknown query parameter \"bogus\" of GET /_ping`},
		{"GET", "/_ping?bogus=", 200, "OK"},
		{"GET", "/plugins", 200, "[]"},
		{"POST", "/build/prune?all=1", 200, `"SpaceReclaimed":0`},
		{"GET", "/v1.24/images/json?filter=x", 501, `the parameter \"filter\" is not supported`},
		{"GET", `/containers/json?filters={"bogus":["x"]}`, 400, "invalid filter 'bogus'"},
		{"GET", `/containers/json?filters=x`, 400, "invalid filter"},
		{"GET", "/images/a/b:c/json?bogus=1", 400, "of GET /images/{name}/json"},
		{"GET", "/images/a/b:c/attestations", 501, "attestations"},
		{"DELETE", "/containers/x?link=1", 501, "links"},
		{"GET", "/nowhere", 404, "page not found"},
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(c.method, c.target, nil))
		if w.Code != c.status || !strings.Contains(w.Body.String(), c.says) {
			t.Errorf("%s %s: %d %s, want %d %s", c.method, c.target, w.Code, w.Body, c.status, c.says)
		}
	}
}

// TestPage: docs/api.md says what the table says. go test -run TestPage -update writes it anew.
func TestPage(t *testing.T) {
	const name = "../../docs/api.md"
	want := fields.Page(MinVersion, MaxVersion)
	if *update {
		if err := os.WriteFile(name, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(name); err != nil || string(got) != want {
		t.Errorf("docs/api.md is not what the table says (%v): write it anew by go test ./controller/api -run TestPage -update", err)
	}
}
