package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func testPaths(t *testing.T) paths {
	t.Helper()
	dir, err := os.MkdirTemp("", "cvm") // a short name, for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	p := paths{State: filepath.Join(dir, "s"), Run: filepath.Join(dir, "r")}
	if err := p.prepare(); err != nil {
		t.Fatal(err)
	}
	return p
}

// startControl serves the control socket as a running host does.
func startControl(t *testing.T, p paths) (asked context.Context) {
	t.Helper()
	l, err := listenControl(p.controlSocket())
	if err != nil {
		t.Fatal(err)
	}
	asked, shutdown := context.WithCancel(context.Background())
	s := hostStatus{PID: 7, DockerHost: "unix:///d", Log: "/l"}
	s.VSphere.Password = "secret"
	server := controlServer(s, false, shutdown)
	go server.Serve(l)
	t.Cleanup(func() { server.Close(); shutdown() })
	return asked
}

func TestControl(t *testing.T) {
	p := testPaths(t)
	if _, err := runningHost(t.Context(), p); !errors.Is(err, errNotRunning) {
		t.Fatalf("without a host: %v", err)
	}
	asked := startControl(t, p)
	s, err := runningHost(t.Context(), p)
	if err != nil || s.PID != 7 || s.VSphere.Password != "secret" {
		t.Fatalf("%+v, %v", s, err)
	}
	info, err := os.Stat(p.controlSocket())
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket, which tells a password, has mode %v, %v", info.Mode(), err)
	}
	if err := controlCall(t.Context(), p, http.MethodPost, "/shutdown", nil); err != nil {
		t.Fatal(err)
	}
	<-asked.Done()
}

