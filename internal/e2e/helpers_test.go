package e2e

import (
	"bufio"
	"context"
	"strings"
	"testing"
	"time"

	"github.com/containervm/containervm/internal/vmtest"
)

// hostTest is a test that shares its host with others.
type hostTest struct {
	name string
	run  func(t *testing.T, h *vmtest.Host)
}

// runAll runs tests one after the other and checks after each that it has left nothing behind.
func runAll(t *testing.T, h *vmtest.Host, tests []hostTest) {
	t.Helper()
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Cleanup(func() { h.CheckIdle(t) })
			test.run(t, h)
		})
	}
}

// image is what most tests run.
const image = vmtest.BusyboxName

// loaded starts a host that has the busybox image.
func loaded(t *testing.T, o vmtest.Options) *vmtest.Host {
	t.Helper()
	h := vmtest.Start(t, o)
	h.MustDocker(t, "load", "-i", vmtest.Busybox(t))
	return h
}

// want ends the test unless the command ended with code and its two outputs contain the texts.
func want(t *testing.T, r vmtest.Result, code int, stdout, stderr string) {
	t.Helper()
	if r.Code != code || !strings.Contains(r.Stdout, stdout) || !strings.Contains(r.Stderr, stderr) {
		t.Fatalf("exit %d, stdout %q, stderr %q; want exit %d, stdout with %q, stderr with %q", r.Code, r.Stdout, r.Stderr, code, stdout, stderr)
	}
}

// equal fails the test unless got is want.
func equal(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s is %q, want %q", what, got, want)
	}
}

// waitLog follows a container's log until a line holds text.
func waitLog(t *testing.T, h *vmtest.Host, container, text string) {
	t.Helper()
	waitLogLines(t, h, container, text, 1)
}

// waitLogLines follows a container's log until that many lines hold text: one for each run that has come so far.
func waitLogLines(t *testing.T, h *vmtest.Host, container, text string, want int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := h.Command(ctx, "docker", "logs", "-f", container)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait() // after cancel: it is killed
	defer cancel()
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if strings.Contains(lines.Text(), text) {
			want--
		}
		if want == 0 {
			return
		}
	}
	t.Fatalf("the log of %s ended %d lines with %q too early", container, want, text)
}

// inspect reads one field of docker inspect.
func inspect(t *testing.T, h *vmtest.Host, name, format string) string {
	t.Helper()
	return h.MustDocker(t, "inspect", "-f", "{{"+format+"}}", name)
}
