package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"github.com/moby/term"
)

// fakeAPI answers as a Docker Engine API does, for one container, and keeps what it was asked.
type fakeAPI struct {
	mu    sync.Mutex
	calls []string
	spec  container.CreateRequest
	keys  string // detach keys of the last attach

	startError string                                // message of a failed start
	attached   func(c net.Conn, r *bufio.ReadWriter) // plays the process
	status     int                                   // exit status
}

func (f *fakeAPI) start(t *testing.T) *app {
	t.Helper()
	mux := http.NewServeMux()
	handle := func(pattern string, h http.HandlerFunc) {
		method, path, _ := strings.Cut(pattern, " ")
		mux.HandleFunc(method+" /{version}"+path, func(w http.ResponseWriter, r *http.Request) {
			f.mu.Lock()
			f.calls = append(f.calls, pattern+suffix(r.URL.RawQuery))
			f.mu.Unlock()
			h(w, r)
		})
	}
	mux.HandleFunc("/_ping", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Api-Version", "1.47") })
	handle("POST /containers/create", func(w http.ResponseWriter, r *http.Request) {
		json.NewDecoder(r.Body).Decode(&f.spec)
		w.WriteHeader(http.StatusCreated)
		io.WriteString(w, `{"Id":"abc"}`)
	})
	ended := make(chan struct{})
	handle("POST /containers/abc/attach", func(w http.ResponseWriter, r *http.Request) {
		f.keys = r.URL.Query().Get("detachKeys")
		c, rw, _ := w.(http.Hijacker).Hijack()
		io.WriteString(c, "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
		f.attached(c, rw)
		c.Close()
		close(ended)
	})
	handle("POST /containers/abc/wait", func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		select {
		case <-ended:
		case <-r.Context().Done():
		}
		json.NewEncoder(w).Encode(container.WaitResponse{StatusCode: int64(f.status)})
	})
	handle("POST /containers/abc/start", func(w http.ResponseWriter, _ *http.Request) {
		if f.startError == "" {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusBadRequest)
		json.NewEncoder(w).Encode(map[string]string{"message": f.startError})
	})
	handle("DELETE /containers/abc", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	server := httptest.NewServer(mux)
	t.Cleanup(server.CloseClientConnections)
	return &app{host: "tcp://" + server.Listener.Addr().String()}
}

func suffix(query string) string {
	if query == "" {
		return ""
	}
	return "?" + query
}

func TestRunAttached(t *testing.T) {
	f := &fakeAPI{status: 3, attached: func(c net.Conn, r *bufio.ReadWriter) {
		in, _ := io.ReadAll(r) // ends by the half close alone
		c.Write([]byte("\x01\x00\x00\x00\x00\x00\x00\x04" + "out\n"))
		c.Write([]byte("\x02\x00\x00\x00\x00\x00\x00\x05" + "in=" + string(in)))
	}}
	a := f.start(t)
	a.in = strings.NewReader("x\n")
	out, code := runCVM(t, a, "run", "-i", "--rm", "-e", "A=b", "-m", "256m", "--cpus", "1.5", "-u", "1:2", "-w", "/w", "image", "cmd", "-x")
	if code != 3 || out != "out\nin=x\n" {
		t.Errorf("exit %d: %q", code, out)
	}
	calls := strings.Join(f.calls, "\n")
	order := []string{"create", "attach", "wait?condition=removed", "start"}
	for _, step := range order {
		_, rest, ok := strings.Cut(calls, step)
		if !ok {
			t.Fatalf("want %v in this order, got\n%s", order, strings.Join(f.calls, "\n"))
		}
		calls = rest
	}
	c, h := f.spec.Config, f.spec.HostConfig
	if c.Image != "image" || strings.Join(c.Cmd, " ") != "cmd -x" || strings.Join(c.Env, " ") != "A=b" || c.User != "1:2" || c.WorkingDir != "/w" ||
		h.Memory != 256<<20 || h.NanoCPUs != 15e8 || !h.AutoRemove {
		t.Errorf("created %+v, %+v", c, h)
	}
}

// TestRunDetachKeys types Docker's detach keys and then the user's own, to a host that looks for detach keys as the
// controller does: those that it was told, or Docker's.
func TestRunDetachKeys(t *testing.T) {
	keyboard, terminal, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer keyboard.Close()
	defer terminal.Close()
	f := &fakeAPI{}
	got := make(chan string, 1)
	f.attached = func(_ net.Conn, r *bufio.ReadWriter) {
		keys, err := parseDetachKeys(f.keys)
		if err != nil {
			t.Error(err)
		}
		in, _ := io.ReadAll(term.NewEscapeProxy(r, keys.bytes)) // ends by the host's detach keys, or by the client's close
		got <- string(in)
	}
	a := f.start(t)
	a.in = terminal
	if _, err := term.SetRawTerminal(terminal.Fd()); err != nil { // so that nothing that is typed early is taken for a line
		t.Fatal(err)
	}
	if _, err := keyboard.WriteString("\x10\x11text" + "\x18y"); err != nil {
		t.Fatal(err)
	}
	a.out, a.err = io.Discard, io.Discard // the copy of the output ends after the command
	root := newRoot(a)
	root.SetArgs([]string{"run", "-it", "--detach-keys", "ctrl-x,y", "image"})
	if err := root.ExecuteContext(t.Context()); err != nil {
		t.Error(err)
	}
	if in := <-got; in != "\x10\x11text" {
		t.Errorf("the process was sent %q: Docker's own keys mean nothing when there are others", in)
	}
}

func TestRunThatCannotStart(t *testing.T) {
	for message, status := range map[string]int{
		`exec: "x": executable file not found in $PATH`: 127,
		"exec /x: no such file or directory":            127,
		"exec /x: permission denied":                    126,
		"not enough memory":                             125,
	} {
		f := &fakeAPI{startError: message, attached: func(c net.Conn, r *bufio.ReadWriter) { io.Copy(io.Discard, r) }}
		out, code := runCVM(t, f.start(t), "run", "--rm", "image")
		if code != status || out != "cvm: cannot start the container: "+message+"\n" {
			t.Errorf("exit %d: %s", code, out)
		}
		if last := f.calls[len(f.calls)-1]; last != "DELETE /containers/abc?force=1" {
			t.Errorf("the container that never ran was not removed: %v", f.calls)
		}
	}
}

func TestRunDetached(t *testing.T) {
	f := &fakeAPI{}
	if out, code := runCVM(t, f.start(t), "run", "-d", "image"); code != 0 || out != "abc\n" {
		t.Errorf("exit %d: %s", code, out)
	}
	if f.spec.AttachStdout {
		t.Error("a detached container is created as attached")
	}
}

func TestNoHost(t *testing.T) {
	out, code := runCVM(t, &app{host: "unix:///nonexistent/docker.sock"}, "ps")
	if code != 1 || out != "cvm: cannot list the containers: the host is not running: start it with `cvm up`\n" {
		t.Errorf("exit %d: %s", code, out)
	}
}

// TestStreamDetach types the detach keys: the stream ends although the process does not.
func TestStreamDetach(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	go io.Copy(io.Discard, far)
	in, keyboard := io.Pipe()
	go io.WriteString(keyboard, "text\x10\x11")
	s := &stream{app: &app{in: in, out: io.Discard, err: io.Discard}, conn: client.NewHijackedResponse(near, ""), tty: true, stdin: true, detachKeys: []byte{0x10, 0x11}}
	if err := s.run(t.Context()); !errors.Is(err, errDetached) {
		t.Errorf("run returned %v", err)
	}
}

func TestParse(t *testing.T) {
	for text, want := range map[string]int64{"": 0, "256m": 256 << 20, "1g": 1 << 30, "1048576": 1 << 20} {
		if n, err := parseMemory(text); err != nil || n != want {
			t.Errorf("parseMemory(%q) = %d, %v", text, n, err)
		}
	}
	for _, text := range []string{"0", "-1", "x", "1q"} {
		if n, err := parseMemory(text); err == nil {
			t.Errorf("parseMemory(%q) = %d", text, n)
		}
	}
	for text, want := range map[string]int64{"": 0, "1": 1e9, "0.5": 5e8} {
		if n, err := parseCPUs(text); err != nil || n != want {
			t.Errorf("parseCPUs(%q) = %d, %v", text, n, err)
		}
	}
	for _, text := range []string{"0", "-1", "x", "NaN", "Inf", "1e300"} {
		if n, err := parseCPUs(text); err == nil {
			t.Errorf("parseCPUs(%q) = %d", text, n)
		}
	}
	env := expandEnv([]string{"A=b", "SET", "UNSET", "EMPTY="}, func(n string) (string, bool) { return "v", n == "SET" })
	if strings.Join(env, " ") != "A=b SET=v EMPTY=" {
		t.Error(env)
	}
}

func TestPrintContainers(t *testing.T) {
	now := time.Unix(10000, 0)
	items := []container.Summary{{ID: strings.Repeat("ab", 32), Names: []string{"/r"}, Image: "busybox:demo", Command: "sh -c '\x1b[31m a very long command line indeed'", Created: 10000 - 120, Status: "Up 2 minutes"}}
	var b strings.Builder
	if err := printContainers(&b, items, false, now); err != nil {
		t.Fatal(err)
	}
	want := "ID             IMAGE          COMMAND                          CREATED         STATUS         ADDRESS   NAME\n" +
		"abababababab   busybox:demo   sh -c '\\x1b[31m a very long c…   2 minutes ago   Up 2 minutes   -         r\n"
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
}

func TestInput(t *testing.T) {
	a := &app{in: strings.NewReader("x")}
	if _, err := a.input("/nonexistent"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
	r, err := a.input("-")
	if err != nil {
		t.Fatal(err)
	}
	if b, _ := io.ReadAll(r); string(b) != "x" {
		t.Errorf("standard input: %q", b)
	}
}
