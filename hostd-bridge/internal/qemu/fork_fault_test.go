package qemu

import (
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/containervm/containervm/hostd-bridge/internal/frames/framestest"
	"github.com/containervm/containervm/hostd-bridge/internal/supervisor"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// TestStateThatQEMUCannotLoad starts children of states that are none: each start fails in words, and leaves no process.
func TestStateThatQEMUCannotLoad(t *testing.T) {
	g := frozenGuest(t)
	tpl := g.template()
	good, err := io.ReadAll(io.NewSectionReader(tpl.state, 0, 1<<30))
	must(t, err)
	for i, test := range []struct {
		name  string
		state []byte
		words string // QEMU's
	}{
		{"truncated", good[:len(good)/2], "load of migration failed"},
		{"empty", nil, "load of migration failed"},
		{"random", randomBytes(len(good)), "Not a migration stream"},
		{"of another version", ofVersion(t, good, 4711), "unsupported version 4711"},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "state")
			must(t, os.WriteFile(path, test.state, 0o600))
			state, err := os.Open(path)
			must(t, err)
			defer state.Close()
			c, prestarted := g.prestartChild(&template{ram: tpl.ram, state: state, hardware: tpl.hardware}, i+1)
			_, err = prestarted.Start(t.Context(), c.spec)
			if err == nil || !strings.Contains(err.Error(), "cannot load the template's state") || !strings.Contains(err.Error(), test.words) {
				t.Errorf("start: %v; want QEMU's words %q", err, test.words)
			}
			t.Log(err)
			dir := filepath.Dir(c.spec.RunDir)
			if left := processesNaming(t, dir); left != "" {
				t.Errorf("processes left: %s", left)
			}
			if left, err := filepath.Glob(dir + "/*/*.sock"); len(left) > 0 || err != nil {
				t.Errorf("sockets left: %v, %v", left, err)
			}
			if _, err := os.Stat(dir + "/pool"); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the directory of the prestarted machine: %v", err)
			}
		})
	}
	if phase := g.child(tpl, 9).awaitKey(link.KeyPhase); phase != "child 1" {
		t.Errorf("a child of the state as it was is in phase %q", phase)
	}
}

// ofVersion sets the version of a state's first section. It begins behind the stream's header of 8 bytes, with a type (4: whole), a
// number of 4 bytes, a name behind its length, an instance of 4 bytes and the version (migration/savevm.c, save_section_header).
func ofVersion(t *testing.T, state []byte, version uint32) []byte {
	t.Helper()
	other := append([]byte(nil), state...)
	if other[8] != 4 {
		t.Fatalf("the state begins with %x", other[:16])
	}
	name := int(other[13])
	binary.BigEndian.PutUint32(other[14+name+4:], version)
	return other
}

// A child that is killed before its receipt is complete ends as any machine that is killed, and has sent nothing.
func TestChildKilledInItsReceipt(t *testing.T) {
	g := tetherTemplate(t)
	g.capturing()
	hub := framestest.New(t)
	c := g.child(g.template(), 1, func(s *vm.MachineSpec) {
		s.Guestinfo = nil // waits for its Spec, in the middle
		s.NICs = []vm.NIC{{MAC: macOf(1).String(), Connected: true, Frames: hub.Socket}}
	})
	hub.AwaitCard(macOf(1).String())
	for {
		if e := c.next(); e.Mark != nil && e.Mark.Name == "hello" {
			break
		}
	}
	_, qemu := machinePIDs(t, c.spec.RunDir)
	must(t, syscall.Kill(qemu, syscall.SIGKILL))
	x := c.awaitExit()
	if x.Orderly || !strings.Contains(x.Reason, "signal 9") || x.Guestinfo[link.KeyReceipt] != "" {
		t.Errorf("exit %+v", x)
	}
	must(t, supervisor.AwaitEnd(t.Context(), c.spec.RunDir)) // its supervisor ends behind its last report
	if left := processesNaming(t, c.spec.RunDir); left != "" {
		t.Errorf("processes left: %s", left)
	}
	c.silent(hub)
}

// A child that cannot take on its identity says which item of the receipt has failed, ends, and was never on the network.
func TestReceiptFails(t *testing.T) {
	g := tetherTemplate(t)
	g.capturing()
	hub := framestest.New(t)
	c := g.container(g.template(), 1, tetherSpec("echo must not run"), busyboxDisk(t), func(s *vm.MachineSpec) {
		s.NICs[0] = vm.NIC{MAC: "nonsense"} // not connected: or the supervisor would refuse it
	})
	status, out := c.ending()
	if f := status.Failure; status.State != tetherv1.State_FAILED || f.GetReason() != tetherv1.Failure_FORK || !strings.Contains(f.GetMessage(), "mac: malformed MAC address") {
		t.Errorf("status %v", status)
	}
	if out[link.StreamStdout] != "" {
		t.Errorf("the process has run: %q", out)
	}
	if !strings.Contains(c.console(), "malformed MAC address") {
		t.Error("the console does not tell")
	}
	c.silent(hub)
}
