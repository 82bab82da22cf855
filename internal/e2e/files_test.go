package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containervm/containervm/internal/vmtest"
)

// TestFiles runs everything about files of containers on one host: docker cp in all its forms, export and diff.
func TestFiles(t *testing.T) {
	h := loaded(t, vmtest.Options{Fork: true})
	runAll(t, h, []hostTest{
		{"Copy", testCopy},
		{"CopyOfNoneThatRuns", testCopyStopped},
		{"ExportAndDiff", testExportAndDiff},
		{"ReadOnly", testCopyReadOnly},
	})
}

// source makes files to copy: a directory with a file of another user's and a link in it.
func source(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"file": "text\n", "dir/inner": "inner\n"} {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o640))
	}
	must(t, os.Symlink("inner", filepath.Join(dir, "dir/link")))
	if os.Getuid() == 0 {
		must(t, os.Chown(filepath.Join(dir, "dir/inner"), 1234, 2345))
	}
	return dir
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// testCopy: every form of docker cp that its reference has, on a container that runs.
func testCopy(t *testing.T, h *vmtest.Host) {
	t.Cleanup(func() { h.RemoveAll(t) })
	dir := source(t)
	h.MustDocker(t, "run", "-d", "--name", "box", "--tmpfs", "/mem", "-u", "1000:1001", image, "sleep", "1000")
	in := func(script string) string { return h.MustDocker(t, "exec", "-u", "0", "box", "sh", "-c", script) }
	in("mkdir -p /to/sub && ln -s /to /link && echo old > /to/old && ln -s /nowhere/x /dangling")
	for _, c := range []struct{ from, to, look, want string }{
		{"file", "/to/new", "cat /to/new", "text"},
		{"file", "/to", "cat /to/file", "text"},
		{"file", "/to/sub/", "cat /to/sub/file", "text"},
		{"file", "/link", "readlink /link; cat /to/file", "/to\ntext"},
		{"file", "/mem", "cat /mem/file", "text"},
		{"dir", "/fresh", "cat /fresh/inner; readlink /fresh/link", "inner\ninner"},
		{"dir", "/to", "ls /to/dir", "inner\nlink"},
		{"dir/.", "/to/sub", "ls /to/sub", "file\ninner\nlink"},
	} {
		h.MustDocker(t, "cp", dir+"/"+c.from, "box:"+c.to)
		equal(t, "cp "+c.from+" box:"+c.to, in(c.look), c.want)
	}
	h.MustDocker(t, "cp", "-a", filepath.Join(dir, "file"), "box:/to/mine")
	equal(t, "owner of a copy -a", in("stat -c %u:%g:%a /to/mine"), "1000:1001:640")

	out := t.TempDir()
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join(out, name))
		must(t, err)
		return string(text)
	}
	h.MustDocker(t, "cp", "box:/to/new", filepath.Join(out, "one"))
	equal(t, "a file", read("one"), "text\n")
	h.MustDocker(t, "cp", "box:/link/", filepath.Join(out, "two"))
	equal(t, "a directory by a link", read("two/dir/inner"), "inner\n")
	h.MustDocker(t, "cp", "box:/to/.", out)
	equal(t, "a directory's content", read("sub/inner"), "inner\n")
	h.MustDocker(t, "cp", "box:/link", filepath.Join(out, "three"))
	if target, err := os.Readlink(filepath.Join(out, "three")); err != nil || target != "/to" {
		t.Errorf("a link is %q, %v", target, err)
	}
	h.MustDocker(t, "cp", "-L", "box:/link", filepath.Join(out, "four"))
	equal(t, "a link that is followed", read("four/new"), "text\n")
	copied := h.Command(t.Context(), "docker", "cp", "box:/to/dir", "-")
	tar, err := copied.Output()
	must(t, err)
	back := h.Command(t.Context(), "docker", "cp", "-", "box:/to/sub")
	back.Stdin = strings.NewReader(string(tar))
	must(t, back.Run())
	equal(t, "a tar from a tar", in("cat /to/sub/dir/inner"), "inner")

	want(t, h.Docker(t, "cp", "box:/none", out), 1, "", "Could not find the file /none in container box")
	want(t, h.Docker(t, "cp", filepath.Join(dir, "file"), "box:/none/x"), 1, "", "Could not find the file /none in container box")
	want(t, h.Docker(t, "cp", filepath.Join(dir, "file"), "box:/none/"), 1, "", "no such directory")
	want(t, h.Docker(t, "cp", filepath.Join(dir, "dir"), "box:/to/old"), 1, "", "cannot copy directory")
	want(t, h.Docker(t, "cp", "box:/proc/version", out), 1, "", "the kernel's own")
}

