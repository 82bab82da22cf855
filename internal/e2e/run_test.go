package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/containervm/containervm/internal/vmtest"
)

func testEcho(t *testing.T, h *vmtest.Host) {
	r := h.Docker(t, "run", "--rm", image, "echo", "hello")
	if r.Code != 0 || r.Stdout != "hello\n" || r.Stderr != "" {
		t.Errorf("exit %d, stdout %q, stderr %q", r.Code, r.Stdout, r.Stderr)
	}
}

func testExitCodes(t *testing.T, h *vmtest.Host) {
	want(t, h.Docker(t, "run", "--rm", image, "true"), 0, "", "")
	want(t, h.Docker(t, "run", "--rm", image, "sh", "-c", "exit 3"), 3, "", "")
	want(t, h.Docker(t, "run", "--rm", image, "nosuchcommand"), 127, "", `exec: "nosuchcommand": executable file not found in $PATH`)
	want(t, h.Docker(t, "run", "--rm", image, "/no/such/file"), 127, "", "no such file or directory")
	want(t, h.Docker(t, "run", "--rm", image, "/etc/notexecutable"), 126, "", "permission denied")
}

func testStreams(t *testing.T, h *vmtest.Host) {
	r := h.Docker(t, "run", "--rm", image, "sh", "-c", "echo out; echo err >&2")
	if r.Stdout != "out\n" || r.Stderr != "err\n" {
		t.Errorf("stdout %q, stderr %q", r.Stdout, r.Stderr)
	}
	cmd := h.Command(t.Context(), "docker", "run", "-i", "--rm", image, "sh", "-c", "cat; echo end")
	cmd.Stdin = strings.NewReader("x\n")
	equal(t, "output after a half close", h.Finish(t, cmd).Stdout, "x\nend\n")
}

// bigBytes is more than any ring, window or socket buffer on the way holds.
const bigBytes = 50_000_000

func testBigOutput(t *testing.T, h *vmtest.Host) {
	hash := sha256.New()
	cmd := h.Command(t.Context(), "docker", "run", "--rm", image, "sh", "-c", fmt.Sprintf("yes 0123456789 | head -c %d", bigBytes))
	cmd.Stdout = hash
	want(t, h.Finish(t, cmd), 0, "", "")
	equal(t, "checksum", hex.EncodeToString(hash.Sum(nil)), hex.EncodeToString(yesHash(t)))
}

// yesHash is the checksum of what the guest prints in testBigOutput.
func yesHash(t *testing.T) []byte {
	hash := sha256.New()
	writeYes(hash)
	return hash.Sum(nil)
}

// writeYes writes what the guest prints.
func writeYes(hash io.Writer) {
	line := strings.Repeat("0123456789\n", 1000)
	whole := bigBytes / len(line)
	for range whole {
		io.WriteString(hash, line)
	}
	io.WriteString(hash, line[:bigBytes-whole*len(line)])
}

func testBigInput(t *testing.T, h *vmtest.Host) {
	text := strings.Repeat("0123456789abcdef", 1<<20)
	sum := sha256.Sum256([]byte(text))
	cmd := h.Command(t.Context(), "docker", "run", "-i", "--rm", image, "sha256sum")
	cmd.Stdin = strings.NewReader(text)
	want(t, h.Finish(t, cmd), 0, hex.EncodeToString(sum[:]), "")
}

func testProcessOptions(t *testing.T, h *vmtest.Host) {
	out := h.MustDocker(t, "run", "--rm", "-e", "A=b", "-w", "/new/dir", "-u", "1000:50", "--hostname", "box", image,
		"sh", "-c", "echo $A; pwd; id -u; id -g; hostname; echo $$; read name </proc/1/comm; echo $name")
	equal(t, "output", out, "b\n/new/dir\n1000\n50\nbox\n1\nsh")
	equal(t, "groups of a named user", h.MustDocker(t, "run", "--rm", "-u", "alice", image, "id", "-G"), "1000 50")
	equal(t, "entrypoint", h.MustDocker(t, "run", "--rm", "--entrypoint", "echo", image, "a", "b"), "a b")
}

func testLimits(t *testing.T, h *vmtest.Host) {
	out := h.MustDocker(t, "run", "--name", "small", "-m", "256m", "--cpus", "2", image, "sh", "-c", "nproc; grep MemTotal /proc/meminfo")
	fields := strings.Fields(out)
	if len(fields) < 3 || fields[0] != "2" {
		t.Fatalf("output %q", out)
	}
	if kib, err := strconv.Atoi(fields[2]); err != nil || kib > 256<<10 || kib < 128<<10 {
		t.Errorf("the guest has %s KiB of memory, want a little under 256 MiB", fields[2])
	}
	equal(t, "limits", inspect(t, h, "small", ".HostConfig.Memory}} {{.HostConfig.NanoCpus"), "268435456 2000000000")
	h.MustDocker(t, "run", "--name", "default", image, "true")
	equal(t, "default limits", inspect(t, h, "default", ".HostConfig.Memory}} {{.HostConfig.NanoCpus"), "536870912 1000000000")
}

// testNetwork has the guest fetch a page from this test, over its gateway, where the host lets containers reach it that ask for it, and
// no others.
func testNetwork(t *testing.T, h *vmtest.Host) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello from the host") })}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	script := fmt.Sprintf(`ip -4 addr show eth0 | grep -q 'inet ' && wget -qO- http://$(ip route | sed -n 's/^default via \([^ ]*\).*/\1/p'):%d/`, l.Addr().(*net.TCPAddr).Port)
	equal(t, "page", h.MustDocker(t, "run", "--rm", "--add-host", "host:host-gateway", image, "sh", "-c", script), "hello from the host")
	if r := h.Docker(t, "run", "--rm", image, "sh", "-c", script); r.Code == 0 || !strings.Contains(r.Stderr, "Connection refused") {
		t.Errorf("a container that did not ask for its host reaches it: exit %d, %s, %s", r.Code, r.Stdout, r.Stderr)
	}
}

func testSystem(t *testing.T, h *vmtest.Host) {
	h.MustDocker(t, "version")
	info := h.MustDocker(t, "info")
	if !strings.Contains(strings.ToLower(info), "tcg") && !strings.Contains(strings.ToLower(info), "kvm") {
		t.Errorf("docker info does not say what accelerates the machines: %s", info)
	}
	if images := h.MustDocker(t, "images"); !strings.Contains(images, "busybox") || !strings.Contains(images, "test") {
		t.Errorf("docker images: %s", images)
	}
}
