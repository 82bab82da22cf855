package main

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/spf13/cobra"
)

// fakeForks answers as the controller does for forks and templates, and keeps what it was asked.
type fakeForks struct {
	mu      sync.Mutex
	calls   []string
	asked   map[string]any // body of the fork
	created []container.CreateRequest
	fails   string // name of a container that does not start
	block   chan struct{}

	measures bool // it says what machines take
}

const templateList = `[{"Name":"cvm-template-1","State":"frozen","MemoryMiB":256,"CPUs":2,"Kernel":"cvm/boot/vmlinux-12","Version":"v1","Children":3,"Warm":1,"Created":"2026-01-01T00:00:00Z"}]`

func (f *fakeForks) start(t *testing.T) *app {
	t.Helper()
	mux := http.NewServeMux()
	handle := func(pattern string, h http.HandlerFunc) {
		method, path, _ := strings.Cut(pattern, " ")
		record := func(w http.ResponseWriter, r *http.Request) {
			f.mu.Lock()
			f.calls = append(f.calls, r.Method+" "+strings.TrimPrefix(r.URL.Path, "/v1.47"))
			f.mu.Unlock()
			w.Header().Set("Content-Type", "application/json")
			h(w, r)
		}
		mux.HandleFunc(method+" "+path, record)
		mux.HandleFunc(method+" /v1.47"+path, record)
	}
	mux.HandleFunc("/_ping", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Api-Version", "1.47") })
	handle("POST /containers/web/fork", f.fork)
	handle("GET /templates", func(w http.ResponseWriter, r *http.Request) {
		list := templateList
		if f.measures && r.URL.Query().Get("memory") == "1" {
			list = strings.Replace(list, `"Children"`, `"SharedMiB":48,"PrivateMiB":0,"OverheadMiB":57,"Children"`, 1)
		}
		io.WriteString(w, list)
	})
	handle("DELETE /templates/cvm-template-1", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	handle("POST /containers/create", func(w http.ResponseWriter, r *http.Request) {
		var req container.CreateRequest
		json.NewDecoder(r.Body).Decode(&req)
		f.mu.Lock()
		f.created = append(f.created, req)
		f.mu.Unlock()
		w.WriteHeader(http.StatusCreated)
		io.WriteString(w, `{"Id":"id-`+r.URL.Query().Get("name")+`"}`)
	})
	handle("POST /containers/{id}/start", func(w http.ResponseWriter, r *http.Request) {
		if f.block != nil {
			close(f.block)
			<-r.Context().Done()
		}
		if r.PathValue("id") == "id-"+f.fails {
			w.WriteHeader(http.StatusInternalServerError)
			io.WriteString(w, `{"message":"no memory"}`)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	handle("POST /containers/cvm-template-web/fork", f.fork)
	handle("GET /containers/{id}/json", func(w http.ResponseWriter, r *http.Request) {
		if id := r.PathValue("id"); strings.HasPrefix(id, templatePrefix) && id != "cvm-template-web" {
			w.WriteHeader(http.StatusNotFound)
			io.WriteString(w, `{"message":"No such container: `+id+`"}`)
			return
		}
		io.WriteString(w, `{"Name":"/`+strings.TrimPrefix(r.PathValue("id"), "id-")+`","Fork":{"Generation":1,"Index":7,"Receipt":[{"name":"clock","micros":1500}]}}`)
	})
	handle("DELETE /containers/{id}", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	handle("POST /host/quiesce", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return &app{host: "tcp://" + server.Listener.Addr().String()}
}

func (f *fakeForks) fork(w http.ResponseWriter, r *http.Request) {
	json.NewDecoder(r.Body).Decode(&f.asked)
	w.WriteHeader(http.StatusCreated)
	io.WriteString(w, `{"Children":[
		{"Id":"0123456789abcdef","Name":"web-1","Generation":1,"Index":1,"Receipt":[{"name":"entropy","micros":200},{"name":"clock","micros":1300}]},
		{"Id":"","Name":"web-2","Generation":1,"Index":2,"Error":"no memory"}]}`)
}

// callsOf are the calls so far that begin with a method and path.
func (f *fakeForks) callsOf(prefix string) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.calls {
		if strings.HasPrefix(c, prefix) {
			n++
		}
	}
	return n
}

func TestForkContainer(t *testing.T) {
	f := &fakeForks{}
	out, code := runCVM(t, f.start(t), "fork", "web", "-n", "2", "--name", "shard", "--at-point")
	if code != 1 {
		t.Errorf("exit %d although a child failed", code)
	}
	for _, want := range []string{"forking web into 2", "0123456789ab", "web-1", "1.5ms", "clock 1.3ms", "cannot make web-2: no memory"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
	if f.asked["Count"] != 2.0 || f.asked["AtPoint"] != true || len(f.asked["Names"].([]any)) != 2 || f.asked["Names"].([]any)[1] != "shard-2" {
		t.Errorf("asked for %v", f.asked)
	}
}

// TestForkContainerNamedLikeATemplate: the container is forked, not taken for a template.
func TestForkContainerNamedLikeATemplate(t *testing.T) {
	f := &fakeForks{}
	if out, _ := runCVM(t, f.start(t), "fork", "cvm-template-web", "-n", "2"); !strings.Contains(out, "web-1") {
		t.Errorf("no children of the container: %s", out)
	}
	if f.callsOf("POST /containers/cvm-template-web/fork") != 1 || f.callsOf("GET /templates") != 0 {
		t.Errorf("calls %v", f.calls)
	}
}

func TestForkMistakes(t *testing.T) {
	a := (&fakeForks{}).start(t)
	for args, want := range map[string]string{
		"fork web -n 0":                            "cannot fork web: want a number of children from 1 to 256, not 0",
		"fork web -n 257":                          "want a number of children from 1 to 256",
		"fork web echo hi":                         "leave out --image and the command",
		"fork web --image i":                       "leave out --image and the command",
		"fork cvm-template-1":                      "name what its children run with --image",
		"fork cvm-template-2 --image i":            "there is no template cvm-template-2",
		"fork cvm-template-1 --image i --at-point": "leave out --at-point",
		"fork nosuch":                              "cannot fork nosuch: the host answers 404",
	} {
		if out, code := runCVM(t, a, strings.Fields(args)...); code != 1 || !strings.Contains(out, want) {
			t.Errorf("%s: exit %d, %q; want %q", args, code, out, want)
		}
	}
}

func TestForkTemplate(t *testing.T) {
	f := &fakeForks{fails: "w-2"}
	out, code := runCVM(t, f.start(t), "fork", "cvm-template-1", "-n", "3", "--name", "w", "--image", "img", "--", "ls", "-l")
	if code != 1 || !strings.Contains(out, "cannot make w-2: cannot run it: no memory") || !strings.Contains(out, "w-3") || !strings.Contains(out, "clock 1.5ms") {
		t.Errorf("exit %d:\n%s", code, out)
	}
	if len(f.created) != 3 || f.callsOf("DELETE /containers/id-w-2") != 1 || f.callsOf("DELETE /containers/") != 1 {
		t.Errorf("%d made, calls %v", len(f.created), f.calls)
	}
	c := f.created[0]
	if c.Image != "img" || strings.Join(c.Cmd, " ") != "ls -l" || c.HostConfig.Runtime != "fork" || c.HostConfig.Memory != 256<<20 || c.HostConfig.NanoCPUs != 2e9 {
		t.Errorf("made %+v, %+v", c.Config, c.HostConfig)
	}
}

// TestForkTemplateBrokenOff: Ctrl-C removes what was made.
func TestForkTemplateBrokenOff(t *testing.T) {
	f := &fakeForks{block: make(chan struct{})}
	a := f.start(t)
	var out strings.Builder
	a.in, a.out, a.err = strings.NewReader(""), &out, &out
	root := newRoot(a)
	root.SetArgs([]string{"fork", "cvm-template-1", "--name", "w", "--image", "img"})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-f.block
		cancel()
	}()
	if err := root.ExecuteContext(ctx); err == nil {
		t.Error("no error of a fork that was broken off")
	}
	if f.callsOf("DELETE /containers/id-w-1") == 0 {
		t.Errorf("what was made is left: %v", f.calls)
	}
}

func TestTemplates(t *testing.T) {
	f := &fakeForks{}
	a := f.start(t)
	out, code := runCVM(t, a, "templates")
	if code != 0 || !strings.Contains(out, "cvm-template-1   256      2      vmlinux-12   v1       frozen   3          1      -       -        -") {
		t.Errorf("exit %d:\n%s", code, out)
	}
	if out, _ := runCVM(t, a, "templates", "-q"); out != "cvm-template-1\n" {
		t.Errorf("-q: %q", out)
	}
	if out, _ := runCVM(t, a, "templates", "--json"); !strings.Contains(out, `"SharedMiB": null`) {
		t.Errorf("--json: %s", out)
	}
	f.measures = true
	if out, _ := runCVM(t, a, "templates"); !strings.Contains(out, "3          1      -       48       0         ") {
		t.Errorf("measured: %s", out)
	}
	if out, _ := runCVM(t, a, "templates", "--json"); !strings.Contains(out, `"OverheadMiB": 57`) {
		t.Errorf("measured, --json: %s", out)
	}
	if out, code := runCVM(t, a, "templates", "rm", "cvm-template-1"); code != 0 || out != "cvm-template-1\n" {
		t.Errorf("rm: exit %d, %q", code, out)
	}
	if names, _ := a.complete(templateNames)(&cobra.Command{}, nil, ""); len(names) != 1 || names[0] != "cvm-template-1" {
		t.Errorf("completion: %q", names)
	}
	if out, code := runCVM(t, &app{host: "unix://" + filepath.Join(t.TempDir(), "none")}, "templates"); code != 1 || !strings.Contains(out, "cvm up") {
		t.Errorf("without a host: exit %d, %s", code, out)
	}
}

func TestInspectFormat(t *testing.T) {
	a := (&fakeForks{}).start(t)
	out, code := runCVM(t, a, "inspect", "-f", `{{.Name}}:{{range .Fork.Receipt}} {{.name}}={{.micros}}{{end}}`, "id-x", "id-y")
	if code != 0 || out != "/x: clock=1500\n/y: clock=1500\n" {
		t.Errorf("exit %d: %q", code, out)
	}
	for format, want := range map[string]string{"{{.Nam}}": "cannot use the format", "{{": "cannot read the format"} {
		if out, code := runCVM(t, a, "inspect", "-f", format, "id-x"); code != 1 || !strings.Contains(out, want) {
			t.Errorf("%s: exit %d, %q; want %q", format, code, out, want)
		}
	}
}

func TestRunRuntime(t *testing.T) {
	f := &fakeForks{}
	if out, code := runCVM(t, f.start(t), "run", "-d", "--name", "x", "--runtime", "boot", "img"); code != 0 || f.created[0].HostConfig.Runtime != "boot" {
		t.Errorf("exit %d, %s, %+v", code, out, f.created)
	}
}

func TestHostNumbers(t *testing.T) {
	for _, args := range []string{"up --templates -1", "up --warm 1001", "up --prestart -2"} {
		if out, code := runCVM(t, &app{paths: testPaths(t)}, strings.Fields(args)...); code != 1 || !strings.Contains(out, "want a number from 0 to 1000") {
			t.Errorf("%s: exit %d, %s", args, code, out)
		}
	}
	for _, ports := range []string{"0", "x", "5432/sctp", "9-8"} {
		if out, code := runCVM(t, &app{paths: testPaths(t)}, "up", "--host-gateway", ports); code != 1 || !strings.Contains(out, "--host-gateway: cannot use") {
			t.Errorf("--host-gateway %s: exit %d, %s", ports, code, out)
		}
	}
	passed := hostConfig{hostGateway: "5432,53/udp"}
	if got := strings.Join(passed.args(paths{}), " "); !strings.Contains(got, "--host-gateway 5432,53/udp") {
		t.Errorf("arguments %q", got)
	}
	h := hostConfig{templates: 3, warm: 2, prestart: 0}
	if got := strings.Join(h.args(paths{}), " "); !strings.HasSuffix(got, "--templates 3 --warm 2 --prestart 0") {
		t.Errorf("arguments %q", got)
	}
}

// TestForkNotify: whom --notify means.
func TestForkNotify(t *testing.T) {
	for text, want := range map[string]notify{
		"USR1": {Signal: "USR1"}, "all:10": {Signal: "10", All: true}, "exec:/bin/rm -f /key": {Command: []string{"/bin/rm", "-f", "/key"}},
	} {
		f := &fakeForks{}
		_, _ = runCVM(t, f.start(t), "fork", "web", "--notify", text)
		var asked struct{ Notify notify }
		raw, _ := json.Marshal(f.asked)
		if err := json.Unmarshal(raw, &asked); err != nil || !reflect.DeepEqual(asked.Notify, want) {
			t.Errorf("--notify %s: asked for %s, %v", text, raw, err)
		}
	}
	f := &fakeForks{}
	if out, code := runCVM(t, f.start(t), "fork", "cvm-template-1", "--image", "img", "--notify", "USR1"); code != 1 || !strings.Contains(out, "leave out --notify") {
		t.Errorf("of a template: exit %d, %s", code, out)
	}
}