// testCopyStopped: a container that never ran, or runs no more, has its files all the same, those of its volumes too; several copies share one
// machine, and the container starts.
func testCopyStopped(t *testing.T, h *vmtest.Host) {
	removeVolumes(t, h, "data")
	file := filepath.Join(source(t), "file")
	h.MustDocker(t, "create", "--name", "box", "-v", "data:/data", image, "sh", "-c", "cat /etc/own /data/own && echo more >> /etc/own")
	h.MustDocker(t, "cp", file, "box:/etc/own")
	h.MustDocker(t, "cp", file, "box:/data/own")
	equal(t, "state", inspect(t, h, "box", ".State.Status"), "created")
	equal(t, "output", h.MustDocker(t, "start", "-a", "box"), "text\ntext")
	equal(t, "state", inspect(t, h, "box", ".State.Status}} {{.State.ExitCode"), "exited 0")
	out := filepath.Join(t.TempDir(), "own")
	h.MustDocker(t, "cp", "box:/etc/own", out)
	text, err := os.ReadFile(out)
	must(t, err)
	equal(t, "what an ended container wrote", string(text), "text\nmore\n")
	equal(t, "state", inspect(t, h, "box", ".State.Status}} {{.State.ExitCode"), "exited 0")
	equal(t, "the next run", h.MustDocker(t, "start", "-a", "box"), "text\nmore\ntext")
	h.MustDocker(t, "cp", file, "box:/tmp/x")
	h.MustDocker(t, "rm", "box") // at once, and not when the machine that has its files is idle
}

// testExportAndDiff: of one that runs, and of the same when it does not.
func testExportAndDiff(t *testing.T, h *vmtest.Host) {
	t.Cleanup(func() { h.RemoveAll(t) })
	h.MustDocker(t, "run", "-d", "--name", "box", "--tmpfs", "/mem", image, "sleep", "1000")
	equal(t, "diff of what nobody touched", h.MustDocker(t, "diff", "box"), "A /mem")
	h.MustDocker(t, "exec", "box", "sh", "-c", "mkdir /new && echo x > /new/file && echo x > /mem/unseen && rm /bin/cat && chmod 700 /bin && echo >> /etc/hosts")
	changes := strings.Join([]string{"C /bin", "D /bin/cat", "A /mem", "A /new", "A /new/file"}, "\n")
	equal(t, "diff", h.MustDocker(t, "diff", "box"), changes)
	for _, state := range []string{"running", "stopped"} {
		tar := filepath.Join(t.TempDir(), "root.tar")
		h.MustDocker(t, "export", "-o", tar, "box")
		names := h.Exec(t, "tar", "tf", tar).Stdout
		for name, there := range map[string]bool{"new/file\n": true, "bin/busybox\n": true, "bin/cat\n": false, "unseen": false, "cvm": false} {
			if strings.Contains(names, name) != there {
				t.Errorf("%s: the export has %q: %v, want %v", state, name, !there, there)
			}
		}
		h.MustDocker(t, "kill", "box")
		equal(t, "diff of "+state, h.MustDocker(t, "diff", "box"), changes)
		if state == "running" {
			h.MustDocker(t, "wait", "box")
		} else {
			break
		}
		h.MustDocker(t, "start", "box")
	}
}

// testCopyReadOnly: what cannot be written to is refused in Docker's words, whether the container runs or not.
func testCopyReadOnly(t *testing.T, h *vmtest.Host) {
	removeVolumes(t, h, "data")
	file := filepath.Join(source(t), "file")
	h.MustDocker(t, "volume", "create", "data")
	h.MustDocker(t, "create", "--name", "box", "--read-only", "-v", "data:/data:ro", image, "sleep", "1000")
	for range 2 {
		want(t, h.Docker(t, "cp", file, "box:/x"), 1, "", "container rootfs is marked read-only")
		want(t, h.Docker(t, "cp", file, "box:/data/x"), 1, "", "mounted volume is marked read-only")
		h.MustDocker(t, "start", "box")
	}
}

// testCopyKilled: a controller that dies while a machine has a container's files leaves them as a copy that has ended made them; the next one
// removes the machine, and the container starts.
func testCopyKilled(t *testing.T, h *vmtest.Host) {
	t.Cleanup(func() { h.RemoveAll(t) })
	file := filepath.Join(source(t), "file")
	h.MustDocker(t, "create", "--name", "box", image, "cat", "/etc/own")
	h.MustDocker(t, "cp", file, "box:/etc/own")
	h.Kill(vmtest.Controller)
	h.Restart(vmtest.Controller)
	vmtest.Eventually(t, time.Minute, "the API answers again", func() bool { return h.Docker(t, "ps").Code == 0 })
	equal(t, "what was copied", h.MustDocker(t, "start", "-a", "box"), "text")
}
