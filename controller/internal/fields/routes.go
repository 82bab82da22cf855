package fields

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
)

// Route is one of the API's, and what becomes of it.
type Route struct {
	Pattern string // "GET /containers/{id}/json": the path of moby's description of the API, without a version
	State   State
	// Text of a refused route is its answer, one sentence; of another one what there is to say of it.
	Text string
	// Status of a refused route's answer.
	Status  int
	Own     bool    // it is none of Docker's
	Query   []Param // that it takes
	Filters []Param // names that its query parameter "filters" takes
}

// Param is a query parameter, or a filter.
type Param struct {
	Name  string
	State State
	Text  string   // why it is not done, or what there is to say of it
	Takes []string // values of a refused one that are taken
}

// params are ones with their effect.
func params(names string) []Param {
	var all []Param
	for _, name := range strings.Fields(names) {
		all = append(all, Param{Name: name, State: Done})
	}
	return all
}

func (r Route) ignores(names, why string) Route {
	for _, name := range strings.Fields(names) {
		r.Query = append(r.Query, Param{Name: name, State: Nothing, Text: why})
	}
	return r
}

func (r Route) refuses(names, why string) Route {
	for _, name := range strings.Fields(names) {
		r.Query = append(r.Query, Param{Name: name, State: Refused, Text: why})
	}
	return r
}

// filtersNone adds filters that choose what there is none of: nothing fits them, as in Docker.
func (r Route) filtersNone(names, why string) Route {
	for _, name := range strings.Fields(names) {
		r.Filters = append(r.Filters, Param{Name: name, State: Done, Text: why})
	}
	return r
}

// route is one that is done.
func route(pattern, query, filters string) Route {
	return Route{Pattern: pattern, State: Done, Query: params(query), Filters: params(filters)}
}

func own(pattern, query string) Route {
	return Route{Pattern: pattern, State: Done, Own: true, Query: params(query)}
}

// never is a route that there will not be, whatever its query.
func neverRoutes(status int, text string, patterns ...string) []Route {
	var all []Route
	for _, p := range patterns {
		all = append(all, Route{Pattern: p, State: Refused, Status: status, Text: text})
	}
	return all
}

// Routes is the table of all routes, by pattern.
func Routes() map[string]Route {
	all := map[string]Route{}
	for _, r := range slices.Concat(containers(), images(), others(), swarm(), plugins(), ours()) {
		all[r.Pattern] = r
	}
	return all
}

func containers() []Route {
	const attach = "detachKeys logs stream stdin stdout stderr"
	return []Route{
		route("GET /containers/json", "all limit size filters since before",
			"ancestor before expose exited health id isolation is-task label label! name network publish since status volume").
			ignores("trunc_cmd", "commands are never cut off; docker-py sends it"),
		route("POST /containers/create", "name platform", ""),
		route("GET /containers/{id}/json", "size", ""),
		route("GET /containers/{id}/top", "ps_args", ""),
		route("GET /containers/{id}/logs", "follow stdout stderr since until timestamps tail details", ""),
		route("GET /containers/{id}/changes", "", ""),
		route("GET /containers/{id}/export", "", ""),
		route("GET /containers/{id}/stats", "stream one-shot", ""),
		route("POST /containers/{id}/resize", "h w", ""),
		route("POST /containers/{id}/start", "", "").
			ignores("detachKeys", "an attachment has its own").
			refuses("checkpoint checkpoint-dir", noCheckpoints),
		route("POST /containers/{id}/stop", "signal t", ""),
		route("POST /containers/{id}/restart", "signal t", ""),
		route("POST /containers/{id}/kill", "signal", ""),
		route("POST /containers/{id}/update", "", ""),
		route("POST /containers/{id}/rename", "name", ""),
		route("POST /containers/{id}/pause", "", ""),
		route("POST /containers/{id}/unpause", "", ""),
		route("POST /containers/{id}/attach", attach, ""),
		route("GET /containers/{id}/attach/ws", attach, ""),
		route("POST /containers/{id}/wait", "condition", ""),
		route("DELETE /containers/{id}", "v force", "").refuses("link", "links are not supported"),
		route("HEAD /containers/{id}/archive", "path", ""),
		route("GET /containers/{id}/archive", "path", ""),
		route("PUT /containers/{id}/archive", "path noOverwriteDirNonDir copyUIDGID", ""),
		route("POST /containers/prune", "filters", "label label! until"),
		route("POST /containers/{id}/exec", "", ""),
		route("POST /exec/{id}/start", "", ""),
		route("POST /exec/{id}/resize", "h w", ""),
		route("GET /exec/{id}/json", "", ""),
		route("POST /commit", "container repo tag comment author pause changes", ""),
		{Pattern: "GET /containers/{id}/checkpoints", State: Refused, Status: http.StatusNotImplemented, Text: noCheckpoints},
		{Pattern: "POST /containers/{id}/checkpoints", State: Refused, Status: http.StatusNotImplemented, Text: noCheckpoints},
		{Pattern: "DELETE /containers/{id}/checkpoints/{checkpoint}", State: Refused, Status: http.StatusNotImplemented, Text: noCheckpoints},
		{Pattern: "POST /containers/{id}/copy", State: Refused, Status: http.StatusNotImplemented, Text: "it was removed in version 1.24 of the API: use GET /containers/{id}/archive"},
	}
}

