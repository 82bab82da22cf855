package daemon_test

import (
	"context"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/containervm/containervm/internal/vmtest"
)

// TestOldVersions: what is advertised works: the stock client runs containers at each of some versions of the API, the oldest among them, and
// sees their output and exit status. Below 1.30 it learns of the end by events, below 1.25 it removes the container itself.
func TestOldVersions(t *testing.T) {
	docker, err := exec.LookPath("docker")
	if err != nil {
		vmtest.Missing(t, "there is no docker command (try: apt-get install docker-cli)")
	}
	e := start(t, nil)
	for _, version := range []string{"1.24", "1.25", "1.29", "1.30", "1.40", "1.44", "1.48"} {
		run := func(args string) (string, int) {
			ctx, cancel := context.WithTimeout(e.ctx(), 20*time.Second)
			defer cancel()
			cmd := exec.CommandContext(ctx, docker, strings.Fields(args)...)
			cmd.Env = []string{"DOCKER_HOST=unix://" + e.socket, "HOME=" + t.TempDir(), "DOCKER_API_VERSION=" + version}
			out, _ := cmd.CombinedOutput() // the code says it
			return string(out), cmd.ProcessState.ExitCode()
		}
		for _, c := range []struct {
			args string
			code int
			says string
		}{
			{"run --rm --name a base echo", 0, ""},
			{"run --name b base echo", 0, ""},
			{"run -d --name c base sleep", 0, ""},
			{"ps --format {{.Names}}", 0, "c\n"},
			{"inspect --format {{.HostConfig.LogConfig.Type}} c", 0, "json-file\n"},
			{"exec c echo", 0, ""},
			{"rm -f b c", 0, "b\nc\n"},
			{"ps -aq", 0, ""},
		} {
			if out, code := run(c.args); code != c.code || !strings.Contains(out, c.says) || c.args == "ps -aq" && out != "" {
				t.Errorf("version %s, docker %s: %d %q, want %d %q", version, c.args, code, out, c.code, c.says)
			}
		}
	}
}
