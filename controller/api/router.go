package api

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/containervm/containervm/controller/internal/fields"
)

// router maps methods and paths, without the version prefix, to handlers, and refuses of each route what the table does not name.
type router struct {
	mux    *http.ServeMux
	log    *slog.Logger
	routes map[string]fields.Route
	taken  map[string]bool // patterns that have a handler of their own
}

func newRouter(log *slog.Logger) *router {
	return &router{mux: http.NewServeMux(), log: log, routes: fields.Routes(), taken: map[string]bool{}}
}

// handle registers h for a pattern of http.ServeMux ("GET /containers/{id}/json"). It has a line in the table of routes.
func (r *router) handle(pattern string, h handler) {
	r.taken[pattern] = true
	r.mount(pattern, h)
}

func (r *router) mount(pattern string, h handler) {
	r.mux.HandleFunc(pattern, func(w http.ResponseWriter, req *http.Request) {
		tracked := &answer{ResponseWriter: w}
		if err := r.serve(tracked, req, pattern, h); err != nil {
			r.fail(tracked, req, err)
		}
	})
}

func (r *router) serve(w *answer, req *http.Request, pattern string, h handler) error {
	name := routeOf(pattern, req)
	route, ok := r.routes[name]
	if ok && route.State == fields.Refused { // whatever has a handler: the table owns what is refused
		return refuse(w, req, route)
	}
	if ok && route.State == fields.Done && req.URL.RawQuery != "" {
		if err := checkQuery(route, req); err != nil {
			return err
		}
	}
	return h(w, req)
}

// routeOf is the name in the table of routes of what a pattern's handler is asked for: names of images have slashes, so that the verb that
// follows one is no part of the pattern.
func routeOf(pattern string, req *http.Request) string {
	base, ok := strings.CutSuffix(pattern, "{path...}")
	if !ok {
		return strings.ReplaceAll(pattern, "...}", "}")
	}
	return base + "{name}" + req.URL.Path[strings.LastIndexByte(req.URL.Path, '/'):]
}

// checkQuery refuses parameters and filters that a route does not take.
func checkQuery(route fields.Route, req *http.Request) error {
	query := req.URL.Query()
	if err := route.Check(query); err != nil {
		return err
	}
	text := query.Get("filters")
	if text == "" {
		return nil
	}
	f, err := parseFilters(text)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(f)) {
		if err := route.CheckFilter(name, f[name]); err != nil {
			return err
		}
	}
	return nil
}

// refuseRest registers what answers for the routes that there will never be, and for paths that are none of the API's.
func (r *router) refuseRest() {
	mounted := map[string]bool{}
	for _, pattern := range slices.Sorted(maps.Keys(r.routes)) {
		route := r.routes[pattern]
		if route.State != fields.Refused || strings.Contains(pattern, " /images/{name}") || r.taken[pattern] {
			continue
		}
		for _, with := range []string{" /plugins/{name}", " /distribution/{name}"} { // names with slashes
			if method, _, ok := strings.Cut(pattern, with); ok {
				pattern = method + strings.Replace(with, "{name}", "{path...}", 1)
			}
		}
		if mounted[pattern] {
			continue
		}
		mounted[pattern] = true
		r.mount(pattern, func(w http.ResponseWriter, req *http.Request) error { return refuse(w, req, route) })
	}
	r.mount("/", func(http.ResponseWriter, *http.Request) error { return errPage })
}

// refuse answers for a route that there will never be.
func refuse(w http.ResponseWriter, req *http.Request, route fields.Route) error {
	if req.Method == http.MethodPost { // a client that still sends, as docker build does, reads this rather than that the pipe is broken
		w.Header().Set("Connection", "close")
	}
	writeError(w, route.Status, route.Text)
	return nil
}

// readRequest decodes a request's body into v and refuses what the table does not name. It returns the table's warnings.
func readRequest(w http.ResponseWriter, r *http.Request, table fields.Table, v any) (warnings []string, err error) {
	var body json.RawMessage
	if err := readJSON(w, r, &body); err != nil {
		return nil, err
	}
	if err := decodeJSON(bytes.NewReader(body), v); err != nil {
		return nil, err
	}
	if warnings, err = table.Check(v); err != nil {
		return nil, err
	}
	return warnings, table.CheckKeys(body, v)
}

// readOptionalRequest is readRequest for endpoints whose body may be missing.
func readOptionalRequest(w http.ResponseWriter, r *http.Request, table fields.Table, v any) error {
	if r.ContentLength == 0 || r.Body == nil {
		return nil
	}
	_, err := readRequest(w, r, table, v)
	return err
}
