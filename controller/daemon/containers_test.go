package daemon_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/internal/vmtest"
)

func (e *engine) create(name string, conf container.Config, host container.HostConfig) string {
	e.t.Helper()
	if conf.Image == "" {
		conf.Image = "base"
	}
	res, err := e.docker.ContainerCreate(e.ctx(), client.ContainerCreateOptions{Name: name, Config: &conf, HostConfig: &host})
	if err != nil {
		e.t.Fatal(err)
	}
	return res.ID
}

func (e *engine) begin(id string) {
	e.t.Helper()
	if _, err := e.docker.ContainerStart(e.ctx(), id, client.ContainerStartOptions{}); err != nil {
		e.t.Fatal(err)
	}
}

// exitOf waits for what ContainerWait began and returns the exit code.
func (e *engine) exitOf(res client.ContainerWaitResult) int {
	e.t.Helper()
	select {
	case err := <-res.Error:
		e.t.Fatal(err)
		return 0
	case r := <-res.Result:
		return int(r.StatusCode)
	}
}

func (e *engine) state(id string) *container.State {
	e.t.Helper()
	res, err := e.docker.ContainerInspect(e.ctx(), id, client.ContainerInspectOptions{})
	if err != nil {
		e.t.Fatal(err)
	}
	return res.Container.State
}

func (e *engine) logs(id string, opt client.ContainerLogsOptions) string {
	e.t.Helper()
	opt.ShowStdout, opt.ShowStderr = true, true
	res, err := e.docker.ContainerLogs(e.ctx(), id, opt)
	if err != nil {
		e.t.Fatal(err)
	}
	defer res.Close()
	var out bytes.Buffer
	if _, err := stdcopy.StdCopy(&out, &out, res); err != nil {
		e.t.Fatal(err)
	}
	return out.String()
}

func TestLife(t *testing.T) {
	e := start(t, nil)
	id := e.create("web", container.Config{Cmd: []string{"sleep"}, Labels: map[string]string{"a": "b"}}, container.HostConfig{})
	if s := e.state(id); s.Status != "created" || s.ExitCode != 0 {
		t.Errorf("after create: %+v", s)
	}
	e.begin(id)
	if s := e.state("web"); !s.Running || s.Pid == 0 {
		t.Errorf("after start: %+v", s)
	}
	if _, err := e.docker.ContainerRemove(e.ctx(), "web", client.ContainerRemoveOptions{}); !errdefs.IsConflict(err) ||
		!strings.Contains(err.Error(), "container is running: stop the container before removing or force remove") {
		t.Errorf("rm of a running container: %v", err)
	}
	list, err := e.docker.ContainerList(e.ctx(), client.ContainerListOptions{Filters: client.Filters{}.Add("label", "a=b").Add("name", "web").Add("status", "running")})
	if err != nil || len(list.Items) != 1 || list.Items[0].ID != id || list.Items[0].Names[0] != "/web" {
		t.Errorf("list: %+v, %v", list.Items, err)
	}
	if _, err := e.docker.ContainerRename(e.ctx(), "web", client.ContainerRenameOptions{NewName: "shop"}); err != nil {
		t.Fatal(err)
	}
	if _, err := e.docker.ContainerStop(e.ctx(), "shop", client.ContainerStopOptions{}); err != nil {
		t.Fatal(err)
	}
	if s := e.state("shop"); s.Status != "exited" || s.ExitCode != 128+15 || s.FinishedAt == "" {
		t.Errorf("after stop: %+v", s)
	}
	e.begin("shop")
	if _, err := e.docker.ContainerKill(e.ctx(), "shop", client.ContainerKillOptions{}); err != nil {
		t.Fatal(err)
	}
	if s := e.state("shop"); s.Status != "exited" || s.ExitCode != 128+9 {
		t.Errorf("after kill: %+v", s)
	}
	if _, err := e.docker.ContainerRemove(e.ctx(), id[:12], client.ContainerRemoveOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := e.docker.ContainerInspect(e.ctx(), id, client.ContainerInspectOptions{}); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "No such container: "+id) {
		t.Errorf("inspect after rm: %v", err)
	}
}

