package vmtest

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// TestLeaksAreSeen leaves one of each thing behind and expects to be told.
func TestLeaksAreSeen(t *testing.T) {
	dir := t.TempDir()
	h := &Host{Dir: dir, State: filepath.Join(dir, "s"), Run: filepath.Join(dir, "r"), tb: t, taps: countTAPs()}
	if left := h.machineTraces(); len(left) != 0 {
		t.Fatalf("an empty host has %v", left)
	}
	var want []string
	for _, path := range []string{"r/vm/vm-1", "s/hostd/datastore/abc", "s/hostd/datastore/cvm/layers/abc.partial.vmdk", "s/hostd/datastore/cvm/blobs/sha256/abc.partial", "r/net/network-10/frames.sock"} {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		want = append(want, path)
	}
	if left := h.machineTraces(); !slices.Equal(left, want) {
		t.Errorf("left are %v, want %v", left, want)
	}
}

// TestPortsAreSeen: ports on which a process listens are found.
func TestPortsAreSeen(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	u, err := net.ListenPacket("udp", "[::1]:0")
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	ports := listening(os.Getpid())
	for _, want := range []int{l.Addr().(*net.TCPAddr).Port, u.LocalAddr().(*net.UDPAddr).Port} {
		if !slices.Contains(ports, want) {
			t.Errorf("ports %v, want %d", ports, want)
		}
	}
}

func TestProcessesAreSeen(t *testing.T) {
	h := &Host{Dir: t.TempDir()}
	byArgument := exec.Command("sh", "-c", "read x; : "+h.Dir)
	byEnvironment := exec.Command("cat")
	byEnvironment.Env = []string{"CVM_STATE=" + h.Dir + "/s"}
	for _, cmd := range []*exec.Cmd{byArgument, byEnvironment} {
		stdin, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer cmd.Wait()
		defer stdin.Close()
	}
	var pids []int
	for _, p := range h.Processes() {
		pids = append(pids, p.PID)
		if p.Parent != os.Getpid() {
			t.Errorf("%v has parent %d", p, p.Parent)
		}
	}
	for _, cmd := range []*exec.Cmd{byArgument, byEnvironment} {
		if !slices.Contains(pids, cmd.Process.Pid) {
			t.Errorf("%v is not seen", cmd.Args)
		}
	}
}

func TestBusyboxIsValid(t *testing.T) {
	img, err := tarball.ImageFromPath(Busybox(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(img); err != nil {
		t.Error(err)
	}
}