const noCheckpoints = "checkpoints are not supported: fork the running container (POST /containers/{id}/fork, cvm fork)"

func images() []Route {
	const noBuild = "docker build is not supported: build the image elsewhere (docker buildx with a builder of its own), then docker load or docker pull it"
	return slices.Concat([]Route{
		route("GET /images/json", "all filters shared-size manifests", "before dangling label label! reference since until").
			ignores("only_ids", "docker-py sends it").
			ignores("digests", "they are always shown").
			ignores("identity", "none is known: signatures and attestations are not kept").
			refuses("filter", "it was removed in version 1.41 of the API: use filters={\"reference\":...}"),
		route("POST /images/create", "fromImage fromSrc repo tag message changes platform", ""),
		route("GET /images/{name}/json", "manifests platform", ""),
		route("GET /images/{name}/history", "platform", ""),
		route("POST /images/{name}/push", "tag platform", ""),
		route("POST /images/{name}/tag", "repo tag", "").ignores("force", "a tag is always moved; docker-py sends it"),
		route("DELETE /images/{name}", "force platforms", "").ignores("noprune", "an image's parents are never removed with it"),
		route("POST /images/prune", "filters", "dangling label label! until"),
		route("GET /images/{name}/get", "platform", ""),
		route("GET /images/get", "names platform", ""),
		route("POST /images/load", "quiet platform", ""),
		route("POST /auth", "", ""),
		{Pattern: "POST /build/prune", State: Done, Text: "there is no build cache: nothing is removed", Query: params("all keep-storage reserved-space max-used-space min-free-space filters"),
			Filters: params("until id parent type description inuse shared private unused-for label")},
	},
		neverRoutes(http.StatusNotImplemented, "docker search is not supported: search on the registry's own pages", "GET /images/search"),
		neverRoutes(http.StatusNotImplemented, "attestations are not kept: ask the registry that the image is from", "GET /images/{name}/attestations"),
		neverRoutes(http.StatusNotImplemented, "this daemon does not look into registries for others: docker manifest inspect asks the registry itself", "GET /distribution/{name}/json"),
		neverRoutes(http.StatusNotImplemented, noBuild, "POST /build", "POST /session", "POST /grpc"),
		neverRoutes(http.StatusNotImplemented, "there are no builds that could be cancelled", "POST /build/cancel"),
	)
}

func others() []Route {
	return []Route{
		route("GET /info", "", ""),
		route("GET /version", "", ""),
		route("GET /_ping", "", ""),
		route("HEAD /_ping", "", ""),
		route("GET /events", "since until filters", "container event image label label! network scope type volume").
			filtersNone("config daemon node plugin secret service", "nothing happens to any here"),
		route("GET /system/df", "type verbose", ""),
		route("GET /volumes", "filters", "dangling driver label label! name"),
		route("POST /volumes/create", "", ""),
		route("GET /volumes/{name}", "", ""),
		{Pattern: "PUT /volumes/{name}", State: Refused, Status: http.StatusServiceUnavailable, Text: "volume update only valid for cluster volumes, but swarm is unavailable", Query: params("version")},
		route("DELETE /volumes/{name}", "force", ""),
		route("POST /volumes/prune", "filters", "all label label!"),
		route("GET /networks", "filters", "dangling driver id label label! name scope type"),
		route("GET /networks/{id}", "verbose scope", ""),
		route("DELETE /networks/{id}", "", ""),
		route("POST /networks/create", "", ""),
		route("POST /networks/{id}/connect", "", ""),
		route("POST /networks/{id}/disconnect", "", ""),
		route("POST /networks/prune", "filters", "label label! until"),
	}
}

