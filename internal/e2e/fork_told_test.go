package e2e

import (
	"slices"
	"strings"
	"testing"

	"github.com/containervm/containervm/internal/vmtest"
)

// listener says when it is told of a fork, and its generation.
const listener = `trap 'echo told $(od -An -tu8 /dev/cvm/generation)' USR1; echo ready; while :; do sleep 1000 & wait; done`

// testForkTold: the processes of a fork are told before they go on, by the ways that were asked for; a child that nobody of would hear is not
// made, and the source is told nothing.
func testForkTold(t *testing.T, h *vmtest.Host) {
	h.MustDocker(t, "run", "-d", "--name", "told", image, "sh", "-c", listener)
	waitLog(t, h, "told", "ready")
	before := h.MustDocker(t, "exec", "told", "od", "-An", "-tu8", "/dev/sysgenid")
	for notify, want := range map[string]string{
		"USR1": "SIGUSR1 to 1 processes, 0 do not", "all:USR1": "SIGUSR1 to 1 processes, ",
		"exec:/bin/touch /told-by-a-command": `ran "/bin/touch"`,
	} {
		child := fork(t, h, "told", "--notify", notify)[0]
		if !slices.ContainsFunc(child.Receipt, func(i receiptItem) bool {
			return i.Name == "told" && i.Outcome == "done" && strings.Contains(i.Detail, want)
		}) {
			t.Errorf("--notify %s: receipt %+v", notify, child.Receipt)
		}
		if now := h.MustDocker(t, "exec", child.ID, "od", "-An", "-tu8", "/dev/cvm/generation"); now == before {
			t.Errorf("--notify %s: generation %s, as in the source", notify, now)
		} else if strings.HasSuffix(notify, "USR1") {
			waitLog(t, h, child.ID, "told "+strings.TrimSpace(now))
		} else {
			h.MustDocker(t, "exec", child.ID, "test", "-e", "/told-by-a-command")
		}
		h.MustDocker(t, "rm", "-f", child.ID)
	}
	refused := map[string]string{
		"USR2": "no process handles SIGUSR2, of 1", "exec:/bin/false": `told: "/bin/false": exit status 1`, "exec:/none": "no such file",
		"KILL": "no process can handle it", "XYZ": "invalid signal: XYZ",
	}
	if isLong() {
		refused["exec:/bin/sleep 1000"] = "did not end within 10s"
	}
	for notify, want := range refused {
		if r := h.CVM(t, "fork", "told", "--notify", notify); r.Code != 1 || !strings.Contains(r.Stderr, want) {
			t.Errorf("--notify %s: exit %d, %s", notify, r.Code, r.Stderr)
		}
	}
	equal(t, "generation of the source", h.MustDocker(t, "exec", "told", "od", "-An", "-tu8", "/dev/cvm/generation"), before)
	equal(t, "log of the source", h.MustDocker(t, "logs", "told"), "ready")
}
