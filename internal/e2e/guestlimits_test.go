package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/containervm/containervm/internal/vmtest"
)

// TestGuestLimits has containers say themselves what was done of the limits that they were asked to have.
func TestGuestLimits(t *testing.T) {
	h := loaded(t, vmtest.Options{Fork: true})
	runAll(t, h, []hostTest{
		{"Booted", func(t *testing.T, h *vmtest.Host) { testEveryLimit(t, h, "boot") }},
		{"Forked", func(t *testing.T, h *vmtest.Host) { testEveryLimit(t, h, "fork") }},
		{"None", testNoLimits},
		{"Privileged", testPrivileged},
		{"User", testUserRights},
		{"Exec", testExecRights},
		{"Init", testInit},
		{"PidsLimit", testPidsLimit},
		{"Swap", testSwap},
		{"Reservation", testReservation},
		{"Covered", testCovered},
		{"ForkOfLimited", testForkOfLimited},
		{"Refused", testRefusedLimits},
		{"ControlGroups", testControlGroups},
	})
}

const rights = "grep -E '^(CapInh|CapPrm|CapEff|CapBnd|CapAmb|NoNewPrivs)' /proc/self/status | tr -s '\\t\\n' '  '"

// rightsOf is what rights prints of sets of capabilities. All of them are those of Linux 6.12: 41.
func rightsOf(permitted, bounding uint64, noNew int) string {
	return fmt.Sprintf("CapInh: %016x CapPrm: %016x CapEff: %016x CapBnd: %016x CapAmb: %016x NoNewPrivs: %d", 0, permitted, permitted, bounding, 0, noNew)
}

const (
	everyRight = 1<<41 - 1
	netAdmin   = 1 << 12 // CAP_NET_ADMIN
	chown      = 1 << 0  // CAP_CHOWN
)

// limitsOfAll is a container that asks for everything at once.
var limitsOfAll = strings.Fields(`--cap-drop ALL --cap-add net_admin --cap-add CAP_CHOWN --security-opt no-new-privileges --shm-size 8m --pids-limit 50
	--oom-score-adj 500 --sysctl net.core.somaxconn=77 --sysctl kernel.shmmni=99 --ulimit nofile=100:200 --ulimit core=0 --cpus 2 --cpuset-cpus 1
	-m 128m --memory-swap 192m --memory-swappiness 33 --memory-reservation 64m --cpu-shares 512 --init --read-only -w /made/here`)

func testEveryLimit(t *testing.T, h *vmtest.Host, runtime string) {
	args := append([]string{"run", "--rm", "--runtime", runtime}, limitsOfAll...)
	out := h.MustDocker(t, append(args, image, "sh", "-c", rights+`; echo
		grep Cpus_allowed_list /proc/self/status | tr '\t' ' '; cat /proc/self/oom_score_adj /proc/sys/net/core/somaxconn /proc/sys/kernel/shmmni /proc/sys/vm/swappiness
		ulimit -n; ulimit -Hn; ulimit -c; grep ' /dev/shm ' /proc/mounts | grep -o size=8192k; grep -c . /proc/swaps; pwd; stat -c %a:%u:%g .; cat /proc/1/comm
		cd /sys/fs/cgroup/container && cat pids.max memory.low memory.max cpu.weight cpuset.cpus; ls -l /etc/mtab | grep -o '/proc/mounts'
		touch /x 2>&1 | grep -o Read-only`)...)
	equal(t, "what a container says", out, rightsOf(netAdmin|chown, netAdmin|chown, 1)+" \n"+
		"Cpus_allowed_list: 1\n500\n77\n99\n33\n100\n200\n0\nsize=8192k\n2\n/made/here\n755:0:0\ncontainer-init\n50\n67108864\nmax\n20\n1\n/proc/mounts\nRead-only")
}

