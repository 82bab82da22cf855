package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containervm/containervm/internal/vmtest"
)

// TestForks runs forked containers under the stock docker command and cvm.
func TestForks(t *testing.T) {
	h := loaded(t, vmtest.Options{Fork: true})
	awaitTemplate(t, h)
	runAll(t, h, []hostTest{
		{"Run", testForkedRun}, {"Runtimes", testRuntimes}, {"Restart", testForkedRestart}, {"Parked", testParked},
		{"Running", testForkRunning}, {"Source", testForkSource}, {"Debian", testForkDebian}, {"Connections", testForkConnections}, {"Generations", testForkGenerations},
		{"FullDisk", testForkFullDisk}, {"Told", testForkTold}, {"AtOnce", testForksAtOnce}, {"Templates", testTemplates},
	})
}

// usualBurst is how many forks testForksAtOnce makes, when CVM_TEST_BURST says nothing else.
const usualBurst = 16

// testForksAtOnce runs many more containers at once than the host has processors: each is itself, and nothing is left of them.
func testForksAtOnce(t *testing.T, h *vmtest.Host) {
	n := usualBurst
	if text := os.Getenv("CVM_TEST_BURST"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil || n < 1 {
			t.Fatalf("cannot fork %q machines (try: CVM_TEST_BURST=100)", text)
		}
	}
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			if r := h.Docker(t, "run", "--rm", "--runtime", "fork", image, "echo", strconv.Itoa(i)); r.Code != 0 || r.Stdout != fmt.Sprintln(i) {
				t.Errorf("fork %d: exit %d, %q, %s", i, r.Code, r.Stdout, r.Stderr)
			}
		})
	}
	all.Wait()
	h.CheckIdle(t)
}

// awaitTemplate waits until the template of the usual size is frozen, which no event announces.
func awaitTemplate(t *testing.T, h *vmtest.Host) {
	t.Helper()
	vmtest.Eventually(t, 2*time.Minute, "the template is frozen", func() bool {
		return strings.Contains(h.CVM(t, "templates").Stdout, "frozen")
	})
}

// forkInfo is the key Fork of docker inspect.
type forkInfo struct {
	Kind, Why, Template string
	Generation, Index   int
	Receipt             []receiptItem
	Timeline            []struct {
		Name     string
		UnixNano int64
	}
}

func forkOf(t *testing.T, h *vmtest.Host, name string) (f forkInfo) {
	t.Helper()
	text := h.MustDocker(t, "inspect", "-f", "{{json .Fork}}", name)
	if err := json.Unmarshal([]byte(text), &f); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return f
}

// forkedChild is what cvm fork says of a child.
type forkedChild struct {
	ID                string `json:"Id"`
	Name              string
	Generation, Index int
	Receipt           []receiptItem
}

type receiptItem struct{ Name, Outcome, Detail string }

// fork runs cvm fork, which must succeed.
func fork(t *testing.T, h *vmtest.Host, args ...string) (children []forkedChild) {
	t.Helper()
	r := h.CVM(t, append([]string{"fork", "--json"}, args...)...)
	if err := json.Unmarshal([]byte(r.Stdout), &children); err != nil || r.Code != 0 || len(children) == 0 {
		t.Fatalf("cvm fork %v: exit %d: %s", args, r.Code, r.Stderr)
	}
	return children
}

func testForkedRun(t *testing.T, h *vmtest.Host) {
	equal(t, "output", h.MustDocker(t, "run", "--name", "c", image, "echo", "hi"), "hi")
	f := forkOf(t, h, "c")
	if f.Kind != "fork" || f.Generation != 1 || f.Index < 1 || !strings.HasPrefix(f.Template, "cvm-template-") || len(f.Receipt) == 0 {
		t.Errorf("%+v", f)
	}
	for _, item := range f.Receipt {
		if item.Outcome != "done" && item.Outcome != "skipped" {
			t.Errorf("item %s of the receipt: %s (%s)", item.Name, item.Outcome, item.Detail)
		}
	}
	seen := map[string]bool{}
	for i, m := range f.Timeline {
		seen[m.Name] = true
		if i > 0 && m.UnixNano < f.Timeline[i-1].UnixNano {
			t.Errorf("%s is out of order in %+v", m.Name, f.Timeline)
		}
	}
	for _, name := range []string{"api", "cloneRequested", "cloneDone", "startRequested"} {
		if !seen[name] {
			t.Errorf("the timeline lacks %s: %+v", name, f.Timeline)
		}
	}
}

func testRuntimes(t *testing.T, h *vmtest.Host) {
	for args, kind := range map[string]string{"--runtime boot": "boot", "--runtime fork": "fork", "--network none": "fork"} {
		name := strings.ReplaceAll(strings.TrimLeft(args, "-"), " ", "-")
		equal(t, "output with "+args, h.MustDocker(t, append(append([]string{"run", "--name", name}, strings.Fields(args)...), image, "echo", "hi")...), "hi")
		if f := forkOf(t, h, name); f.Kind != kind || kind == "boot" && f.Why == "" {
			t.Errorf("with %s: %+v", args, f)
		}
	}
	want(t, h.Docker(t, "run", "--rm", "--runtime", "runc", image, "true"), 125, "", "unknown or invalid runtime name: runc")
}