func TestListenControlReplacesDeadSocket(t *testing.T) {
	p := testPaths(t)
	if err := os.WriteFile(p.controlSocket(), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	startControl(t, p)
	if _, err := runningHost(t.Context(), p); err != nil {
		t.Fatal(err)
	}
}

// TestProfiles: they are there when they were asked for, and only then.
func TestProfiles(t *testing.T) {
	for profiles, want := range map[bool]int{false: http.StatusNotFound, true: http.StatusOK} {
		answer := httptest.NewRecorder()
		controlServer(hostStatus{}, profiles, nil).Handler.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/debug/pprof/goroutine?debug=1", nil))
		if answer.Code != want {
			t.Errorf("profiles %v: %d, want %d", profiles, answer.Code, want)
		}
	}
}

func TestLogLevels(t *testing.T) {
	for text, want := range map[string]string{
		"debug":                        "hostd-bridge=debug,controller=debug,supervisor=debug,tether=debug",
		"tether=debug,controller=warn": "controller=warn,tether=debug",
		"debug,controller=error":       "hostd-bridge=debug,controller=error,supervisor=debug,tether=debug",
	} {
		l := logLevels{}
		if err := l.Set(text); err != nil || l.String() != want {
			t.Errorf("%s: %s, %v; want %s", text, l, err, want)
		}
		again := logLevels{}
		if err := again.Set(l.String()); err != nil || again.String() != want {
			t.Errorf("%s is read back as %s, %v", l, again, err)
		}
	}
	for text, want := range map[string]string{"": "no level", "loud": "no level", "qemu=debug": "no part", "tether=loud": "no level"} {
		if err := (logLevels{}).Set(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v; want %q", text, err, want)
		}
	}
}

// TestLoggers: each part logs at its own level, and what tells the parent of progress hears of all that is no debug record.
func TestLoggers(t *testing.T) {
	h := hostConfig{levels: logLevels{}}
	if err := h.levels.Set("controller=debug"); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(h.args(paths{}), " "); !strings.HasSuffix(got, "--log controller=debug") {
		t.Errorf("arguments %q", got)
	}
	var out bytes.Buffer
	logger := h.loggers(&out)
	for _, part := range []string{partHostd, partController} {
		logger(part).Debug("detail")
		logger(part).Info("news")
	}
	if got := strings.Count(out.String(), "detail"); got != 1 || strings.Count(out.String(), "news") != 2 || !strings.Contains(out.String(), "part=controller") {
		t.Errorf("logged\n%s", &out)
	}
}

func TestStatusHidesPassword(t *testing.T) {
	p := testPaths(t)
	startControl(t, p)
	out, code := runCVM(t, &app{paths: p}, "status", "--json")
	if code != 0 || strings.Contains(out, "secret") || !strings.Contains(out, "unix:///d") {
		t.Errorf("exit %d: %s", code, out)
	}
}

func TestStatusAndDownWithoutHost(t *testing.T) {
	p := testPaths(t)
	if out, code := runCVM(t, &app{paths: p}, "status"); code != exitNotRunning || out != "containerVM is not running\n" {
		t.Errorf("status: exit %d: %s", code, out)
	}
	if out, code := runCVM(t, &app{paths: p}, "down"); code != 0 || out != "containerVM is not running\n" {
		t.Errorf("down: exit %d: %s", code, out)
	}
	if out, code := runCVM(t, &app{paths: p}, "env"); code != 1 || !strings.Contains(out, "cvm up") {
		t.Errorf("env: exit %d: %s", code, out)
	}
}

// runCVM runs a command in this process and returns what it wrote, both streams together, and its exit status.
func runCVM(t *testing.T, a *app, args ...string) (string, int) {
	t.Helper()
	var out bytes.Buffer
	if a.in == nil {
		a.in = strings.NewReader("")
	}
	a.out, a.err = &out, &out
	root := newRoot(a)
	root.SetArgs(args)
	code := exitCode(&out, root.ExecuteContext(t.Context()))
	return out.String(), code
}

func TestAwaitEnd(t *testing.T) {
	p := testPaths(t)
	hostLock, err := lock(p.lockFile(), unix.LOCK_EX|unix.LOCK_NB)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lock(p.lockFile(), unix.LOCK_EX|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
		t.Fatalf("a second lock: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := awaitEnd(ctx, p); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
	hostLock.Close()
	if err := awaitEnd(t.Context(), p); err != nil {
		t.Error(err)
	}
}

func TestReport(t *testing.T) {
	start := func(say func(*reporter)) (progress []string, s hostStatus, err error) {
		r, w := io.Pipe()
		go func() { defer w.Close(); say(newReporter(w)) }()
		s, err = readReport(r, func(text string) { progress = append(progress, text) })
		return progress, s, err
	}
	progress, s, err := start(func(r *reporter) {
		log := slog.New(fanout{r}).With("part", "x")
		log.Info("copying the kernel")
		log.Debug("details")
		r.ready(hostStatus{PID: 9})
		log.Info("too late to be of interest")
	})
	if err != nil || s.PID != 9 || len(progress) != 1 || progress[0] != "copying the kernel" {
		t.Errorf("ready: %v, %+v, %v", progress, s, err)
	}
	if _, _, err = start(func(r *reporter) { r.fail(errors.New("no QEMU")) }); err == nil || err.Error() != "no QEMU" {
		t.Errorf("failed: %v", err)
	}
	if _, _, err = start(func(*reporter) {}); !errors.Is(err, errNoReport) {
		t.Errorf("died: %v", err)
	}
}

func FuzzReadReport(f *testing.F) {
	f.Add([]byte(`{"progress":"x"}` + "\n" + `{"ready":{"pid":1}}`))
	f.Add([]byte(`{"error":"x"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		readReport(bytes.NewReader(b), func(string) {})
	})
}

func TestLogFileIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	l, err := openLog(path)
	if err != nil {
		t.Fatal(err)
	}
	l.max = 100
	for range 50 {
		if _, err := io.WriteString(l, "0123456789\n"); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{path, path + ".1"} {
		b, err := os.ReadFile(name)
		if err != nil || len(b) == 0 || len(b) > 100 || len(b)%11 != 0 {
			t.Errorf("%s has %d bytes, %v; want whole lines of at most 100 bytes", name, len(b), err)
		}
	}
}

// TestShellQuote has a shell read what cvm env prints.
func TestShellQuote(t *testing.T) {
	for _, value := range []string{"", "plain", "it's", `"$(id)" \ ` + "`id`", "two\nlines", "''", "*?[a]~!"} {
		out, err := exec.Command("sh", "-c", "printf %s "+shellQuote(value)).Output()
		if err != nil || string(out) != value {
			t.Errorf("a shell reads %q as %q, %v", value, out, err)
		}
	}
}

func TestEnvironment(t *testing.T) {
	var s hostStatus
	s.DockerHost, s.VSphere.URL, s.VSphere.CAFile = "unix:///d", "https://h/sdk", "/ca.pem"
	names := func() (out []string) {
		for _, v := range environment(s) {
			out = append(out, v.name)
		}
		return out
	}
	if got := strings.Join(names(), " "); got != "DOCKER_HOST GOVC_URL GOVC_USERNAME GOVC_PASSWORD GOVC_TLS_CA_CERTS" {
		t.Error(got)
	}
	s.VSphere.CAFile = ""
	if got := strings.Join(names(), " "); got != "DOCKER_HOST GOVC_URL GOVC_USERNAME GOVC_PASSWORD GOVC_INSECURE" {
		t.Error(got)
	}
}

// TestErrorsAreForTerminals: what a host says went wrong does nothing on the terminal of whoever reads it.
func TestErrorsAreForTerminals(t *testing.T) {
	for _, err := range []error{errors.New("a\x1b[2J\u202e"), &exitError{exitNotStarted, errors.New("a\x1b[2J\u202e")}} {
		var out strings.Builder
		exitCode(&out, err)
		if want := "cvm: a\\x1b[2J\\u202e\n"; out.String() != want {
			t.Errorf("%q, want %q", out.String(), want)
		}
	}
}