// Nothing is taken from a container that asks for nothing: it is alone in its machine. Docker's own default is less (a80425fb).
func testNoLimits(t *testing.T, h *vmtest.Host) {
	out := h.MustDocker(t, "run", "--rm", image, "sh", "-c", rights+`; echo
		cat /proc/1/comm /proc/self/oom_score_adj; umask; grep -c . /proc/swaps; cat /sys/fs/cgroup/container/memory.max 2>/dev/null || echo max; grep ' /dev/shm ' /proc/mounts | grep -o size=65536k`)
	// /proc/swaps has a line that is no swap.
	equal(t, "what a container says", out, rightsOf(everyRight, everyRight, 0)+" \nsh\n0\n0022\n1\nmax\nsize=65536k")
}

func testPrivileged(t *testing.T, h *vmtest.Host) {
	out := h.MustDocker(t, "run", "--rm", "--privileged", "--cap-drop", "ALL", image, "sh", "-c",
		"grep CapEff /proc/self/status | tr '\\t' ' '; for d in vda fuse net/tun kmsg loop-control; do [ -b /dev/$d ] || [ -c /dev/$d ] || echo no $d; done")
	equal(t, "what a privileged container says", out, fmt.Sprintf("CapEff: %016x", everyRight))
}

// A user who is not root has no capabilities, whatever may be gained. Docker's sets are the same but for its shorter list of all.
func testUserRights(t *testing.T, h *vmtest.Host) {
	out := h.MustDocker(t, "run", "--rm", "-u", "alice", "--cap-drop", "CHOWN", image, "sh", "-c", rights+`; echo
		nc -l -p 80 & sleep 0.2; grep -c ':0050 ' /proc/net/tcp /proc/net/tcp6 | grep -c ':1$'; kill %1`) // ports below 1024, as since Docker 20.10
	equal(t, "what a user's process says", out, rightsOf(0, everyRight&^chown, 0)+" \n1")
}

func testExecRights(t *testing.T, h *vmtest.Host) {
	h.MustDocker(t, "run", "-d", "--name", "limited", "-u", "alice", "--cap-drop", "CHOWN", "--oom-score-adj", "77", "--ulimit", "nofile=99",
		"--security-opt", "no-new-privileges", "-e", "A=b", "-w", "/tmp", image, "sleep", "1000")
	t.Cleanup(func() { h.MustDocker(t, "rm", "-f", "limited") })
	exec := func(args ...string) string { return h.MustDocker(t, append([]string{"exec"}, args...)...) }
	equal(t, "exec", exec("limited", "sh", "-c", rights+"; cat /proc/self/oom_score_adj; ulimit -n; echo $A; pwd; id -u"),
		rightsOf(0, everyRight&^chown, 1)+" 77\n99\nb\n/tmp\n1000")
	equal(t, "exec as root", exec("-u", "0", "-e", "A=c", "-w", "/", "limited", "sh", "-c", rights+"; echo $A; pwd; id -u"),
		rightsOf(everyRight&^chown, everyRight&^chown, 1)+" c\n/\n0")
	equal(t, "privileged exec", exec("--privileged", "-u", "0", "limited", "sh", "-c", rights+"; echo"), rightsOf(everyRight, everyRight, 1)+" ")
	want(t, h.Docker(t, "exec", "-w", "/nope", "limited", "pwd"), 126, `chdir to cwd ("/nope") set in config.json failed: no such file or directory`, "")
	want(t, h.Docker(t, "exec", "-w", "/etc/passwd", "limited", "pwd"), 126, `chdir to cwd ("/etc/passwd") set in config.json failed: not a directory`, "")
	want(t, h.Docker(t, "exec", "-w", "tmp", "limited", "pwd"), 126, "Cwd must be an absolute path", "")
	want(t, h.Docker(t, "exec", "limited", "ls", "/nope"), 1, "", "No such file or directory")
}

