package e2e

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/containervm/containervm/internal/vmtest"
)

// TestLive asks and changes containers that run.
func TestLive(t *testing.T) {
	h := loaded(t, vmtest.Options{Split: true})
	runAll(t, h, []hostTest{
		{"Health", testHealth},
		{"Stats", testStats},
		{"Update", testUpdate},
		{"Pause", testPause},
		{"Clock", testClock},
	})
}

// health waits until a container's health is as it should be.
func health(t *testing.T, h *vmtest.Host, name, want string) {
	t.Helper()
	vmtest.Eventually(t, time.Minute, name+" is "+want, func() bool { return inspect(t, h, name, ".State.Health.Status") == want })
}

// testHealth: checks run in the guest, are shown in Docker's words, and go on in a fork and after a pause. One that hangs is ended with all
// that it has started, and an endless one does not fill anything.
func testHealth(t *testing.T, h *vmtest.Host) {
	h.MustDocker(t, "run", "-d", "--name", "web", "--health-cmd", "echo looked; test -e /tmp/ok", "--health-interval", "500ms", "--health-retries", "2",
		image, "sleep", "1000")
	health(t, h, "web", "unhealthy")
	if ps := h.MustDocker(t, "ps"); !strings.Contains(ps, " (unhealthy)") {
		t.Errorf("docker ps: %s", ps)
	}
	h.MustDocker(t, "exec", "web", "touch", "/tmp/ok")
	health(t, h, "web", "healthy")
	equal(t, "output of a check", inspect(t, h, "web", "(index .State.Health.Log 0).Output"), "looked")
	equal(t, "docker ps -f health=healthy", h.MustDocker(t, "ps", "-f", "health=healthy", "--format", "{{.Names}}"), "web")
	fork(t, h, "web")
	health(t, h, "web-1", "healthy")
	h.MustDocker(t, "exec", "web-1", "rm", "/tmp/ok")
	health(t, h, "web-1", "unhealthy")
	equal(t, "health of its source", inspect(t, h, "web", ".State.Health.Status"), "healthy")
	h.MustDocker(t, "pause", "web")
	h.MustDocker(t, "unpause", "web")
	h.MustDocker(t, "exec", "web", "rm", "/tmp/ok")
	health(t, h, "web", "unhealthy")
	events := h.MustDocker(t, "events", "--since", "10m", "--until", "0s", "--filter", "event=health_status", "--filter", "container=web-1")
	if !strings.Contains(events, "health_status: unhealthy") {
		t.Errorf("docker events: %s", events)
	}

	h.MustDocker(t, "run", "-d", "--name", "hangs", "--health-cmd", "setsid sleep 4242 & yes", "--health-interval", "200ms", "--health-timeout", "1s",
		"--health-retries", "1", image, "sleep", "1000")
	health(t, h, "hangs", "unhealthy")
	log := inspect(t, h, "hangs", "(index .State.Health.Log 0).Output")
	if !strings.HasPrefix(log, "Health check exceeded timeout (1s)") || len(log) > 5000 {
		t.Errorf("%d bytes of output: %.80s", len(log), log)
	}
	vmtest.Eventually(t, time.Minute, "what the check started is ended", func() bool {
		return strings.Count(h.MustDocker(t, "top", "hangs", "-o", "pid,args"), "sleep 4242") <= 1 // that of the check that runs now
	})
	h.MustDocker(t, "stop", "-t", "0", "hangs")
	equal(t, "health of what has ended", inspect(t, h, "hangs", ".State.Health.Status"), "unhealthy")
}

// testStats: docker stats ends, with a name and without, and says what the container itself uses.
func testStats(t *testing.T, h *vmtest.Host) {
	h.MustDocker(t, "run", "-d", "--name", "busy", image, "sh", "-c", "while :; do :; done")
	h.MustDocker(t, "run", "-d", "--name", "idle", "--network", "none", image, "sleep", "1000")
	h.MustDocker(t, "create", "--name", "never", image, "true")
	lines := strings.Split(h.MustDocker(t, "stats", "--no-stream", "--format", "{{.Name}} {{.CPUPerc}} {{.MemUsage}} {{.PIDs}}"), "\n")
	if len(lines) != 2 {
		t.Fatalf("docker stats without a name: %q", lines)
	}
	if !regexp.MustCompile(`(?m)^busy \d\d+\.\d+% [\d.]+[KM]iB / 512MiB 1$`).MatchString(strings.Join(lines, "\n")) {
		t.Errorf("docker stats: %q", lines)
	}
	var s struct{ Name, MemUsage, NetIO, PIDs string }
	for _, name := range []string{"busy", "never"} {
		text := h.MustDocker(t, "stats", "--no-stream", "--format", "json", name)
		if err := json.Unmarshal([]byte(text), &s); err != nil || s.Name != name {
			t.Errorf("docker stats %s: %s, %v", name, text, err)
		}
	}
	if s.PIDs != "0" || s.MemUsage != "0B / 0B" {
		t.Errorf("a container that never ran uses %+v", s)
	}
	if top := h.MustDocker(t, "top", "busy", "aux"); !strings.HasPrefix(top, "USER") || !strings.Contains(top, "while :") {
		t.Errorf("docker top aux: %s", top)
	}
}

