package e2e

import (
	"encoding/json"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containervm/containervm/internal/vmtest"
)

func testCVM(t *testing.T, h *vmtest.Host) {
	want(t, h.CVM(t, "run", "--rm", image, "echo", "hello"), 0, "hello\n", "")
	want(t, h.CVM(t, "run", "--rm", image, "sh", "-c", "echo err >&2; exit 3"), 3, "", "err\n")
	want(t, h.CVM(t, "run", "--rm", image, "nosuchcommand"), 127, "", "executable file not found")
	want(t, h.CVM(t, "run", "--rm", image, "/etc/notexecutable"), 126, "", "permission denied")
	want(t, h.CVM(t, "run", "nosuchimage"), 125, "", "cvm: cannot create a container of nosuchimage: No such image: nosuchimage:latest")

	id := strings.TrimSpace(h.CVM(t, "run", "-d", "--name", "cc", "-m", "256m", image, "sh", "-c", politeScript).Stdout)
	waitLog(t, h, "cc", "ready")
	want(t, h.CVM(t, "ps"), 0, id[:12], "")
	want(t, h.CVM(t, "images"), 0, image, "")
	want(t, h.CVM(t, "logs", "cc"), 0, "ready\n", "")
	cmd := h.Command(t.Context(), h.CVMPath(), "exec", "-i", "cc", "cat")
	cmd.Stdin = strings.NewReader("through\n")
	want(t, h.Finish(t, cmd), 0, "through\n", "")
	want(t, h.CVM(t, "exec", "cc", "sh", "-c", "exit 9"), 9, "", "")
	var containers []struct{ ID string }
	if err := json.Unmarshal([]byte(h.CVM(t, "ps", "--json").Stdout), &containers); err != nil || len(containers) != 1 || containers[0].ID != id {
		t.Errorf("cvm ps --json: %v, %v", containers, err)
	}
	want(t, h.CVM(t, "stop", "cc"), 0, "cc\n", "")
	want(t, h.CVM(t, "wait", "cc"), 0, "5\n", "")
	want(t, h.CVM(t, "start", "cc"), 0, "cc\n", "")
	waitLogLines(t, h, "cc", "ready", 2) // a first process ignores a signal that it does not trap yet
	want(t, h.CVM(t, "kill", "-s", "TERM", "cc"), 0, "cc\n", "")
	want(t, h.CVM(t, "wait", "cc"), 0, "5\n", "")
	want(t, h.CVM(t, "inspect", "cc"), 0, id, "")
	want(t, h.CVM(t, "rm", "cc"), 0, "cc\n", "")
	want(t, h.CVM(t, "inspect", "cc"), 1, "", "cannot inspect cc: no container and no image has this name")
	want(t, h.CVM(t, "status"), 0, "running", "")
	want(t, h.CVM(t, "up"), 0, "already running", "")

	var env map[string]string
	if err := json.Unmarshal([]byte(h.CVM(t, "env", "--json").Stdout), &env); err != nil {
		t.Fatal(err)
	}
	taken, err := url.Parse(env["GOVC_URL"])
	if err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(h.Dir, "other")
	want(t, h.CVM(t, "up", "--state", other, "--run", other, "--listen", taken.Host), 1, "", "choose another address by --listen")
}

// testDownAndUp stops the host: running containers are stopped in order; with --keep they go on. Images and containers
// are there again afterwards, and what a restart policy wants to run runs.
func testDownAndUp(t *testing.T, h *vmtest.Host) {
	h.MustDocker(t, "run", "-d", "--name", "kept", image, "sh", "-c", `i=0; while :; do echo $i; i=$((i+1)); sleep 0.1; done`)
	waitLog(t, h, "kept", "3")
	want(t, h.CVM(t, "down", "--keep"), 0, "", "")
	h.Up()
	equal(t, "state after down --keep", inspect(t, h, "kept", ".State.Running"), "true")
	waitLog(t, h, "kept", nextNumber(t, h, "kept"))
	checkNoGap(t, h, "kept")

	h.MustDocker(t, "run", "-d", "--name", "polite", image, "sh", "-c", politeScript)
	waitLog(t, h, "polite", "ready")
	h.MustDocker(t, "run", "-d", "--name", "again", "--restart", "unless-stopped", image, "sh", "-c", politeScript)
	waitLog(t, h, "again", "ready")
	h.Down()
	for _, p := range h.Processes() {
		t.Errorf("after cvm down there is %s", p)
	}
	want(t, h.CVM(t, "status"), 3, "not running", "")
	h.Up()
	equal(t, "exit status of what cvm down has stopped", inspect(t, h, "polite", ".State.ExitCode"), "5")
	vmtest.Eventually(t, time.Minute, "what a policy wants to run runs", func() bool { return inspect(t, h, "again", ".State.Pid") != "0" })
	waitLogLines(t, h, "again", "ready", 2)
	equal(t, "docker start -a", h.MustDocker(t, "run", "--rm", image, "echo", "images are kept"), "images are kept")
}
