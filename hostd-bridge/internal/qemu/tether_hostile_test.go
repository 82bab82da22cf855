package qemu

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containervm/containervm/hostd-bridge/internal/vm"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// hostileDisk has testdata/hostile beside busybox.
func hostileDisk(t *testing.T) string {
	t.Helper()
	return busyboxDisk(t, func(root string) { buildProgram(t, filepath.Join(root, "bin/hostile"), "./testdata/hostile") })
}

// TestTetherHostile: processes of a container, root with all capabilities too, try to speak as the tether, to read what it was told, and to
// get at it. None of them gets through, and what the host hears of the container stays true.
func TestTetherHostile(t *testing.T) {
	g := launchTether(t, tetherSpec("i=0; while [ ! -e /go ]; do i=$((i+1)); echo $i; sleep 0.05; done; echo end $i; exit 7"), delta(t, hostileDisk(t)))
	g.awaitStatus(tetherv1.State_RUNNING)
	c := g.client()
	attack := func(t *testing.T, user, what string) {
		p := shell("exec hostile " + what)
		p.User = user
		out, _ := execute(t, c, "hostile-"+user+"-"+what, p)
		var tried, connected int
		_, last, _ := strings.Cut(out[max(0, strings.LastIndex(out, "tried ")):], "tried ")
		if _, err := fmt.Sscanf(last, "%d connected %d", &tried, &connected); err != nil || tried == 0 || what == "vsock" && connected < tried/2 {
			t.Errorf("hardly anything was tried: %q", out)
		}
		if strings.Contains(out, "BROKEN") {
			t.Error(out)
		}
		t.Log(out)
	}
	t.Run("a user's talk", func(t *testing.T) { attack(t, "1000", "vsock") })
	t.Run("root's talk", func(t *testing.T) { attack(t, "0", "vsock") })
	t.Run("root's way to the tether", func(t *testing.T) { attack(t, "0", "tether") })
	t.Run("connections that say nothing", func(t *testing.T) {
		mute := shell("exec hostile mute")
		mute.User = "1000"
		begin(t, c, "mute", mute)
		out, err := c.OpenOutput(t.Context(), "mute", link.StreamStdout, 0)
		must(t, err)
		defer out.Close()
		expect(t, out, "holding\n")
		if out, exit := execute(t, c, "beside", shell("echo works")); out != "works\n" || exit.GetCode() != 0 {
			t.Errorf("beside it: %q, %v", out, exit)
		}
	})
	if _, exit := execute(t, c, "go", shell("touch /go")); exit.GetCode() != 0 {
		t.Error(exit)
	}
	st, log := g.ending()
	if st.State != tetherv1.State_EXITED || st.Exit.GetCode() != 7 {
		t.Errorf("status %v", st)
	}
	text, end, _ := strings.Cut(log[link.StreamStdout], "end ")
	if want := counted(1, strings.Count(text, "\n")); text != want || end != fmt.Sprintln(strings.Count(text, "\n")) {
		t.Errorf("the log is %.300q, end %q", text, end)
	}
	own, err := os.ReadFile(filepath.Join(g.spec.RunDir, "supervisor.log"))
	if err != nil || strings.Count(string(own), "is not its tether") != 1 {
		t.Errorf("the supervisor's log: %s, %v", own, err)
	}
}

// TestTetherFsync: what a container has synced is on its disk after the kernel's panic, and what it has not is there 5 s later at the latest,
// ext4's interval of commits.
func TestTetherFsync(t *testing.T) {
	disk := delta(t, busyboxDisk(t))
	g := launchTether(t, tetherSpec("echo kept >/kept; sync /kept; echo c >/proc/sysrq-trigger; sleep 100"), disk)
	if x := g.awaitExit(); x.Orderly || !strings.Contains(x.Reason, "panic") {
		t.Errorf("the machine ended: %+v", x)
	}
	g = launchTether(t, tetherSpec("cat /kept; grep -o commit= /proc/mounts; true"), disk)
	if st, log := g.ending(); st.Exit.GetCode() != 0 || log[link.StreamStdout] != "kept\n" {
		t.Errorf("%v, %q", st, log)
	}
}

// TestTetherMemory: in a machine of 128 MiB a container that takes more than there is ends by it, at once, and nothing else does: not an
// honest writer in a machine that is young, not the machine itself.
func TestTetherMemory(t *testing.T) {
	disk := busyboxDisk(t)
	small := func(s *vm.MachineSpec) { s.MemoryMiB = 128 }
	t.Run("a full tmpfs", func(t *testing.T) {
		g := launchTether(t, tetherSpec("mount -o remount,size=200m /dev/shm; exec dd if=/dev/zero of=/dev/shm/x bs=64k"), delta(t, disk), small)
		if st, _ := g.ending(); st.Exit.GetCode() != 137 || !st.Exit.GetOomKilled() {
			t.Errorf("status %v", st)
		}
	})
	t.Run("an honest writer and a hog", func(t *testing.T) {
		g := launchTether(t, tetherSpec("dd if=/dev/zero of=/fill bs=1M count=160; echo wrote $?; while [ ! -e /go ]; do sleep 0.1; done"), delta(t, disk), small)
		g.awaitStatus(tetherv1.State_RUNNING)
		c := g.client()
		g.awaitOutput(c, "wrote 0\n")
		begin(t, c, "hog", shell("exec tail /dev/zero"))
		if _, exit := finish(t, c, "hog"); exit.GetCode() != 137 || !exit.GetOomKilled() {
			t.Errorf("the hog ended: %v", exit)
		}
		if _, exit := execute(t, c, "go", shell("touch /go")); exit.GetCode() != 0 {
			t.Error(exit)
		}
		if st, _ := g.ending(); st.Exit.GetCode() != 0 {
			t.Errorf("status %v", st)
		}
	})
}
