package qemu

import (
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// TestTetherRuns boots machines whose process ends by itself and looks at what they leave behind.
func TestTetherRuns(t *testing.T) {
	disk := busyboxDisk(t)
	eat := `awk 'BEGIN { for (;;) a[i++] = sprintf("%100000d", i) }'`
	numbers := "seq 100000 200000 >/dev/shm/n; for i in $(seq 70); do cat /dev/shm/n; done"
	for _, test := range []struct {
		name   string
		script string
		change func(*vm.MachineSpec)
		spec   func(*tetherv1.Spec)
		code   int32
		oom    bool
		stdout string // "": not looked at
		stderr string
	}{
		{name: "short", script: "printf out; printf err >&2; exit 7", code: 7, stdout: "out", stderr: "err"},
		{name: "49 MB at once", script: numbers, stdout: strings.Repeat(counted(100000, 200000), 70)},
		{name: "descendants hold the output", script: "setsid sleep 1000 & (sleep 1000 &) ; echo gone", stdout: "gone\n"},
		{name: "output closed early", script: "echo first; exec >&- 2>&-; sleep 0.1; exit 5", code: 5, stdout: "first\n"},
		{name: "out of memory", script: "exec " + eat, code: 137, oom: true},
		{name: "child out of memory", script: eat + "; echo ended $?", oom: true, stdout: "ended 137\n"},
		{name: "read-only", script: "touch /x; echo root=$?; touch /dev/shm/x; echo shm=$?", stdout: "root=1\nshm=0\n",
			stderr: "Read-only file system", spec: func(s *tetherv1.Spec) { s.ReadOnlyRoot = true }},
		{name: "q35", script: "ls /sys/firmware/acpi/tables/DSDT", stdout: "/sys/firmware/acpi/tables/DSDT\n",
			change: func(s *vm.MachineSpec) { s.Machine = hostapi.MachineQ35 }},
		{name: "q35, several CPUs", script: "nproc", stdout: "3\n",
			change: func(s *vm.MachineSpec) { s.Machine, s.CPUs = hostapi.MachineQ35, 3 }},
		{name: "IPv4 alone", script: "ip -6 addr show dev eth0 | wc -l", stdout: "0\n"},
		{name: "IPv6", script: "ip -6 addr show dev eth0 | grep -cE 'fd00::15|fe80'; ip -6 addr show dev eth0 | grep -c tentative; true", stdout: "2\n0\n",
			spec: func(s *tetherv1.Spec) {
				s.Interfaces[0].Addresses = append(s.Interfaces[0].Addresses, "fd00::15/64")
			}},
		{name: "console", script: "tty; echo hello >/dev/console", stdout: "/dev/pts/0\r\nhello\r\n",
			spec: func(s *tetherv1.Spec) { s.Process.Tty = true }},
	} {
		t.Run(test.name, func(t *testing.T) {
			spec := tetherSpec(test.script)
			if test.spec != nil {
				test.spec(spec)
			}
			g := launchTether(t, spec, delta(t, disk), func(s *vm.MachineSpec) {
				if test.change != nil {
					test.change(s)
				}
			})
			st, out := g.ending()
			if e := st.Exit; st.State != tetherv1.State_EXITED || e.GetCode() != test.code || e.GetOomKilled() != test.oom {
				t.Errorf("status %v", st)
			}
			if got := out[link.StreamStdout]; test.stdout != "" && got != test.stdout {
				t.Errorf("stdout has %d bytes, want %d: %.300q", len(got), len(test.stdout), got)
			}
			if got := out[link.StreamStderr]; !strings.Contains(got, test.stderr) {
				t.Errorf("stderr %q lacks %q", got, test.stderr)
			}
		})
	}
}

// counted is the output of seq.
func counted(from, to int) string {
	var b strings.Builder
	for i := from; i <= to; i++ {
		fmt.Fprintln(&b, i)
	}
	return b.String()
}

// delta is a disk of the machine's own above another.
func delta(t *testing.T, base string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), hostapi.RootDisk)
	must(t, createDelta(path, base))
	return path
}