// TestWaitAndLogs: a wait that began before the start sees the end of a process that lives for no time.
func TestWaitAndLogs(t *testing.T) {
	e := start(t, nil)
	id := e.create("short", container.Config{Cmd: []string{"exit", "7"}}, container.HostConfig{})
	for range 2 { // the second run must not be taken for ended because the first one was
		end := e.docker.ContainerWait(e.ctx(), id, client.ContainerWaitOptions{Condition: container.WaitConditionNextExit})
		e.begin(id)
		if code := e.exitOf(end); code != 7 {
			t.Errorf("exit code %d, want 7", code)
		}
	}
	if code := e.exitOf(e.docker.ContainerWait(e.ctx(), id, client.ContainerWaitOptions{})); code != 7 {
		t.Errorf("exit code of a container that does not run: %d, want 7", code)
	}
	if got := e.logs(id, client.ContainerLogsOptions{}); got != "bye\nbye\n" {
		t.Errorf("log %q", got)
	}
	removed := e.docker.ContainerWait(e.ctx(), id, client.ContainerWaitOptions{Condition: container.WaitConditionRemoved})
	if _, err := e.docker.ContainerRemove(e.ctx(), id, client.ContainerRemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	if code := e.exitOf(removed); code != 7 {
		t.Errorf("exit code of a removed container: %d, want 7", code)
	}
}

// TestSurvivesController: what a controller knows is in the machines, and what ended without one is removed by the next.
func TestSurvivesController(t *testing.T) {
	e := start(t, nil)
	running := e.create("running", container.Config{Cmd: []string{"sleep"}}, container.HostConfig{})
	gone := e.create("gone", container.Config{Cmd: []string{"sleep"}}, container.HostConfig{AutoRemove: true})
	e.begin(running)
	e.begin(gone)
	e.stop()
	host := e.connect()
	vm, ok := host.Get(gone)
	if !ok {
		t.Fatal("the machine went with the controller")
	}
	if err := host.PowerOff(e.ctx(), vm.Ref); err != nil {
		t.Fatal(err)
	}
	e.run()
	if s := e.state("running"); !s.Running {
		t.Errorf("the running container: %+v", s)
	}
	_, err := host.Wait(e.ctx(), vm.Ref, func(vsphere.VM) bool { return false })
	if !errdefs.IsNotFound(err) {
		t.Errorf("the container that ended is still there: %v", err)
	}
}

// connect opens a session of the test's own with the host.
func (e *engine) connect() *vsphere.Client {
	e.t.Helper()
	at := e.host.Endpoint
	host, err := vsphere.Connect(context.Background(), vsphere.Config{URL: at.URL, Username: at.Username, Password: at.Password, CAFile: at.CAFile})
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() { host.Close() })
	return host
}

// TestHostRestart: the watch and the session are renewed when the host was away.
func TestHostRestart(t *testing.T) {
	e := start(t, nil)
	id := e.create("web", container.Config{Cmd: []string{"sleep"}}, container.HostConfig{})
	e.begin(id)
	e.host.Stop()
	e.host.Run()
	if _, err := e.docker.ContainerKill(e.ctx(), "web", client.ContainerKillOptions{}); err != nil {
		t.Fatal(err)
	}
	if s := e.state("web"); s.Status != "exited" || s.ExitCode != 128+9 {
		t.Errorf("after the host's restart and a kill: %+v", s)
	}
}

