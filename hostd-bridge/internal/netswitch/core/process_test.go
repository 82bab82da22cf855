package core

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/frames"
	"github.com/containervm/containervm/hostd-bridge/internal/netswitch"
)

// TestMain lets the test's own program be cvm-switch.
func TestMain(m *testing.M) {
	if dir := flagOf("--dir"); dir != "" {
		ctx, stop := signalContext()
		defer stop()
		if err := Run(ctx, dir, flagOf("--name"), os.Stdout, os.Stderr); err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func flagOf(name string) string {
	for i, a := range os.Args[:len(os.Args)-1] {
		if a == name {
			return os.Args[i+1]
		}
	}
	return ""
}

func startProcess(t *testing.T, dir string) *netswitch.Switch {
	t.Helper()
	s, err := netswitch.Start(t.Context(), netswitch.Options{Program: os.Args[0], Dir: dir, Name: "a network", Log: nil})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = s.Stop(t.Context()) // most tests have ended it
		s.Close()
		_ = syscall.Kill(s.PID(), syscall.SIGKILL) // it may be gone
	})
	return s
}

func awaitDone(t *testing.T, s *netswitch.Switch) {
	t.Helper()
	select {
	case <-s.Done():
	case <-time.After(20 * time.Second):
		t.Fatal("the switch does not end")
	}
}

func TestProcess(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("long", 30), "net")
	s := startProcess(t, dir)
	cfg := netswitch.Config{Name: "n", Gateways: []netip.Prefix{netip.MustParsePrefix("10.9.0.1/24")}, Endpoints: []netswitch.Endpoint{{
		VM: "vm-1", MAC: "02:00:00:00:00:01", Addresses: []netip.Addr{netip.MustParseAddr("10.9.0.2")}, Names: []string{"one"},
		Publish: []hostapi.Publication{{Protocol: hostapi.TCP, HostIP: netip.MustParseAddr("127.0.0.1"), Port: 80}},
	}}}
	r, err := s.Apply(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	bound := r.Endpoints["vm-1"].Published
	if len(bound) != 1 || bound[0].HostPort == 0 {
		t.Fatalf("bound is %+v", r)
	}
	if _, err := s.Apply(t.Context(), netswitch.Config{MTU: 1}); err == nil {
		t.Error("an MTU of 1 is taken")
	}

	// The daemon forgets it and finds it again.
	s.Close()
	again, err := netswitch.Adopt(t.Context(), dir)
	if err != nil || again == nil || again.PID() != s.PID() {
		t.Fatalf("adopted: %v, %v", again, err)
	}
	if r, err := again.Apply(t.Context(), cfg); err != nil || r.Endpoints["vm-1"].Published[0] != bound[0] {
		t.Errorf("the same Config is %+v, %v; was %+v", r, err, bound)
	}
	stats, err := again.Stats(t.Context())
	if _, there := stats.Endpoints["vm-1"]; err != nil || stats.PID != s.PID() || !there {
		t.Errorf("stats are %+v, %v", stats, err)
	}
	if _, err := netswitch.Start(t.Context(), netswitch.Options{Program: os.Args[0], Dir: dir}); err == nil {
		t.Error("a second switch lives in the same directory")
	}
	if again, err := netswitch.Adopt(t.Context(), dir); err != nil || again == nil {
		t.Fatalf("the failed start has harmed the switch: %v", err)
	} else {
		again.Close()
	}

	if err := again.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	awaitDone(t, again)
	again.Close()
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory is left: %v", err)
	}
	if none, err := netswitch.Adopt(t.Context(), dir); err != nil || none != nil {
		t.Errorf("found %v, %v where nothing is", none, err)
	}
}