// swarm is what Docker answers in the same words, unless a node is in a swarm.
func swarm() []Route {
	const (
		notManager = `This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm and try again.`
		noSwarm    = "swarm is not supported: a host is one node, and vSphere is what makes several of them a cluster"
	)
	return slices.Concat(
		neverRoutes(http.StatusServiceUnavailable, notManager,
			"GET /nodes", "GET /nodes/{id}", "DELETE /nodes/{id}", "POST /nodes/{id}/update",
			"GET /swarm", "POST /swarm/update", "GET /swarm/unlockkey", "POST /swarm/unlock",
			"GET /services", "POST /services/create", "GET /services/{id}", "DELETE /services/{id}", "POST /services/{id}/update", "GET /services/{id}/logs",
			"GET /tasks", "GET /tasks/{id}", "GET /tasks/{id}/logs",
			"GET /secrets", "POST /secrets/create", "GET /secrets/{id}", "DELETE /secrets/{id}", "POST /secrets/{id}/update",
			"GET /configs", "POST /configs/create", "GET /configs/{id}", "DELETE /configs/{id}", "POST /configs/{id}/update"),
		neverRoutes(http.StatusServiceUnavailable, "This node is not part of a swarm", "POST /swarm/leave"),
		neverRoutes(http.StatusNotImplemented, noSwarm, "POST /swarm/init", "POST /swarm/join"),
	)
}

func plugins() []Route {
	const noPlugins = "plugins are not supported: volumes, networks and logs are containerVM's own"
	return slices.Concat(
		[]Route{{Pattern: "GET /plugins", State: Done, Text: "there are none", Query: params("filters"), Filters: params("capability enabled")}},
		neverRoutes(http.StatusNotFound, "plugin not found: "+noPlugins,
			"GET /plugins/{name}/json", "DELETE /plugins/{name}", "POST /plugins/{name}/enable", "POST /plugins/{name}/disable",
			"POST /plugins/{name}/upgrade", "POST /plugins/{name}/push", "POST /plugins/{name}/set"),
		neverRoutes(http.StatusNotImplemented, noPlugins, "GET /plugins/privileges", "POST /plugins/pull", "POST /plugins/create"),
	)
}

// ours are described in docs/openapi.yaml.
func ours() []Route {
	return []Route{
		own("POST /containers/{id}/fork", ""),
		own("GET /templates", "memory"),
		own("DELETE /templates/{name}", ""),
		own("POST /host/quiesce", "containers"),
		own("GET /metrics", ""),
	}
}

// Check refuses a query that has a parameter which the route does not take, by its name. One without a value says nothing.
func (r Route) Check(query url.Values) error {
	for name, values := range query {
		if !slices.ContainsFunc(values, func(v string) bool { return v != "" }) {
			continue
		}
		if err := check(r.Query, "parameter", name, values, r.Pattern); err != nil {
			return err
		}
	}
	return nil
}

// CheckFilter refuses a filter that the route does not take, by its name.
func (r Route) CheckFilter(name string, values []string) error {
	return check(r.Filters, "filter", name, values, r.Pattern)
}

func check(known []Param, what, name string, values []string, pattern string) error {
	i := slices.IndexFunc(known, func(p Param) bool { return p.Name == name })
	switch {
	case i < 0 && what == "filter":
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid filter '%s'", name))
	case i < 0:
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("unknown query parameter %q of %s: it would be ignored, so leave it out", name, pattern))
	case known[i].State == Refused && slices.ContainsFunc(values, func(v string) bool { return !saysNo(v) && !slices.Contains(known[i].Takes, v) }):
		return errdefs.ErrNotImplemented.WithMessage(fmt.Sprintf("the %s %q is not supported: %s", what, name, known[i].Text))
	}
	return nil
}

// saysNo reports whether a parameter asks for nothing.
func saysNo(v string) bool { return slices.Contains([]string{"", "0", "false", "False"}, v) }
