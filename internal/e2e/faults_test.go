package e2e

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/containervm/containervm/internal/vmtest"
)

// testBadRequests speaks to the API directly: no client sends such things.
func testBadRequests(t *testing.T, h *vmtest.Host) {
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(h.Run, "docker.sock"))
	}}}
	t.Cleanup(client.CloseIdleConnections)
	huge := `{"Image":"` + strings.Repeat("x", 64<<20) + `"}`
	for _, test := range []struct {
		name, path, body string
		status           int
	}{
		{"bad JSON", "/v1.43/containers/create", `{"Image":`, http.StatusBadRequest},
		{"wrong type", "/v1.43/containers/create", `{"Image":7}`, http.StatusBadRequest},
		{"no image", "/v1.43/containers/create", `{}`, http.StatusBadRequest},
		{"body too large", "/v1.43/containers/create", huge, http.StatusRequestEntityTooLarge},
		{"API too new", "/v9.99/containers/create", `{}`, http.StatusBadRequest},
		{"API too old", "/v1.1/containers/create", `{}`, http.StatusBadRequest},
		{"bad name", "/v1.43/containers/create?name=a/b", `{"Image":"` + image + `"}`, http.StatusBadRequest},
		{"no such path", "/v1.43/nothing", ``, http.StatusNotFound},
		{"no such container", "/v1.43/containers/nosuch/start", ``, http.StatusNotFound},
	} {
		t.Run(test.name, func(t *testing.T) {
			resp, err := client.Post("http://docker"+test.path, "application/json", strings.NewReader(test.body))
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			var answer struct{ Message string }
			if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || answer.Message == "" || resp.StatusCode != test.status {
				t.Errorf("status %d, message %q, %v; want status %d and a message", resp.StatusCode, answer.Message, err, test.status)
			}
		})
	}
}

func testBadRuns(t *testing.T, h *vmtest.Host) {
	want(t, h.Docker(t, "run", "--pull", "never", "nosuch:image"), 125, "", "No such image: nosuch:image")
	h.MustDocker(t, "create", "--name", "taken", image)
	want(t, h.Docker(t, "create", "--name", "taken", image), 1, "", `The container name "/taken" is already in use`)
	want(t, h.Docker(t, "run", "--rm", "-u", "nobodyhere", image, "true"), 125, "", "nobodyhere")
	want(t, h.Docker(t, "run", "--rm", "-m", "1m", image, "true"), 125, "", "emory")
	want(t, h.Docker(t, "run", "--rm", "-m", "900000g", image, "true"), 125, "", "emory")
	want(t, h.Docker(t, "run", "--rm", "--cpus", "100000", image, "true"), 125, "", "CPU")
	want(t, h.Docker(t, "run", "--rm", "-w", "/bin/busybox", image, "true"), 125, "", "/bin/busybox")
	want(t, h.Docker(t, "exec", "taken", "true"), 1, "", "is not running")
	if ids := h.MustDocker(t, "ps", "-q"); ids != "" {
		t.Errorf("running after nothing but errors: %s", ids)
	}
}

// testFullDisk takes nearly all the space of the container's disk and then writes beyond the end of it.
func testFullDisk(t *testing.T, h *vmtest.Host) {
	script := `n=0; for size in 30G 15G 8G 4G 2G 1G 512M 256M 128M 64M 32M 16M 8M 4M; do
		while fallocate -l $size /fill$n 2>/dev/null; do n=$((n+1)); done; rm -f /fill$n; done
		dd if=/dev/zero of=/more bs=1M count=64; echo dd=$?; rm /fill*; echo ok >/more && cat /more`
	r := h.Docker(t, "run", "--rm", image, "sh", "-c", script)
	want(t, r, 0, "dd=1\nok\n", "No space left on device")
}

func testGuestPanic(t *testing.T, h *vmtest.Host) {
	r := h.Docker(t, "run", "--name", "panic", image, "sh", "-c", "echo c >/proc/sysrq-trigger; sleep 1000")
	if r.Code == 0 {
		t.Errorf("exit %d, stdout %q, stderr %q", r.Code, r.Stdout, r.Stderr)
	}
	if why := inspect(t, h, "panic", ".State.Status}} {{.State.Error"); !strings.HasPrefix(why, "exited ") || !strings.Contains(why, "panic") {
		t.Errorf("state %q does not tell of the panic", why)
	}
}