func TestKilledProcess(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "net")
	s := startProcess(t, dir)
	want := hostapi.Publication{Protocol: hostapi.TCP, HostIP: netip.MustParseAddr("127.0.0.1"), Port: 80}
	cfg := netswitch.Config{Gateways: []netip.Prefix{netip.MustParsePrefix("10.9.0.1/24")}, Endpoints: []netswitch.Endpoint{{VM: "vm-1", MAC: "02:00:00:00:00:01", Publish: []hostapi.Publication{want}}}}
	r, err := s.Apply(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(s.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	awaitDone(t, s)
	if _, err := s.Stats(t.Context()); err == nil {
		t.Error("a dead switch answers")
	}
	// Another one begins where it lay, with the port that the host had chosen.
	next := startProcess(t, dir)
	cfg.Endpoints[0].Publish = r.Endpoints["vm-1"].Published
	again, err := next.Apply(t.Context(), cfg)
	if err != nil || again.Endpoints["vm-1"].Published[0] != r.Endpoints["vm-1"].Published[0] {
		t.Errorf("got %+v, %v; was %+v", again, err, r)
	}
	if err := syscall.Kill(next.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	awaitDone(t, next)
	// Also who only looks finds none, and clears up.
	if none, err := netswitch.Adopt(t.Context(), dir); err != nil || none != nil {
		t.Errorf("found %v, %v", none, err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory is left: %v", err)
	}
}

func TestSwitchEndsAtSIGTERM(t *testing.T) {
	s := startProcess(t, filepath.Join(t.TempDir(), "net"))
	if err := syscall.Kill(s.PID(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	awaitDone(t, s)
}

// TestProcessIsConfined: no environment, no descriptors of the daemon's, no new privileges, no core.
func TestProcessIsConfined(t *testing.T) {
	t.Setenv("SECRET", "of the daemon")
	mine, err := os.Open("/dev/zero")
	if err != nil {
		t.Fatal(err)
	}
	defer mine.Close()
	s := startProcess(t, filepath.Join(t.TempDir(), "net"))
	proc := filepath.Join("/proc", itoa(s.PID()))
	status, err := os.ReadFile(filepath.Join(proc, "status"))
	if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_GETPID, 0, 0, 0); errno == unix.ENOTSUP {
		t.Log("this test has cgo, cvm-switch has not: new privileges are not looked at")
	} else if err != nil || !strings.Contains(string(status), "NoNewPrivs:\t1") {
		t.Errorf("it may get new privileges (%v)", err)
	}
	if env, err := os.ReadFile(filepath.Join(proc, "environ")); err == nil && len(env) > 0 {
		t.Errorf("it has the environment %q", env)
	}
	fds, err := os.ReadDir(filepath.Join(proc, "fd"))
	if err != nil {
		t.Skip("needs to be root, to look into the process: ", err)
	}
	for _, fd := range fds {
		if to, _ := os.Readlink(filepath.Join(proc, "fd", fd.Name())); to == "/dev/zero" {
			t.Error("it has a descriptor of the daemon's")
		}
	}
}

// TestGarbageOnTheSockets: what makes no sense ends its connection and no more.
func TestGarbageOnTheSockets(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "net")
	s := startProcess(t, dir)
	for _, name := range []string{frames.Control, frames.Socket} {
		for _, garbage := range []string{"x", "\xff\xff\xff\xff", "\x00\x00\x00\x02{}", "\x00\x00\x00\x04null", "\x00\x00\x00\x0e{\"op\":\"apply\"}", "\x00\x00\x00\x05{\"op\"", strings.Repeat("GET / HTTP/1.1\r\n", 5000)} {
			c, err := net.Dial("unix", filepath.Join(dir, name))
			if err != nil {
				t.Fatal(name, err)
			}
			_, _ = c.Write([]byte(garbage)) // it may be closed before it is written
			c.(*net.UnixConn).CloseWrite()
			c.SetReadDeadline(time.Now().Add(20 * time.Second))
			if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%s waits after %.20q", name, garbage)
			}
			c.Close()
		}
	}
	c, err := net.Dial("unix", filepath.Join(dir, frames.Control))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write(binary.BigEndian.AppendUint32(nil, netswitch.MaxMessage)); err != nil { // believed as far as bytes come
		t.Fatal(err)
	}
	if _, err := s.Stats(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestStartSaysWhyNot(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, frames.Control), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, frames.Control, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for program, word := range map[string]string{os.Args[0]: "stale socket", "/bin/false": "EOF", filepath.Join(dir, "none"): "no such file"} {
		if s, err := netswitch.Start(t.Context(), netswitch.Options{Program: program, Dir: dir, Name: "n"}); err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%s: %v, %v", program, s, err)
		}
	}
}

// TestLogIsBounded: what guests make the switch say does not fill the host's disk.
func TestLogIsBounded(t *testing.T) {
	f, err := os.OpenFile(filepath.Join(t.TempDir(), "log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := &boundedFile{file: f}
	for range 3 * maxLog / 1000 {
		if _, err := b.Write(make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
	}
	if info, err := f.Stat(); err != nil || info.Size() > maxLog || info.Size() == 0 {
		t.Errorf("it has %d bytes (%v)", info.Size(), err)
	}
}
