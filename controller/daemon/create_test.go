package daemon_test

import (
	"io"
	"net/http"
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
		{`{"Image":"base","Cmd":["sleep"],"HostConfig":{"Links":["a:b"]}}`, 501, "--network-alias"},
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
