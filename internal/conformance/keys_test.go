package conformance

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// missingKeys are what dockerd's answers have and ours have not, of all versions, and why that is right.
func missingKeys() map[string]string {
	const (
		noBridge = "there is no bridge of the host"
		noRunc   = "there is no runc"
		gone     = "it was removed from the API, and is not possible here"
		noMasks  = "nothing of /proc is masked where nothing is shared"
		cgroup1  = "it is of version 1 of cgroups; guests have version 2"
		unnamed  = "a tree without its history names none"
	)
	return map[string]string{
		"/info BridgeNfIptables": noBridge, "/info BridgeNfIp6tables": noBridge,
		"/info ContainerdCommit.Expected": noRunc, "/info RuncCommit.Expected": noRunc, "/info InitCommit.Expected": noRunc,
		"/info KernelMemory": gone, "/info KernelMemoryTCP": gone, "/info ExecutionDriver": gone,
		"/info RegistryConfig.AllowNondistributableArtifactsCIDRs": gone, "/info RegistryConfig.AllowNondistributableArtifactsHostnames": gone,
		"/info Runtimes.*.path":                                   "they are no programs",
		"/containers/keys/json HostConfig.MaskedPaths[]":          noMasks,
		"/containers/keys/json HostConfig.ReadonlyPaths[]":        noMasks,
		"/containers/keys/json HostConfig.Runtime":                "open where the request left it open: a copy of the container is to be forked where it can be, too",
		"/containers/keys/stats memory_stats.max_usage":           cgroup1,
		"/containers/keys/stats cpu_stats.cpu_usage.percpu_usage": cgroup1, "/containers/keys/stats cpu_stats.cpu_usage.percpu_usage[]": cgroup1,
		"/containers/keys/stats precpu_stats.cpu_usage.percpu_usage": cgroup1, "/containers/keys/stats precpu_stats.cpu_usage.percpu_usage[]": cgroup1,
		"/version GitCommit": unnamed, "/version BuildTime": unnamed,
	}
}

// testKeys compares the answers of both sides about one container, its image, network and volume at each version of the API that Debian's dockerd
// speaks: what its answers have ours have, and of one kind.
func (p *pair) testKeys(t *testing.T) {
	t.Cleanup(func() { p.both(func(s *side) { s.reset(t) }) })
	exec := map[*side]string{}
	for _, s := range []*side{p.theirs, p.ours} {
		s.must(t, "docker network create keys && docker run -d --name keys --network keys -v keys:/data -p 80 --label l=v $IMAGE sleep 1000 && docker exec -d keys sleep 1000 && docker exec keys touch /tmp/new")
		exec[s] = strings.TrimSpace(s.must(t, "docker inspect -f '{{index .ExecIDs 0}}' keys"))
	}
	accepted, met := missingKeys(), map[string]bool{}
	const oldest, newest = 24, 41
	for minor := oldest; minor <= newest; minor++ {
		paths := []string{
			"/info", "/version", "/containers/json?size=1", "/containers/keys/json?size=1", "/containers/keys/top", "/containers/keys/changes", "/exec/ID/json",
			"/images/json", "/images/" + image + "/json", "/images/" + image + "/history", "/networks", "/networks/keys", "/volumes", "/volumes/keys", "/system/df",
		}
		if minor == oldest || minor == newest { // it takes two seconds
			paths = append(paths, "/containers/keys/stats?stream=0")
		}
		for _, path := range paths {
			at := fmt.Sprintf("/v1.%d%s", minor, path)
			theirs := p.theirs.keys(t, strings.Replace(at, "ID", exec[p.theirs], 1))
			ours := p.ours.keys(t, strings.Replace(at, "ID", exec[p.ours], 1))
			for _, key := range slices.Sorted(maps.Keys(theirs)) {
				what, _, _ := strings.Cut(path, "?")
				name := what + " " + key
				if accepted[name] != "" && ours[key] == "" {
					met[name] = true
					continue
				}
				if have := ours[key]; have == "" || have != theirs[key] && have != "null" && theirs[key] != "null" {
					t.Errorf("version 1.%d: %s is %q there, and %q here", minor, name, theirs[key], have)
				}
			}
		}
	}
	for name := range accepted {
		if !met[name] && !strings.HasPrefix(name, "/version ") { // it may have a history
			t.Errorf("%s is listed as missing, and is not", name)
		}
	}
}

// keys are the keys of an answer, by their paths, and the kinds of their values. Keys that are names or identifiers are "*".
func (s *side) keys(t *testing.T, path string) map[string]string {
	t.Helper()
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", s.socket)
	}
	transport := &http.Transport{DialContext: dial, DisableKeepAlives: true}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://docker"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	var v any
	if err != nil || res.StatusCode != http.StatusOK || json.Unmarshal(text, &v) != nil {
		t.Errorf("%s: %s: %d %.300s, %v", s.name, path, res.StatusCode, text, err)
	}
	all := map[string]string{}
	collectKeys(all, "", v)
	return all
}

func collectKeys(all map[string]string, path string, v any) {
	kind := "null"
	switch v := v.(type) {
	case map[string]any:
		kind = "object"
		for key, inner := range v {
			if namedKeys(path) {
				key = "*"
			}
			collectKeys(all, strings.TrimPrefix(path+"."+key, "."), inner)
		}
	case []any:
		kind = "list"
		for _, inner := range v {
			collectKeys(all, path+"[]", inner)
		}
	case string:
		kind = "text"
	case float64:
		kind = "number"
	case bool:
		kind = "boolean"
	}
	if all[path] == "" || all[path] == "null" {
		all[path] = kind
	}
}

// namedKeys reports whether the keys of an object are names, of which each side has its own.
func namedKeys(path string) bool {
	last := path[strings.LastIndexByte(path, '.')+1:]
	return slices.Contains([]string{
		"Networks", "Ports", "Labels", "Containers", "Runtimes", "IndexConfigs", "Options", "Volumes", "Data", "networks", "stats", "ExposedPorts", "EndpointsConfig", "Details",
	}, last)
}