// testForkedRestart: what a forked container wrote is there when it boots from its disk.
func testForkedRestart(t *testing.T, h *vmtest.Host) {
	h.MustDocker(t, "run", "--name", "c", image, "sh", "-c", "cat /kept 2>/dev/null; echo data >/kept")
	equal(t, "output of the second run", h.MustDocker(t, "start", "-a", "c"), "data")
	if f := forkOf(t, h, "c"); f.Kind != "boot" || f.Why == "" {
		t.Errorf("%+v", f)
	}
}

// testForkSource: a container that is forked, twice, has its own data when it boots from its disk: what it had written before, but for the
// bytes that it wrote over it since.
func testForkSource(t *testing.T, h *vmtest.Host) {
	h.MustDocker(t, "run", "-d", "--name", "web", image, "sleep", "1000")
	h.MustDocker(t, "exec", "web", "sh", "-c", "seq 500000 > /numbers; sync")
	for _, at := range []string{"10000", "20000"} { // bytes: in one 64 KiB cluster of the disk, or in two
		fork(t, h, "web", "-n", "1")
		h.MustDocker(t, "exec", "web", "sh", "-c", "printf over | dd of=/numbers bs=1 conv=notrunc seek="+at+"; sync")
	}
	sum := h.MustDocker(t, "exec", "web", "md5sum", "/numbers")
	h.MustDocker(t, "stop", "-t", "1", "web")
	wholeDisks(t, h, inspect(t, h, "web", ".Id"))
	h.MustDocker(t, "start", "web")
	equal(t, "sum of a file after a boot", h.MustDocker(t, "exec", "web", "md5sum", "/numbers"), sum)
}

// testParked: a created container behaves as one, and loses no byte of its start.
func testParked(t *testing.T, h *vmtest.Host) {
	h.MustDocker(t, "create", "--name", "c", image, "sh", "-c", "echo out; echo err >&2; exit 3")
	equal(t, "state", inspect(t, h, "c", ".State.Status"), "created")
	equal(t, "log", h.MustDocker(t, "logs", "c"), "")
	want(t, h.Docker(t, "exec", "c", "true"), 1, "", "is not running")
	want(t, h.Docker(t, "start", "-a", "c"), 3, "out\n", "err\n")
	if f := forkOf(t, h, "c"); f.Kind != "fork" {
		t.Errorf("%+v", f)
	}
	h.MustDocker(t, "create", "--name", "d", image, "true")
	h.MustDocker(t, "rm", "d")
}

// counter counts in its memory: a line a tick, with the name of its machine.
const counter = `i=0; while :; do i=$((i+1)); echo $i $(hostname); sleep 0.2; done`

// testForkRunning forks a process that counts: each child goes on from where it stood, under a name of its own.
func testForkRunning(t *testing.T, h *vmtest.Host) {
	id := h.MustDocker(t, "run", "-d", "--name", "web", image, "sh", "-c", counter)
	waitLog(t, h, "web", "5 ")
	children := fork(t, h, "web", "-n", "3")
	if len(children) != 3 {
		t.Fatalf("%+v", children)
	}
	names := map[string]bool{}
	for i, c := range children {
		if c.Name != fmt.Sprintf("web-%d", i+1) || c.Index != i+1 {
			t.Errorf("child %+v", c)
		}
		host := h.MustDocker(t, "exec", c.ID, "hostname")
		waitLog(t, h, c.ID, host)
		names[host] = true
		if f := forkOf(t, h, c.ID); f.Kind != "fork" || f.Template != id {
			t.Errorf("child %s: %+v", c.Name, f)
		}
		for _, line := range strings.Split(h.MustDocker(t, "logs", c.ID), "\n") {
			if n, name, _ := strings.Cut(line, " "); name == host {
				if at, _ := strconv.Atoi(n); at < 5 {
					t.Errorf("child %s counts from %d again", c.Name, at)
				}
			}
		}
	}
	if len(names) != 3 || names[id[:12]] {
		t.Errorf("host names %v", names)
	}
	h.MustDocker(t, "stop", "-t", "0", "web-1", "web-2")
	want(t, h.Docker(t, "start", "web-1"), 0, "web-1", "")
	equal(t, "the source", inspect(t, h, "web", ".State.Status"), "running")
	want(t, h.CVM(t, "fork", "web-2"), 1, "", "is not running")
}

func testTemplates(t *testing.T, h *vmtest.Host) {
	name := strings.TrimSpace(h.CVM(t, "templates", "-q").Stdout)
	r := h.CVM(t, "fork", name, "-n", "2", "--name", "t", "--image", image, "sleep", "1000")
	want(t, r, 0, "t-2", "")
	equal(t, "command", h.MustDocker(t, "exec", "t-1", "cat", "/proc/1/comm"), "sleep")
	want(t, h.CVM(t, "templates", "rm", name), 0, name, "")
	want(t, h.CVM(t, "templates", "rm", name), 1, "", "No such template")
	equal(t, "a child of a template that is gone", h.MustDocker(t, "exec", "t-2", "echo", "alive"), "alive")
	equal(t, "the next container", h.MustDocker(t, "run", "--rm", image, "echo", "hi"), "hi")
}
