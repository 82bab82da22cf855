package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containervm/containervm/internal/vmtest"
)

// redisPackages is what mmdebstrap installs, beside the minimum of Debian 12.
const redisPackages = "redis-server,redis-tools"

// debianRoot makes a tar of a Debian root with mmdebstrap, once for each list of packages.
func debianRoot(t *testing.T, packages string) string {
	t.Helper()
	vmtest.NeedProgram(t, "mmdebstrap", "mmdebstrap")
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte("bookworm minbase " + packages))
	path := filepath.Join(cache, "containervm", "debian-"+hex.EncodeToString(sum[:8])+".tar")
	if _, err := os.Stat(path); err == nil {
		return path
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	partial := path + ".partial.tar"
	cmd := exec.CommandContext(t.Context(), "mmdebstrap", "--variant=minbase", "--include="+packages, "bookworm", partial)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cannot make a Debian root: %v\n%s", err, out)
	}
	if err := os.Rename(partial, path); err != nil {
		t.Fatal(err)
	}
	return path
}

// loadRedis makes the image redis:test of that root, for the duration of the test.
func loadRedis(t *testing.T, h *vmtest.Host) {
	t.Helper()
	h.MustDocker(t, "import", "-c", "USER redis:redis", "-c", `CMD ["redis-server","/etc/redis/redis.conf"]`,
		"-c", "WORKDIR /var/lib/redis", debianRoot(t, redisPackages), "redis:test")
	t.Cleanup(func() { h.MustDocker(t, "rmi", "redis:test") })
	t.Cleanup(func() { h.RemoveAll(t) })
}

// startRedis starts the server and waits until it serves.
func startRedis(t *testing.T, h *vmtest.Host) {
	t.Helper()
	h.MustDocker(t, "run", "-d", "--name", "redis", "redis:test", "redis-server", "/etc/redis/redis.conf",
		"--daemonize", "no", "--supervised", "no", "--logfile", "", "--save", "3600 1")
	waitLog(t, h, "redis", "Ready to accept connections")
}

// redis asks the server of a container.
func redis(t *testing.T, h *vmtest.Host, container string, command ...string) string {
	t.Helper()
	return h.MustDocker(t, append([]string{"exec", container, "redis-cli"}, command...)...)
}

// testRedis runs a real server as its own user on a Debian root and expects its data back after a stop and a start.
func testRedis(t *testing.T, h *vmtest.Host) {
	loadRedis(t, h)
	startRedis(t, h)
	equal(t, "user", h.MustDocker(t, "exec", "redis", "sh", "-c", "stat -c %U:%G /proc/1"), "redis:redis")
	equal(t, "PING", redis(t, h, "redis", "PING"), "PONG")
	equal(t, "SET", redis(t, h, "redis", "SET", "key", "value"), "OK")
	equal(t, "GET", redis(t, h, "redis", "GET", "key"), "value")

	h.MustDocker(t, "stop", "redis")
	equal(t, "exit status", inspect(t, h, "redis", ".State.ExitCode"), "0")
	if log := h.MustDocker(t, "logs", "redis"); !strings.Contains(log, "Redis is now ready to exit, bye bye") {
		t.Errorf("the log has no word of the shutdown: %s", log)
	}
	h.MustDocker(t, "start", "redis")
	equal(t, "GET after the restart", h.MustDocker(t, "exec", "redis", "sh", "-c", "until redis-cli PING | grep -q PONG; do sleep 0.2; done; redis-cli GET key"), "value")
}
