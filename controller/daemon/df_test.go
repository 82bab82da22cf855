package daemon_test

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
)

// TestDiskUsage: `docker system df` has what there is, in the form of the version of the API; a prune says what it frees.
func TestDiskUsage(t *testing.T) {
	e := start(t, nil)
	e.create("off", container.Config{Cmd: []string{"true"}}, container.HostConfig{})
	e.begin(e.create("on", container.Config{Cmd: []string{"sleep"}}, container.HostConfig{}))
	get := func(path string) (all map[string]json.RawMessage) {
		t.Helper()
		dial := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", e.socket)
		}}}
		defer dial.CloseIdleConnections()
		res, err := dial.Get("http://docker" + path)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if err := json.NewDecoder(res.Body).Decode(&all); err != nil {
			t.Fatal(err)
		}
		return all
	}
	for path, keys := range map[string][]string{
		"/system/df":                             {"ImageUsage", "ContainerUsage", "VolumeUsage", "BuildCacheUsage"},
		"/v1.44/system/df":                       {"LayersSize", "Images", "Containers", "BuildCache", "BuilderSize"},
		"/v1.44/system/df?type=container":        {"Containers"},
		"/system/df?type=image&type=build-cache": {"ImageUsage", "BuildCacheUsage"},
		"/system/df?type=x":                      {"message"},
	} {
		got := get(path)
		if len(got) != len(keys) {
			t.Errorf("%s: %s, want %v", path, got, keys)
		}
		for _, key := range keys {
			if got[key] == nil {
				t.Errorf("%s: %s, want %v", path, got, keys)
			}
		}
	}
	var u container.DiskUsage
	var old []struct{ Size, VirtualSize int64 }
	if err := json.Unmarshal(get("/v1.41/system/df")["Images"], &old); err != nil || len(old) == 0 || old[0].VirtualSize != old[0].Size { // the older command line reads it
		t.Errorf("images %+v, %v", old, err)
	}
	if err := json.Unmarshal(get("/system/df?verbose=1")["ContainerUsage"], &u); err != nil || u.TotalCount != 2 || u.ActiveCount != 1 || len(u.Items) != 2 || u.Reclaimable == 0 {
		t.Errorf("%+v, %v", u, err)
	}
	pruned, err := e.docker.ContainerPrune(e.ctx(), client.ContainerPruneOptions{})
	if err != nil || len(pruned.Report.ContainersDeleted) != 1 || int64(pruned.Report.SpaceReclaimed) != u.Reclaimable {
		t.Errorf("%+v, %v; want %d bytes", pruned.Report, err, u.Reclaimable)
	}
}