func testInit(t *testing.T, h *vmtest.Host) {
	want(t, h.Docker(t, "run", "--rm", "--init", image, "sh", "-c", "kill -9 $$"), 137, "", "")
	want(t, h.Docker(t, "run", "--rm", "--init", image, "nosuchcommand"), 127, "", "executable file not found")
	h.MustDocker(t, "run", "-d", "--name", "init", "--init", image, "sh", "-c", `trap 'echo bye; exit 5' TERM; (sleep 0 &) ; echo ready $PPID; while :; do sleep 0.1; done`)
	waitLog(t, h, "init", "ready 1")
	equal(t, "orphans that nobody reaped", h.MustDocker(t, "exec", "init", "sh", "-c", "grep -c '^State:.Z' /proc/[0-9]*/status | grep -c ':[1-9]' || true"), "0")
	h.MustDocker(t, "stop", "init")
	equal(t, "exit status", inspect(t, h, "init", ".State.ExitCode"), "5")
	want(t, h.Docker(t, "logs", "init"), 0, "bye", "")
	h.MustDocker(t, "rm", "init")
}

func testPidsLimit(t *testing.T, h *vmtest.Host) {
	want(t, h.Docker(t, "run", "--rm", "--pids-limit", "5", image, "sh", "-c", "for i in 1 2 3 4 5 6; do sleep 1 & done; wait"), 2, "", "can't fork")
	want(t, h.Docker(t, "run", "--rm", "--pids-limit", "-1", image, "sh", "-c", "for i in 1 2 3 4 5 6; do sleep 0 & done; wait"), 0, "", "")
}

// A machine with swap holds more than its memory, ends in order, and finds no trace of the run before, however that ended.
func testSwap(t *testing.T, h *vmtest.Host) {
	want(t, h.Docker(t, "run", "--rm", "-m", "128m", image, "dd", "if=/dev/zero", "of=/dev/null", "bs=150M", "count=1"), 1, "", "out of memory")
	h.MustDocker(t, "run", "-d", "--name", "swap", "-m", "128m", "--memory-swap", "384m", image, "sh", "-c",
		`cat /proc/swaps; ls -A /dev | grep -c swap; dd if=/dev/zero of=/dev/null bs=150M count=1 2>&1 && dd if=/dev/zero of=/dev/shm/x bs=1M count=40 && echo held
		df -k / | tail -1 | awk '{ print "used", $3 < 400000 }'; exec sleep 1000`)
	waitLog(t, h, "swap", "used 1")
	h.MustDocker(t, "stop", "-t", "0", "swap")
	h.MustDocker(t, "start", "swap")
	waitLogLines(t, h, "swap", "used 1", 2)
	qemu, _ := h.MachineOf(t, inspect(t, h, "swap", ".Id"))
	if err := syscall.Kill(qemu, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	h.MustDocker(t, "wait", "swap")
	h.MustDocker(t, "start", "swap") // what the machine left on its disk does not add up
	waitLogLines(t, h, "swap", "used 1", 3)
	log := h.MustDocker(t, "logs", "swap")
	if strings.Count(log, "file\t\t262140") != 3 || strings.Count(log, "\nheld\n") != 3 || strings.Count(log, "\n0\n") != 3 {
		t.Errorf("log %q", log)
	}
	h.MustDocker(t, "rm", "-f", "swap")
	want(t, h.Docker(t, "run", "--rm", "-m", "128m", "--memory-swap", "-1", image, "grep", "SwapTotal", "/proc/meminfo"), 0, "262140 kB", "Swap is limited to 256MiB")
}

// A reservation as large as the machine's memory does not keep the kernel from ending who takes too much.
func testReservation(t *testing.T, h *vmtest.Host) {
	want(t, h.Docker(t, "run", "--name", "hog", "-m", "128m", "--memory-reservation", "128m", image, "tail", "/dev/zero"), 137, "", "")
	equal(t, "killed for want of memory", inspect(t, h, "hog", ".State.OOMKilled"), "true")
	h.MustDocker(t, "rm", "hog")
}

// testCovered asks for what the docker command has no flags for.
func testCovered(t *testing.T, h *vmtest.Host) {
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(h.Run, "docker.sock"))
	}}}
	t.Cleanup(client.CloseIdleConnections)
	resp, err := client.Post("http://docker/containers/create?name=covered", "application/json", strings.NewReader(fmt.Sprintf(`{"Image": %q, "Cmd": ["sh", "-c",
		"ls /tmp; wc -c </etc/passwd; umask; echo x >/root/x; echo 1 >/proc/sys/vm/swappiness; wc -c </proc/kallsyms"],
		"HostConfig": {"MaskedPaths": ["/proc/kallsyms", "/etc/passwd", "/tmp", "/nosuch"], "ReadonlyPaths": ["/proc/sys", "/root"]}}`, image)))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct{ ID, Message string }
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || resp.StatusCode != http.StatusCreated {
		t.Fatalf("%s: %v, %s", resp.Status, err, answer.Message)
	}
	r := h.Docker(t, "start", "-a", "covered")
	if r.Stdout != "0\n0022\n0\n" || strings.Count(r.Stderr, "Read-only file system") != 2 {
		t.Errorf("stdout %q, stderr %q", r.Stdout, r.Stderr)
	}
	equal(t, "masked paths in inspect", inspect(t, h, "covered", "json .HostConfig.MaskedPaths"), `["/proc/kallsyms","/etc/passwd","/tmp","/nosuch"]`)
	h.MustDocker(t, "rm", "covered")
}

