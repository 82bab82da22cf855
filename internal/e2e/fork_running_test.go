package e2e

import (
	"bufio"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/containervm/containervm/internal/vmtest"
)

// testForkDebian forks programs that no one here wrote.
func testForkDebian(t *testing.T, h *vmtest.Host) {
	loadRedis(t, h)
	runAll(t, h, []hostTest{{"Redis", testForkRedis}, {"Interpreter", testForkInterpreter}})
}

// testForkRedis forks a server with data in its memory: each child answers for itself, and goes its own way.
func testForkRedis(t *testing.T, h *vmtest.Host) {
	startRedis(t, h)
	if f := forkOf(t, h, "redis"); f.Kind != "fork" {
		t.Errorf("%+v", f)
	}
	equal(t, "SET", redis(t, h, "redis", "SET", "key", "common"), "OK")
	fork(t, h, "redis", "-n", "2")
	for _, child := range []string{"redis-1", "redis-2"} {
		equal(t, "GET in "+child, redis(t, h, child, "GET", "key"), "common")
	}
	equal(t, "SET in redis-1", redis(t, h, "redis-1", "SET", "key", "of child 1"), "OK")
	equal(t, "GET in redis-1", redis(t, h, "redis-1", "GET", "key"), "of child 1")
	for _, other := range []string{"redis", "redis-2"} {
		equal(t, "GET in "+other, redis(t, h, other, "GET", "key"), "common")
	}
}

// warmUp is a program that fills its memory for a while and then asks for its fork.
const warmUp = `$| = 1;
my %square = map { $_ => $_ * $_ } 1 .. 200_000;
my ($generation, $index) = split " ", qx(/dev/cvm/forkpoint);
print "index $index knows $square{4242}\n";
sleep 1000;`

// testForkInterpreter: what an interpreter had made before its fork point is there in each child at once.
func testForkInterpreter(t *testing.T, h *vmtest.Host) {
	h.MustDocker(t, "run", "-d", "--name", "perl", "redis:test", "perl", "-e", warmUp)
	fork(t, h, "perl", "-n", "2", "--at-point")
	for index, name := range []string{"perl", "perl-1", "perl-2"} {
		line := fmt.Sprintf("index %d knows 17994564", index)
		waitLog(t, h, name, line)
		equal(t, "log of "+name, h.MustDocker(t, "logs", name), line)
	}
}

// testForkConnections: a connection to the outside stays its container's, and is reset in its forks. It is reset at once if the guest's
// kernel has CONFIG_INET_DIAG_DESTROY; else when the fork sends the next byte, which its network answers with a reset.
func testForkConnections(t *testing.T, h *vmtest.Host) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	script := fmt.Sprintf(`mkfifo /out; sleep 1000 >/out & nc outside %d </out; echo $(hostname) has lost it; sleep 1000`, l.Addr().(*net.TCPAddr).Port)
	h.MustDocker(t, "run", "-d", "--name", "caller", "--add-host", "outside:host-gateway", image, "sh", "-c", script)
	outside, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { outside.Close() })
	heard := bufio.NewScanner(outside)
	talk := func(when string) {
		t.Helper()
		if _, err := fmt.Fprintln(outside, when); err != nil {
			t.Error(err)
		}
		waitLog(t, h, "caller", when)
		h.MustDocker(t, "exec", "caller", "sh", "-c", "echo "+when+" >/out")
		if !heard.Scan() || heard.Text() != when {
			t.Errorf("heard %q %s the fork, %v", heard.Text(), when, heard.Err())
		}
	}
	talk("before")
	child := fork(t, h, "caller")[0]
	if !slices.ContainsFunc(child.Receipt, func(i receiptItem) bool {
		return i.Name == "sockets" && i.Outcome == "done" && i.Detail == "1 connections reset"
	}) {
		t.Errorf("receipt %+v", child.Receipt)
	}
	waitLog(t, h, child.ID, h.MustDocker(t, "exec", child.ID, "hostname")+" has lost it")
	talk("after")
	if log := h.MustDocker(t, "logs", "caller"); strings.Contains(log, "lost") {
		t.Errorf("log of the source: %s", log)
	}
}

// testForkGenerations forks a fork of a fork: each has what was before it, and nothing of what comes after it.
func testForkGenerations(t *testing.T, h *vmtest.Host) {
	h.MustDocker(t, "run", "-d", "--name", "f", image, "sh", "-c", counter)
	name, names := "f", []string{"f"}
	for generation := range 3 {
		waitLog(t, h, name, h.MustDocker(t, "exec", name, "hostname")) // it counts, as itself
		h.MustDocker(t, "exec", name, "sh", "-c", fmt.Sprintf("echo %s >/of%d", name, generation))
		child := fork(t, h, name)[0]
		if child.Name != name+"-1" || child.Generation != forkOf(t, h, name).Generation+1 || child.Index != 1 {
			t.Errorf("child of %s: %+v", name, child)
		}
		name = child.Name
		names = append(names, name)
	}
	waitLog(t, h, name, h.MustDocker(t, "exec", name, "hostname"))
	for generation, name := range names {
		equal(t, "files of "+name, h.MustDocker(t, "exec", name, "sh", "-c", "cat /of*"), strings.Join(names[:min(generation+1, 3)], "\n"))
	}
}

// fillDisk leaves no block of the container's disk.
const fillDisk = `n=0; for size in 30G 15G 8G 4G 2G 1G 512M 256M 128M 64M 32M 16M 8M 4M; do
	while fallocate -l $size /fill$n 2>/dev/null; do n=$((n+1)); done; rm -f /fill$n; done
	dd if=/dev/zero of=/more bs=1M count=64; dd if=/dev/zero of=/last bs=512 count=100000; echo dd=$?; sleep 1000`

// spoil plants links in the container's file systems in memory and leaves no room in them.
const spoil = `ln -s /victim /dev/shm/boot_id; echo untouched >/victim; mkdir /dev/.cvm
	for f in /dev/shm/fill /dev/fill; do dd if=/dev/zero of=$f bs=4k 2>/dev/null; done
	umount /etc/hosts; rm -f /etc/hosts; ln -s /victim /etc/hosts; `

// testForkFullDisk: a fork needs no space of the container's to become itself, and writes nothing through a name of the container's.
func testForkFullDisk(t *testing.T, h *vmtest.Host) {
	h.MustDocker(t, "run", "-d", "--name", "full", image, "sh", "-c", spoil+fillDisk)
	waitLog(t, h, "full", "dd=1")
	child := fork(t, h, "full")[0]
	equal(t, "exec", h.MustDocker(t, "exec", child.ID, "echo", "alive"), "alive")
	equal(t, "what links lead to", h.MustDocker(t, "exec", child.ID, "cat", "/victim"), "untouched")
	bootID := []string{"exec", child.ID, "cat", "/proc/sys/kernel/random/boot_id"}
	if id := h.MustDocker(t, bootID...); len(id) != 36 || id == h.MustDocker(t, "exec", "full", "cat", "/proc/sys/kernel/random/boot_id") {
		t.Errorf("boot ID %q", id)
	}
	if !slices.ContainsFunc(child.Receipt, func(i receiptItem) bool {
		return i.Name == "dns" && strings.HasSuffix(i.Detail, "made them: /etc/hosts")
	}) {
		t.Errorf("receipt %+v", child.Receipt)
	}
	for _, file := range []string{"/etc/hostname", "/proc/sys/kernel/hostname"} {
		equal(t, file+" of the child", h.MustDocker(t, "exec", child.ID, "cat", file), child.ID[:12])
	}
}