// testClientDisconnects kills a client in the middle of an attach; the container does not notice.
func testClientDisconnects(t *testing.T, h *vmtest.Host) {
	h.MustDocker(t, "run", "-di", "--name", "cl", image, "sh", "-c", "echo ready; read line; echo got $line; exit 4")
	waitLog(t, h, "cl", "ready")
	term := openTerminal(t, h.Command(t.Context(), "docker", "attach", "--sig-proxy=false", "cl"))
	if err := term.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = term.cmd.Wait() // says "killed"
	equal(t, "State.Running", inspect(t, h, "cl", ".State.Running"), "true")
	cmd := h.Command(t.Context(), "docker", "attach", "cl")
	cmd.Stdin = strings.NewReader("words\n")
	want(t, h.Finish(t, cmd), 4, "got words", "")
}

func testMaliciousImages(t *testing.T, h *vmtest.Host) {
	before := h.MustDocker(t, "images", "-q")
	evil := func(name string) vmtest.File { return file(name, "evil", 0o644) }
	link := func(kind byte, name, target string) vmtest.File {
		return entry(tar.Header{Name: name, Linkname: target, Typeflag: kind})
	}
	for _, test := range []struct {
		name  string
		files []vmtest.File
	}{
		{"path with dots", []vmtest.File{evil("../../evil")}},
		{"path with dots inside", []vmtest.File{evil("a/../../evil")}},
		{"hard link outside", []vmtest.File{link(tar.TypeLink, "link", "../../etc/passwd")}},
		{"hard link to nothing", []vmtest.File{link(tar.TypeLink, "link", "nosuch")}},
		{"whiteout of the parent", []vmtest.File{evil(".wh...")}},
		{"file as a directory", []vmtest.File{evil("a"), evil("a/b")}},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := vmtest.Archive(t, "evil:test", v1.Config{}, test.files)
			if r := h.Docker(t, "load", "-i", path); r.Code == 0 && !strings.Contains(r.Stdout+r.Stderr, "refused") {
				t.Errorf("docker load took it: %s%s", r.Stdout, r.Stderr)
			}
			equal(t, "images afterwards", h.MustDocker(t, "images", "-q"), before)
			h.CheckIdle(t)
		})
	}
	t.Run("truncated", func(t *testing.T) {
		cmd := h.Command(t.Context(), "docker", "load")
		cmd.Stdin = bytes.NewReader(bytes.Repeat([]byte{0xff}, 1<<20))
		if r := h.Finish(t, cmd); r.Code == 0 {
			t.Errorf("docker load took rubbish: %s", r.Stdout)
		}
	})
	// An absolute link and a write through it stay inside the image's own root, as in a chroot.
	inside := []vmtest.File{entry(tar.Header{Name: "etc/", Mode: 0o755, Typeflag: tar.TypeDir}), link(tar.TypeSymlink, "out", "/etc"), evil("out/evil")}
	h.MustDocker(t, "load", "-i", vmtest.Archive(t, "inside:test", v1.Config{}, inside))
	h.MustDocker(t, "rmi", "inside:test")
}

// testMachineKilled ends a machine's two processes in turn: the container ends, says why, and can be started again.
func testMachineKilled(t *testing.T, h *vmtest.Host) {
	for _, victim := range []string{vmtest.QEMU, vmtest.Supervisor} {
		t.Run(victim, func(t *testing.T) {
			id := h.MustDocker(t, "run", "-d", image, "sh", "-c", "echo ready; sleep 1000")
			waitLog(t, h, id, "ready")
			qemu, supervisor := h.MachineOf(t, id)
			pid := map[string]int{vmtest.QEMU: qemu, vmtest.Supervisor: supervisor}[victim]
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			if code := h.MustDocker(t, "wait", id); code == "0" {
				t.Error("docker wait says 0")
			}
			equal(t, "State.Status", inspect(t, h, id, ".State.Status"), "exited")
			if inspect(t, h, id, ".State.Error") == "" {
				t.Error("State.Error does not say what happened")
			}
			vmtest.Eventually(t, 10*time.Second, "both processes are gone", func() bool {
				return syscall.Kill(qemu, 0) != nil && syscall.Kill(supervisor, 0) != nil
			})
			h.MustDocker(t, "start", id)
			equal(t, "log after a new start", h.MustDocker(t, "exec", id, "echo", "alive"), "alive")
			equal(t, "log", h.MustDocker(t, "logs", "--tail", "1", id), "ready")
		})
	}
}