// A fork of a running container has its limits, for what is started in it later too.
func testForkOfLimited(t *testing.T, h *vmtest.Host) {
	args := append([]string{"run", "-d", "--name", "source"}, limitsOfAll...)
	h.MustDocker(t, append(args, image, "sleep", "1000")...)
	want(t, h.CVM(t, "fork", "source", "-n", "1"), 0, "source-1", "")
	say := rights + "; cat /proc/sys/net/core/somaxconn /sys/fs/cgroup/container/pids.max; grep ' /dev/shm ' /proc/mounts | grep -o size=8192k; grep -c . /proc/swaps; cat /proc/1/comm"
	source := h.MustDocker(t, "exec", "source", "sh", "-c", say)
	equal(t, "what a fork says", h.MustDocker(t, "exec", "source-1", "sh", "-c", say), source)
	equal(t, "what its source says", source, rightsOf(netAdmin|chown, netAdmin|chown, 1)+" 77\n50\nsize=8192k\n2\ncontainer-init")
	h.MustDocker(t, "stop", "source", "source-1") // the init passes it on
	equal(t, "exit statuses", inspect(t, h, "source", ".State.ExitCode")+" "+inspect(t, h, "source-1", ".State.ExitCode"), "143 143")
	h.MustDocker(t, "rm", "source", "source-1")
}

// What cannot be is refused by name, at the latest when the container starts.
func testRefusedLimits(t *testing.T, h *vmtest.Host) {
	for _, test := range []struct{ args, says string }{
		{"--cap-add FOO", `invalid CapAdd: unknown capability: "CAP_FOO"`},
		{"--cpuset-cpus 1", "Requested CPUs are not available - requested 1, available: 0"},
		{"--memory-swap 1g", "You should always set the Memory limit when using Memoryswap limit"},
		{"--sysctl net.nosuch=1", `cannot set sysctl net.nosuch to "1"`},
		{"--sysctl net.core.somaxconn=x", `cannot set sysctl net.core.somaxconn to "x"`},
		{"--ulimit nofile=3000000", "error setting rlimit type 7: operation not permitted"},
	} {
		want(t, h.Docker(t, append(append([]string{"run", "--rm"}, strings.Fields(test.args)...), image, "true")...), 125, "", test.says)
	}
}
