package daemon_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"
)

// TestForkNotify: a fork whose children cannot be told as was asked for is refused, or comes to nothing; it is never made untold.
func TestForkNotify(t *testing.T) {
	e, _ := forkingRunning(t)
	id := e.create("web", container.Config{Cmd: []string{"sleep"}}, container.HostConfig{})
	e.begin(id)
	for body, want := range map[string]string{
		`{"Notify": {}}`: "neither a Signal nor a Command",
		`{"Notify": {"All": true, "Command": ["x"]}}`:                            "names no Signal",
		`{"Notify": {"Command": [""]}}`:                                          "want a program",
		`{"Notify": {"Signal": "NONE"}}`:                                         "invalid signal: NONE",
		`{"Notify": {"Signal": "SIGSTOP"}}`:                                      "no process can handle it",
		`{"Notify": {"Command": ["` + strings.Repeat("x", maxCommand+1) + `"]}}`: "8 KiB at most",
	} {
		if reply, status := e.fork("web", body); status != http.StatusBadRequest || !strings.Contains(reply.Message, want) {
			t.Errorf("%.60s: %d, %+v", body, status, reply)
		}
	}
	reply, status := e.fork("web", `{"Notify": {"Signal": "USR1"}}`) // the tether of this test knows nothing of it
	if status != http.StatusCreated || len(reply.Children) != 1 || !strings.Contains(reply.Children[0].Error, "of an earlier version, which tells nobody") {
		t.Errorf("%d, %+v", status, reply)
	}
	e.only("web")
}

// maxCommand is the largest command of a request, in bytes (FORK.md).
const maxCommand = 8 << 10
