package e2e

import (
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containervm/containervm/internal/vmtest"
)

// TestRestarts: containers that end run again as their policies say, whatever it was that ended them.
func TestRestarts(t *testing.T) {
	h := loaded(t, vmtest.Options{Split: true})
	runAll(t, h, []hostTest{
		{"OnFailure", testRestartOnFailure},
		{"MachineAndDaemonsKilled", testRestartKilled},
	})
}

// testRestartOnFailure: a process that fails is restarted as often as its policy says, and the events tell of each run.
func testRestartOnFailure(t *testing.T, h *vmtest.Host) {
	id := h.MustDocker(t, "run", "-d", "--name", "fails", "--restart", "on-failure:2", image, "sh", "-c", "echo run; exit 3")
	vmtest.Eventually(t, time.Minute, "the last run has ended", func() bool {
		return inspect(t, h, "fails", ".RestartCount}} {{.State.Status") == "2 exited"
	})
	equal(t, "exit code, policy", inspect(t, h, "fails", ".State.ExitCode}} {{.State.Restarting}} {{.HostConfig.RestartPolicy.Name"), "3 false on-failure")
	equal(t, "log", h.MustDocker(t, "logs", "fails"), "run\nrun\nrun")
	equal(t, "events", strings.Join(containerEvents(t, h, id), " "), "create start die start die start die")
}

// containerEvents are the actions of a container that its host remembers.
func containerEvents(t *testing.T, h *vmtest.Host, id string) []string {
	t.Helper()
	until := strconv.FormatInt(time.Now().Unix()+1, 10)
	return strings.Fields(h.MustDocker(t, "events", "--since", "1", "--until", until, "--filter", "type=container", "--filter", "container="+id,
		"--format", "{{.Action}}"))
}

// testRestartKilled: a container whose machine is killed runs again, by its controller or by the next one; one that was stopped by someone does not.
func testRestartKilled(t *testing.T, h *vmtest.Host) {
	always := h.MustDocker(t, "run", "-d", "--name", "always", "--restart", "always", image, "sh", "-c", "echo ready; sleep 1000")
	h.MustDocker(t, "run", "-d", "--name", "unless", "--restart", "unless-stopped", image, "sh", "-c", politeScript)
	waitLog(t, h, "unless", "ready")
	h.MustDocker(t, "stop", "unless")
	stopped := inspect(t, h, "unless", ".State.StartedAt")
	waitLog(t, h, "always", "ready")
	kill := func() {
		t.Helper()
		qemu, _ := h.MachineOf(t, always)
		if err := syscall.Kill(qemu, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	runsAgain := func(before string) {
		t.Helper()
		vmtest.Eventually(t, time.Minute, "it runs again", func() bool {
			pid, started, _ := strings.Cut(inspect(t, h, "always", ".State.Pid}} {{.State.StartedAt"), " ")
			return pid != "0" && started != before // the machine that boots has no process yet
		})
		equal(t, "exec", h.MustDocker(t, "exec", "always", "echo", "alive"), "alive")
	}
	before := inspect(t, h, "always", ".State.StartedAt")
	kill()
	runsAgain(before)
	equal(t, "restarts", inspect(t, h, "always", ".RestartCount"), "1")

	before = inspect(t, h, "always", ".State.StartedAt")
	h.Kill(vmtest.Controller)
	h.Kill(vmtest.Hostd)
	kill()
	h.Restart(vmtest.Hostd)
	h.Restart(vmtest.Controller)
	vmtest.Eventually(t, time.Minute, "the API answers again", func() bool { return h.Docker(t, "ps").Code == 0 })
	runsAgain(before) // what is to run is begun in one go: by now the other would be on its way
	equal(t, "who was stopped", inspect(t, h, "unless", ".State.Status}} {{.State.Restarting}} {{.State.StartedAt"), "exited false "+stopped)
}
