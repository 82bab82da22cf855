package daemon_test

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
)

// TestCreateRefused: what a request to make a container says and nobody does is refused by name, before there is a machine.
func TestCreateRefused(t *testing.T) {
	e := start(t, nil)
	large := strings.Repeat("x", 100_000)
	for _, c := range []struct {
		body   string
		status int
		says   string
	}{
		{`{"Image":"base","Cmd":["sleep"],"Bogus":1}`, 400, `unknown field \"Bogus\"`},
		{`{"Image":"base","Cmd":["sleep"],"HostConfig":{"Bogus":{"a":1}}}`, 400, `unknown field \"HostConfig.Bogus\"`},
		{`{"Image":"base","Cmd":["sleep"],"HostConfig":{"BlkioWeight":500}}`, 501, "HostConfig.BlkioWeight is not supported"},
		{`{"Image":"base","Cmd":["sleep"],"HostConfig":{"Devices":[{"PathOnHost":"/dev/fuse","PathInContainer":"/dev/fuse","CgroupPermissions":"rwm"}]}}`, 501, "mknod /dev/fuse"},
		{`{"Image":"base","Cmd":["sleep"],"HostConfig":{"DeviceRequests":[{"Count":-1,"Capabilities":[["gpu"]]}]}}`, 501, "GPUs"},
		{`{"Image":"base","Cmd":["sleep"],"HostConfig":{"Links":["a:b"]}}`, 501, "a network of your own"},
		{`{"Image":"base","Cmd":["sleep"],"HostConfig":{"SecurityOpt":["seccomp={}"]}}`, 501, "seccomp"},
		{`{"Image":"base","Cmd":["sleep"],"HostConfig":{"NetworkMode":"nosuch"}}`, 400, "network nosuch not found"},
		{`{"Image":"base","Cmd":["sleep"],"HostConfig":{"VolumesFrom":["nosuch"]}}`, 400, "No such container: nosuch"},
		{`{"Image":"nosuch","Cmd":["sleep"]}`, 404, "No such image: nosuch"},
		{`{"Image":"base","Cmd":["sleep"],"Env":["A=` + large + `","B=` + large + `","C=` + large + `","D=` + large + `","E=` + large + `","F=` + large + `"]}`,
			400, "environment (6000"},
		// What clients send that says nothing, or what is so anyway.
		{`{"Image":"base","Cmd":["sleep"],"Runtime":null,"Bogus":"","HostConfig":{"MemorySwappiness":-1,"OomKillDisable":false,"BlkioWeightDevice":[],"Isolation":"default","UsernsMode":"host"}}`, 201, `"Id"`},
	} {
		status, text := e.request(t, "POST", "/containers/create", c.body)
		if status != c.status || !strings.Contains(text, c.says) {
			t.Errorf("%.200s: %d %s, want %d %s", c.body, status, text, c.status, c.says)
		}
	}
	if status, text := e.request(t, "POST", "/containers/any/start", `{"Binds":["/a:/b"]}`); status != 400 || !strings.Contains(text, "non-empty request body") {
		t.Errorf("a start with a configuration: %d %s", status, text)
	}
}

// request sends a body to the API and returns the answer's status and text.
func (e *engine) request(t *testing.T, method, path, body string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(e.ctx(), method, "http://docker"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	answer, err := e.dialer().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(text)
}

// TestAnswersHaveDockersKeys: clients of earlier versions find all the keys that Docker's answers have.
func TestAnswersHaveDockersKeys(t *testing.T) {
	e := start(t, nil)
	for _, r := range []struct{ path, body string }{
		{"/containers/create?name=web", `{"Image":"base","Cmd":["sleep"]}`}, {"/containers/web/start", ""}, {"/containers/web/exec", `{"Cmd":["sleep"]}`},
	} {
		if status, text := e.request(t, "POST", r.path, r.body); status >= 300 {
			t.Fatalf("%s: %d %s", r.path, status, text)
		}
	}
	var inspected struct{ ExecIDs []string }
	get := func(path string) (out any) {
		status, text := e.request(t, "GET", "/v1.41"+path, "")
		if err := json.Unmarshal([]byte(text), &out); status != 200 || err != nil {
			t.Fatalf("%s: %d %s, %v", path, status, text, err)
		}
		if path == "/containers/web/json" {
			_ = json.Unmarshal([]byte(text), &inspected) // it was decoded before
		}
		if list, ok := out.([]any); ok {
			return list[0]
		}
		return out
	}
	have := map[string]any{"inspect": get("/containers/web/json"), "list": get("/containers/json"), "info": get("/info")}
	have["exec"] = get("/exec/" + inspected.ExecIDs[0] + "/json")
	missing := map[string]string{
		"info BridgeNfIptables": "until 1.49; there is no bridge", "info BridgeNfIp6tables": "as the other",
		"info KernelMemory": "until 1.41; no longer possible", "info KernelMemoryTCP": "as the other",
		"info ContainerdCommit.Expected": "until 1.48", "info RuncCommit.Expected": "until 1.48", "info InitCommit.Expected": "until 1.48",
		"inspect HostConfig.Runtime": "open where the request left it open: a copy of the container is to be forked where it can be, too",
	}
	file, err := os.ReadFile("testdata/keys-1.41.txt")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(file)) {
		name, path, ok := strings.Cut(strings.TrimSpace(line), " ")
		if _, listed := missing[name+" "+path]; !ok || name == "#" || listed {
			continue
		}
		v := have[name]
		for key := range strings.SplitSeq(path, ".") {
			object, _ := v.(map[string]any)
			if v, ok = object[key]; !ok {
				t.Errorf("the answer of %s has no %s", name, path)
				break
			}
		}
	}
	host := have["inspect"].(map[string]any)["HostConfig"].(map[string]any)
	for key, want := range map[string]any{
		"IpcMode": "private", "CgroupnsMode": "private", "ShmSize": 64.0 * (1 << 20), "NetworkMode": "bridge", "Memory": 512.0 * (1 << 20), "MemorySwap": 512.0 * (1 << 20),
	} {
		if host[key] != want {
			t.Errorf("HostConfig.%s is %v, want %v", key, host[key], want)
		}
	}
	if log := host["LogConfig"].(map[string]any); log["Type"] != "json-file" || host["RestartPolicy"].(map[string]any)["Name"] != "no" {
		t.Errorf("LogConfig %v, RestartPolicy %v", log, host["RestartPolicy"])
	}
}

// TestListBounds: docker-py asks for what came after or before a container by parameters of their own.
func TestListBounds(t *testing.T) {
	e := start(t, nil)
	for _, name := range []string{"one", "two", "three"} {
		if status, text := e.request(t, "POST", "/containers/create?name="+name, `{"Image":"base","Cmd":["sleep"]}`); status != 201 {
			t.Fatalf("%d %s", status, text)
		}
	}
	for query, want := range map[string][]string{
		"since=two": {"/three"}, "before=two": {"/one"}, "since=one&before=three": {"/two"}, "": {"/three", "/two", "/one"},
	} {
		status, text := e.request(t, "GET", "/containers/json?all=1&"+query, "")
		var list []struct{ Names []string }
		if err := json.Unmarshal([]byte(text), &list); err != nil || status != 200 {
			t.Fatalf("%s: %d %s, %v", query, status, text, err)
		}
		var got []string
		for _, c := range list {
			got = append(got, c.Names...)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", query, got, want)
		}
	}
	if status, text := e.request(t, "GET", "/containers/json?since=nosuch", ""); status != 404 {
		t.Errorf("since=nosuch: %d %s", status, text)
	}
}