func TestBadRequests(t *testing.T) {
	e := start(t, nil)
	e.create("taken", container.Config{Cmd: []string{"true"}}, container.HostConfig{})
	dial := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", e.socket)
	}}}
	for _, c := range []struct {
		name, method, path, body string
		status                   int
		says                     string
	}{
		{"unknown image", "POST", "/containers/create", `{"Image":"nosuch","Cmd":["x"]}`, 404, "No such image: nosuch:latest"},
		{"name taken", "POST", "/containers/create?name=taken", `{"Image":"base","Cmd":["x"]}`, 409, `The container name \"/taken\" is already in use by container`},
		{"bad name", "POST", "/containers/create?name=a%20b", `{"Image":"base","Cmd":["x"]}`, 400, "Invalid container name"},
		{"bad JSON", "POST", "/containers/create", `{"Image":`, 400, "invalid JSON"},
		{"empty body", "POST", "/containers/create", ``, 400, "got EOF"},
		{"no configuration", "POST", "/containers/create", `{}`, 400, "config cannot be empty"},
		{"no command", "POST", "/containers/create", `{"Image":"base"}`, 400, "no command specified"},
		{"oversized body", "POST", "/containers/create", `{"Image":"` + strings.Repeat("x", 5<<20) + `"}`, 413, "larger than"},
		{"too little memory", "POST", "/containers/create", `{"Image":"base","Cmd":["x"],"HostConfig":{"Memory":1024}}`, 400, "Minimum memory limit allowed is"},
		{"volume", "POST", "/containers/create", `{"Image":"base","Cmd":["x"],"HostConfig":{"Binds":["/a:/b"]}}`, 501, "cannot mount the host's /a"},
		{"version too new", "GET", "/v9.0/info", ``, 400, "client version 9.0 is too new"},
		{"version too old", "GET", "/v1.1/info", ``, 400, "client version 1.1 is too old"},
		{"unknown path", "GET", "/nowhere", ``, 404, "page not found"},
		{"unknown container", "POST", "/containers/nosuch/start", ``, 404, "No such container: nosuch"},
		{"stop of a stopped one", "POST", "/containers/taken/stop", ``, 304, ""},
		{"kill of a stopped one", "POST", "/containers/taken/kill", ``, 409, "is not running"},
		{"unknown signal", "POST", "/containers/taken/kill?signal=NOPE", ``, 400, "invalid signal: NOPE"},
		{"exec in a stopped one", "POST", "/containers/taken/exec", `{"Cmd":["x"]}`, 409, "is not running"},
		{"unknown exec", "GET", "/exec/nosuch/json", ``, 404, "No such exec instance: nosuch"},
		{"unknown filter", "GET", "/containers/json?filters=%7B%22x%22%3A%5B%22y%22%5D%7D", ``, 400, "invalid filter 'x'"},
		{"unknown condition", "POST", "/containers/taken/wait?condition=x", ``, 400, "invalid condition"},
		{"no stream", "GET", "/containers/taken/logs", ``, 400, "you must choose at least one stream"},
		{"bad detach keys", "POST", "/containers/taken/attach?stream=1&stdout=1&detachKeys=nope", ``, 400, "invalid detach keys"},
		{"bad terminal size", "POST", "/containers/taken/resize?h=0&w=1", ``, 400, "invalid terminal size"},
		{"archive of no path", "GET", "/containers/taken/archive", ``, 400, "path cannot be empty"},
		{"archive of no container", "GET", "/containers/nosuch/archive?path=/x", ``, 404, "No such container: nosuch"},
	} {
		req, err := http.NewRequestWithContext(e.ctx(), c.method, "http://docker"+c.path, strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		res, err := dial.Do(req)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if res.StatusCode != c.status || !strings.Contains(string(body), c.says) {
			t.Errorf("%s: %d %s; want %d and %q", c.name, res.StatusCode, body, c.status, c.says)
		}
	}
}

// TestDockerCLI drives the stock docker command.
func TestDockerCLI(t *testing.T) {
	docker, err := exec.LookPath("docker")
	if err != nil {
		vmtest.Missing(t, "there is no docker command (try: apt-get install docker-cli)")
	}
	e := start(t, nil)
	for _, c := range []struct {
		args  string
		stdin string
		code  int
		out   string
		err   string
	}{
		{"run --rm base echo hello", "", 0, "hello\n", ""},
		{"run --rm base exit 7", "", 7, "", "bye\n"},
		{"run -i --rm base cat", "to the process", 0, "to the process", ""},
		{"run --rm base nosuch", "", 127, "", "executable file not found in $PATH"},
		{"create --name web base sleep", "", 0, "", ""},
		{"start web", "", 0, "web\n", ""},
		{"exec web echo yo", "", 0, "yo\n", ""},
		{"exec -i web cat", "abc", 0, "abc", ""},
		{"exec web exit 9", "", 9, "", "bye\n"},
		{"exec web nosuch", "", 127, "exec failed: exec: \"nosuch\": executable file not found in $PATH", ""},
		{"top web", "", 0, "sleep", ""},
		{"stop web", "", 0, "web\n", ""},
		{"start -a web2", "", 1, "", "No such container: web2"},
		{"run --name say base echo one", "", 0, "one\n", ""},
		{"start -a say", "", 0, "one\n", ""},
		{"logs say", "", 0, "one\none\n", ""},
		{"logs --tail 1 say", "", 0, "one\n", ""},
		{"rm web say", "", 0, "web\nsay\n", ""},
		{"ps -aq", "", 0, "", ""},
		{"network ls -q", "", 0, "", ""},
	} {
		cmd := exec.CommandContext(e.ctx(), docker, strings.Fields(c.args)...)
		cmd.Env = []string{"DOCKER_HOST=unix://" + e.socket, "HOME=" + t.TempDir()}
		cmd.Stdin = strings.NewReader(c.stdin)
		var out, errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errs
		_ = cmd.Run() // the code says it
		exact := strings.HasPrefix(c.args, "run") || strings.HasPrefix(c.args, "start") || strings.HasPrefix(c.args, "logs")
		if code := cmd.ProcessState.ExitCode(); code != c.code || !strings.Contains(out.String(), c.out) || exact && out.String() != c.out || !strings.Contains(errs.String(), c.err) {
			t.Errorf("docker %s: %d, %q, %q; want %d, %q, %q", c.args, code, out.String(), errs.String(), c.code, c.out, c.err)
		}
	}
}

// dialer speaks plain HTTP to the API's socket.
func (e *engine) dialer() *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", e.socket)
	}}}
}