// testUpdate changes what can be changed while a container runs, as its guest sees it.
func testUpdate(t *testing.T, h *vmtest.Host) {
	h.MustDocker(t, "run", "-d", "--name", "u", "--cpus", "2", image, "sleep", "1000")
	h.MustDocker(t, "update", "--pids-limit", "77", "--cpuset-cpus", "1", "--cpu-shares", "2048", "--memory-reservation", "32m", "--cpus", "0.5", "u")
	const files = "cd /sys/fs/cgroup/container && cat pids.max cpuset.cpus memory.low && grep Cpus_allowed_list /proc/1/status"
	equal(t, "limits", strings.Join(strings.Fields(h.MustDocker(t, "exec", "u", "sh", "-c", files)), " "), "77 1 33554432 Cpus_allowed_list: 1")
	if r := h.Docker(t, "update", "-m", "1g", "--memory-swap", "1g", "u"); r.Code == 0 || !strings.Contains(r.Stderr, "stop the container first") {
		t.Errorf("more memory for a container that runs: %+v", r)
	}
	h.MustDocker(t, "restart", "-t", "0", "u")
	equal(t, "limits after a boot", strings.Join(strings.Fields(h.MustDocker(t, "exec", "u", "sh", "-c", files)), " "), "77 1 33554432 Cpus_allowed_list: 1")
}

// testPause: a paused container stands, also when both daemons are killed and come back, and in its forks; it goes on where it stood.
func testPause(t *testing.T, h *vmtest.Host) {
	h.MustDocker(t, "run", "-d", "--name", "p", image, "sh", "-c", `i=0; while :; do echo $i; i=$((i+1)); sleep 0.05; done`)
	waitLog(t, h, "p", "5")
	h.MustDocker(t, "pause", "p")
	stood := h.MustDocker(t, "logs", "p")
	h.Kill(vmtest.Hostd)
	h.Kill(vmtest.Controller)
	h.Restart(vmtest.Hostd)
	h.Restart(vmtest.Controller)
	vmtest.Eventually(t, time.Minute, "the API answers again", func() bool { return h.Docker(t, "ps").Code == 0 })
	equal(t, "state", inspect(t, h, "p", ".State.Status}} {{.State.Paused}} {{.State.Running"), "paused true true")
	if r := h.Docker(t, "exec", "p", "true"); r.Code == 0 || !strings.Contains(r.Stderr, "is paused, unpause the container before exec") {
		t.Errorf("exec: %+v", r)
	}
	fork(t, h, "p")
	equal(t, "state of a fork", inspect(t, h, "p-1", ".State.Status"), "paused")
	equal(t, "log of a paused container", h.MustDocker(t, "logs", "p"), stood)
	h.MustDocker(t, "unpause", "p")
	waitLog(t, h, "p", nextNumber(t, h, "p"))
	checkNoGap(t, h, "p")
	h.MustDocker(t, "stop", "-t", "0", "p-1")
	equal(t, "state of the fork that was stopped", inspect(t, h, "p-1", ".State.Status"), "exited")
	h.MustDocker(t, "pause", "p")
	h.MustDocker(t, "rm", "-f", "p")
}

// testClock: the guest's clock is looked at and reported; a container that sets it has it.
func testClock(t *testing.T, h *vmtest.Host) {
	h.MustDocker(t, "run", "-d", "--name", "clock", image, "sleep", "1000")
	keeper := func() string {
		return inspect(t, h, "clock", "if .Clock}}{{.Clock.KeptBy}} {{.Clock.BehindNanos}}{{end")
	}
	vmtest.Eventually(t, time.Minute, "the clock was looked at", func() bool { return keeper() != "" })
	var off int64
	if _, err := fmt.Sscanf(keeper(), "tether %d", &off); err != nil || time.Duration(off).Abs() > time.Second {
		t.Errorf("the clock is kept so: %q", keeper())
	}
	h.MustDocker(t, "exec", "clock", "date", "-s", "2001-01-01")
	vmtest.Eventually(t, time.Minute, "the container has its clock", func() bool { return strings.HasPrefix(keeper(), "container ") })
	if year := h.MustDocker(t, "exec", "clock", "date", "+%Y"); strings.TrimSpace(year) != "2001" {
		t.Errorf("the container's year is %s", year)
	}
	h.MustDocker(t, "rm", "-f", "clock")
}
