package api

import (
	"flag"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
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
		if strings.HasSuffix(pattern, "{path...}") { // it serves several, each by its last word
			continue
		}
		switch route := r.routes[routeOf(pattern, nil)]; {
		case route.Pattern == "":
			t.Errorf("%s has a handler, and no line in the table of routes", pattern)
		case route.State == fields.Refused:
			t.Errorf("%s has a handler that is never called: the table refuses it", pattern)
		}
	}
}

// TestEveryParameter: each query parameter that the table says is done is read by somebody.
func TestEveryParameter(t *testing.T) {
	var source strings.Builder
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(name, "_test.go") {
			source.Write(text)
		}
	}
	read := 0
	for pattern, route := range fields.Routes() {
		for _, p := range route.Query {
			if p.State != fields.Done || route.Text != "" { // its text says that there is nothing to be asked for
				continue
			}
			if read++; !strings.Contains(source.String(), `"`+p.Name+`"`) {
				t.Errorf("nobody reads the parameter %s of %s", p.Name, pattern)
			}
		}
	}
	if read < 60 {
		t.Errorf("there are %d parameters, want some more", read)
	}
}

// TestEveryBody: each request that has a body refuses what its table does not name, by name.
func TestEveryBody(t *testing.T) {
	h := New(Deps{Log: slog.New(slog.DiscardHandler)})
	for _, target := range []string{
		"/containers/create", "/containers/x/update", "/containers/x/exec", "/exec/x/start", "/commit?container=x", "/auth", "/containers/x/fork",
		"/networks/create", "/networks/x/connect", "/networks/x/disconnect", "/volumes/create",
	} {
		r := httptest.NewRequest("POST", target, strings.NewReader(`{"Bogus":1}`))
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != 400 || !strings.Contains(w.Body.String(), `unknown field \"Bogus\"`) {
			t.Errorf("%s: %d %s", target, w.Code, w.Body)
		}
	}
}

// TestTableWins: what the table refuses is refused, also where someone has written a handler for it.
func TestTableWins(t *testing.T) {
	r := newRouter(slog.New(slog.DiscardHandler))
	for _, pattern := range []string{"POST /build", "GET /images/{path...}", "GET /networks"} {
		r.handle(pattern, func(w http.ResponseWriter, _ *http.Request) error {
			w.WriteHeader(http.StatusNoContent)
			return nil
		})
	}
	r.refuseRest()
	for _, c := range []struct {
		method, path string
		status       int
	}{{"POST", "/build", 501}, {"GET", "/images/search", 501}, {"GET", "/images/a/b/attestations", 501}, {"GET", "/images/a/b/json", 204}, {"GET", "/networks", 204}} {
		w := httptest.NewRecorder()
		r.mux.ServeHTTP(w, httptest.NewRequest(c.method, c.path, nil))
		if w.Code != c.status {
			t.Errorf("%s %s: %d %s, want %d", c.method, c.path, w.Code, w.Body, c.status)
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