// TestTetherFullDisk fills a container's disk: it is told so, ends in order, and starts again on the disk that is full.
func TestTetherFullDisk(t *testing.T) {
	disk := delta(t, busyboxDisk(t))
	script := "dd if=/dev/zero of=/fill bs=64k; full=$?; sync; dd if=/dev/zero of=/rest bs=512; echo dd=$full; echo more >/more; echo more=$?; trap 'exit 6' TERM; while :; do sleep 0.1; done"
	for range 2 {
		g := launchTether(t, tetherSpec(script), disk)
		g.awaitStatus(tetherv1.State_RUNNING)
		c := g.client()
		g.awaitOutput(c, "dd=1\nmore=1\n")
		if out, _ := execute(t, c, "x", shell("echo exec works")); out != "exec works\n" {
			t.Errorf("exec on a full disk: %q", out)
		}
		if _, err := c.Tether().Stop(t.Context(), &tetherv1.StopRequest{GraceSeconds: 60}); err != nil {
			t.Error(err)
		}
		if st, out := g.ending(); st.Exit.GetCode() != 6 || !strings.Contains(out[link.StreamStderr], "No space left on device") {
			t.Errorf("status %v, stderr %q", st, out[link.StreamStderr])
		}
	}
}

// TestTetherStops ends containers in the ways that there are. The clock steps meanwhile, which no grace may depend on.
func TestTetherStops(t *testing.T) {
	disk := busyboxDisk(t)
	for _, test := range []struct {
		name, script string
		stop         *tetherv1.StopRequest
		code         int32
	}{
		{"handler", "trap 'echo term; exit 3' TERM; echo ready; while :; do sleep 0.1; done", &tetherv1.StopRequest{GraceSeconds: 600}, 3},
		{"own signal", "trap 'exit 4' USR1; trap 'exit 5' TERM; echo ready; while :; do sleep 0.1; done", &tetherv1.StopRequest{Signal: 10, GraceSeconds: 600}, 4},
		{"ignored", "trap '' TERM; echo ready; while :; do sleep 1000; done", &tetherv1.StopRequest{GraceSeconds: 1}, 137},
		{"stopped", "echo ready; kill -STOP $$; while :; do sleep 1000; done", &tetherv1.StopRequest{}, 137},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := launchTether(t, tetherSpec(test.script), delta(t, disk))
			g.awaitStatus(tetherv1.State_RUNNING)
			c := g.client()
			g.awaitOutput(c, "ready\n")
			begin(t, c, "clock", shell("while :; do date -s 2001-01-01; date -s 2040-01-01; sleep 0.1; done >/dev/null"))
			if _, err := c.Tether().Stop(t.Context(), test.stop); err != nil {
				t.Fatal(err)
			}
			if st, _ := g.ending(); st.Exit.GetCode() != test.code {
				t.Errorf("status %v, want exit code %d", st, test.code)
			}
		})
	}
}

// TestTetherWithoutHost boots a machine that has no way to a host: it says so on its console and ends.
func TestTetherWithoutHost(t *testing.T) {
	spec := guestSpec(t)
	args := []string{
		"-machine", "microvm,acpi=off,rtc=on", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-m", "256M", "-cpu", "max",
		"-kernel", spec.Kernel, "-initrd", tetherInitrd(t), "-append", consoleArgs + " no_timer_check",
		"-chardev", "file,id=console,path=" + comma(filepath.Join(spec.HomeDir, hostapi.ConsoleFile)), "-serial", "chardev:console",
	}
	if out, err := exec.CommandContext(t.Context(), "qemu-system-x86_64", args...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if text := (&guest{t: t, spec: spec}).console(); !strings.Contains(text, "cannot reach a host") {
		t.Errorf("console: %s", text)
	}
}

// TestTetherForkBomb stops in order a container that takes every process it can get.
func TestTetherForkBomb(t *testing.T) {
	script := "b() { b | b & }; b; b; exec sleep 1000" // a shell that cannot fork ends by itself
	g := launchTether(t, tetherSpec(script), busyboxDisk(t), func(s *vm.MachineSpec) { s.MemoryMiB = 128 })
	g.awaitStatus(tetherv1.State_RUNNING)
	c := g.client()
	complaints, err := c.OpenOutput(t.Context(), link.MainSession, link.StreamStderr, 0)
	must(t, err)
	_, err = io.ReadFull(complaints, make([]byte, 100)) // they come when there is no process left to make
	must(t, err)
	must(t, complaints.Close())
	_, err = c.Tether().Stop(t.Context(), &tetherv1.StopRequest{GraceSeconds: 1})
	must(t, err)
	if st, _ := g.ending(); st.Exit.GetCode() != 137 {
		t.Errorf("status %v", st)
	}
}
