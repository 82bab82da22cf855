package qemu

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containervm/containervm/hostd-bridge/internal/vm"
	"github.com/containervm/containervm/internal/vmtest"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// tetherTemplate boots the real tether as a template and waits until it is one.
func tetherTemplate(t *testing.T) *guest {
	t.Helper()
	g := launchTether(t, &tetherv1.Spec{Mode: tetherv1.Mode_TEMPLATE}, "")
	g.awaitFrozen()
	return g
}

// encoded is a message as a value of guestinfo.
func encoded[M any](t testing.TB, encode func(M) (string, error), m M) string {
	t.Helper()
	text, err := encode(m)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// container makes the n-th child of a template run spec on a delta of disk.
func (g *guest) container(tpl vm.ForkPoint, n int, spec *tetherv1.Spec, disk string, change ...func(*vm.MachineSpec)) *guest {
	g.t.Helper()
	return g.child(tpl, n, append([]func(*vm.MachineSpec){func(s *vm.MachineSpec) {
		spec.Id = fmt.Sprintf("%032x%032x", n, n)
		s.Guestinfo = map[string]string{
			link.KeySpec: encoded(g.t, link.EncodeSpec, spec), link.KeyGate: link.GateOpen,
			link.KeyFork: encoded(g.t, link.EncodeFork, &tetherv1.Fork{Generation: 1, Index: uint32(n), Source: "template"}),
		}
		s.NICs = []vm.NIC{{MAC: macOf(n).String(), Connected: true}}
		s.RootDisk = s.HomeDir + "/root.vmdk"
	}, func(s *vm.MachineSpec) {
		must(g.t, createDelta(s.RootDisk, disk))
	}}, change...)...)
}

func (g *guest) awaitReceipt() *tetherv1.Receipt {
	g.t.Helper()
	r, err := link.DecodeReceipt(g.awaitKey(link.KeyReceipt))
	if err != nil {
		g.t.Fatal(err)
	}
	return r
}

// macOf is the MAC address of the n-th child.
func macOf(n int) net.HardwareAddr {
	return net.HardwareAddr{0x00, 0x50, 0x56, 0x80, byte(n >> 8), byte(n)}
}

// identityScript prints a line for each thing that must differ between two machines.
const identityScript = `cat /proc/sys/kernel/random/boot_id /etc/machine-id /sys/class/net/eth0/address
hostname; head -c 32 /dev/urandom | base64; cat /proc/sys/kernel/random/uuid; ip -4 -o addr show eth0; exec sleep 1000`

const (
	usualChildren  = 16 // of TestTetherForks, when CVM_TEST_CHILDREN says nothing else
	childrenAtOnce = 4
)

func numberOfChildren(t *testing.T) int {
	t.Helper()
	text := os.Getenv("CVM_TEST_CHILDREN")
	if text == "" {
		return usualChildren
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("cannot make %q children (try: CVM_TEST_CHILDREN=200)", text)
	}
	return n
}

// TestTetherForks makes many children of one template: no two have anything of an identity in common, and each knows the time.
func TestTetherForks(t *testing.T) {
	disk := busyboxDisk(t)
	g := tetherTemplate(t)
	tpl := g.template()
	before := hashOf(t, tpl.ram)
	t.Logf("template: %d MiB resident of %d", tpl.ResidentMiB(), tpl.MemoryMiB())
	var mu sync.Mutex
	seen := map[string]int{}
	var all sync.WaitGroup
	free := make(chan struct{}, childrenAtOnce)
	for n := range numberOfChildren(t) {
		n++
		free <- struct{}{}
		spec := tetherSpec(identityScript)
		spec.Hostname = fmt.Sprint("box", n)
		c := g.container(tpl, n, spec, disk)
		all.Go(func() {
			defer func() { <-free }()
			for _, value := range append(c.identity(n), fmt.Sprint("CID ", c.spec.CID)) {
				mu.Lock()
				seen[value]++
				mu.Unlock()
			}
			if err := c.Kill(context.WithoutCancel(t.Context())); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	for value, n := range seen {
		if n > 1 {
			t.Errorf("%d children have the same %q", n, value)
		}
	}
	if hashOf(t, tpl.ram) != before {
		t.Error("the template's memory has changed")
	}
}

// identity checks the n-th child and returns what must be its own.
func (g *guest) identity(n int) []string {
	receipt := g.awaitReceipt()
	if bad := link.Failed(receipt); bad != nil || receipt.Index != uint32(n) || receipt.Generation != 1 {
		g.t.Errorf("child %d: receipt %v", n, receipt)
	}
	for _, i := range receipt.Items {
		if n == 1 || i.Name == "clock" {
			g.t.Logf("child %d: %-12s %-8v %6d µs %s", n, i.Name, i.Outcome, i.Micros, i.Detail)
		}
	}
	g.awaitStatus(tetherv1.State_RUNNING)
	c := g.client()
	g.checkClock(c)
	out, err := c.OpenOutput(g.t.Context(), link.MainSession, link.StreamStdout, 0)
	must(g.t, err)
	defer out.Close()
	var lines []string
	for text := bufio.NewScanner(out); len(lines) < 7 && text.Scan(); {
		lines = append(lines, text.Text())
	}
	if len(lines) < 7 || lines[2] != macOf(n).String() || lines[3] != fmt.Sprint("box", n) || !strings.Contains(lines[6], "10.0.2.15/24") {
		g.t.Fatalf("child %d: %q", n, lines)
	}
	if n == 1 {
		checkUnprivileged(g.t, c)
	}
	return lines[:6]
}

// clockTolerance is how far a child's clock may be off its host's, beside the time that asking for it takes.
const clockTolerance = 50 * time.Millisecond

func (g *guest) checkClock(c *link.Client) {
	asked := time.Now()
	info, err := c.Tether().Info(g.t.Context(), &tetherv1.InfoRequest{})
	must(g.t, err)
	half := time.Since(asked) / 2
	if off := time.Unix(0, info.UnixNano).Sub(asked.Add(half)); off.Abs() > clockTolerance+half {
		g.t.Errorf("the clock of %s is off by %v, known to %v", g.spec.RunDir, off, half)
	}
}

func (g *guest) staysWarm(d time.Duration) {
	g.t.Helper()
	end := time.After(d)
	for {
		select {
		case e := <-g.Events():
			if e.Guestinfo != nil && e.Guestinfo.Key == link.KeyPhase && e.Guestinfo.Value != link.PhaseWarm {
				g.t.Errorf("a warm machine says that it is in phase %q", e.Guestinfo.Value)
			}
		case <-end:
			return
		}
	}
}

// A warm child rehearses a start on a disk that is not its own, and takes on its identity when it gets a Spec.
func TestTetherWarmFork(t *testing.T) {
	disk, blank := busyboxDisk(t), makeFileSystem(t)
	g := tetherTemplate(t)
	c := g.child(g.template(), 1, func(s *vm.MachineSpec) {
		s.Guestinfo, s.Blank = map[string]string{link.KeyRehearse: "yes"}, blank
	})
	for c.awaitKey(link.KeyPhase) != link.PhaseWarm {
	}
	c.staysWarm(2 * time.Second) // a fork tells a phase that it has been in for a second
	if _, text := readRecords(t, c.log()); text != "" {
		t.Errorf("the rehearsal is in the log: %q", text)
	}
	begin := time.Now()
	delta := c.spec.HomeDir + "/root.vmdk"
	must(t, createDelta(delta, disk))
	must(t, c.AttachDisk(t.Context(), delta, ""))
	spec := tetherSpec("echo warm; ls /; cat /etc/hostname")
	must(t, c.SetGuestinfo(t.Context(), map[string]string{link.KeySpec: encoded(t, link.EncodeSpec, spec)}))
	if bad := link.Failed(c.awaitReceipt()); bad != nil {
		t.Errorf("receipt: %v", bad)
	}
	must(t, c.SetGuestinfo(t.Context(), map[string]string{link.KeyGate: link.GateOpen}))
	status, out := c.ending()
	if status.Exit.GetCode() != 0 || out[link.StreamStdout] != "warm\nbin\ndev\netc\nlost+found\nproc\nsys\ntmp\nbox\n" {
		t.Errorf("%v, %q", status, out)
	}
	for _, m := range status.Marks {
		t.Logf("%v after the claim: %s", time.Unix(0, m.UnixNano).Sub(begin), m.Name)
	}
}

// A running container is copied; copies and source go on, each for itself.
func TestTetherForkOfAContainer(t *testing.T) {
	disk := busyboxDisk(t)
	spec := tetherSpec(`n=0; echo kept >/state; while :; do
		set -- $(/dev/cvm/forkpoint); n=$((n + 1))
		echo "fork $n: generation $1 index $2 $(cat /state) $(cat /etc/machine-id)"
		[ $2 = 0 ] || { echo "child $2" >/state; sync; exit $2; }
	done`)
	parent := launchTether(t, spec, "", func(s *vm.MachineSpec) {
		s.RootDisk = s.HomeDir + "/root.vmdk"
		must(t, createDelta(s.RootDisk, disk))
	})
	parent.awaitStatus(tetherv1.State_RUNNING)
	for n := 1; n <= 2; n++ {
		tether := parent.client()
		if _, err := tether.Tether().Hold(t.Context(), &tetherv1.HoldRequest{AtPoint: true}); err != nil {
			t.Fatal(err)
		}
		frozen, delta := fmt.Sprintf("%s/frozen%d.vmdk", parent.spec.HomeDir, n), fmt.Sprintf("%s/root%d.vmdk", parent.spec.HomeDir, n)
		must(t, os.Rename(parent.spec.RootDisk, frozen))
		must(t, createDelta(delta, frozen))
		parent.spec.RootDisk = delta
		begin := time.Now()
		point, err := parent.Snapshot(t.Context(), vm.NewDisks{Root: delta})
		t.Logf("snapshot took %v", time.Since(begin))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tether.Tether().Release(t.Context(), &tetherv1.ReleaseRequest{Fork: &tetherv1.Fork{Generation: uint32(n)}}); err != nil {
			t.Fatal(err)
		}
		copied := &tetherv1.Spec{Hostname: "copy", Interfaces: spec.Interfaces, Process: spec.Process}
		c := parent.container(point, n, copied, frozen)
		receipt := c.awaitReceipt()
		if bad := link.Failed(receipt); bad != nil {
			t.Errorf("receipt: %v", bad)
		}
		for _, i := range receipt.Items {
			t.Logf("child %d: %-12s %-8v %6d µs %s", n, i.Name, i.Outcome, i.Micros, i.Detail)
		}
		status, out := c.ending()
		want := fmt.Sprintf("fork %d: generation 1 index %d kept %032x\n", n, n, n)
		if got := out[link.StreamStdout]; status.Exit.GetCode() != int32(n) || !strings.HasSuffix(got, want) {
			t.Errorf("child %d: %v, %q, want %q", n, status, got, want)
		}
	}
	want := fmt.Sprintf("fork 1: generation 1 index 0 kept %[1]s\nfork 2: generation 2 index 0 kept %[1]s\n", strings.Repeat("5", 32))
	vmtest.Eventually(t, patience, "the source goes on after each fork", func() bool {
		_, text := readRecords(t, parent.log())
		return text == want
	})
}
