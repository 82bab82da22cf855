package e2e

import (
	"testing"
	"time"

	"github.com/containervm/containervm/internal/vmtest"
)

// govc runs vSphere's own command line against the host.
func govc(t *testing.T, h *vmtest.Host, args ...string) vmtest.Result {
	t.Helper()
	return h.Finish(t, h.Command(t.Context(), h.GovcPath(), args...))
}

func testGovc(t *testing.T, h *vmtest.Host) {
	id := h.MustDocker(t, "run", "-d", "--name", "gov", image, "sh", "-c", "trap 'exit 0' TERM; echo ready; while :; do sleep 0.1; done")
	waitLog(t, h, "gov", "ready")
	want(t, govc(t, h, "ls", "vm"), 0, id, "")
	want(t, govc(t, h, "vm.info", "-e", id), 0, "guestinfo.cvm.status", "")
	want(t, govc(t, h, "vm.info", id), 0, "poweredOn", "")
	want(t, govc(t, h, "vm.power", "-off", id), 0, "", "")
	equal(t, "docker wait", h.MustDocker(t, "wait", "gov"), inspect(t, h, "gov", ".State.ExitCode"))
	equal(t, "state that docker sees", inspect(t, h, "gov", ".State.Status"), "exited")

	want(t, govc(t, h, "vm.power", "-on", id), 0, "", "")
	vmtest.Eventually(t, time.Minute, "the process runs again", func() bool {
		return h.MustDocker(t, "logs", "gov") == "ready\nready"
	})
	equal(t, "what docker sees of a container that govc has started", inspect(t, h, "gov", ".State.Running"), "true")
	want(t, govc(t, h, "vm.power", "-s", id), 0, "", "") // guest shutdown: the process is asked to end
	equal(t, "docker wait", h.MustDocker(t, "wait", "gov"), "0")
}

func testGovcNeedsPassword(t *testing.T, h *vmtest.Host) {
	cmd := h.Command(t.Context(), h.GovcPath(), "ls")
	cmd.Env = append(cmd.Env, "GOVC_PASSWORD=wrong", "GOVC_PERSIST_SESSION=false") // no session of an earlier test
	want(t, h.Finish(t, cmd), 1, "", "ogin")
}
