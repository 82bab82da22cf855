package agent

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/containervm/containervm/tether/internal/process"
	"github.com/containervm/containervm/tether/internal/rootfs"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// serve serves the agent of a configuration and returns a host's client of it.
func serve(t *testing.T, c Config) (*Agent, *link.Client) {
	t.Helper()
	c.Version, c.Log = "v1", slog.New(slog.DiscardHandler)
	c.Phase = func() string { return "running" }
	c.Status = func() *tetherv1.Status { return &tetherv1.Status{State: tetherv1.State_RUNNING} }
	a := New(c)
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "link"))
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- a.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	conn, err := net.Dial("unix", l.Addr().String())
	must(t, err)
	client, err := link.NewClient(t.Context(), conn)
	must(t, err)
	t.Cleanup(func() { client.Close() })
	return a, client
}

// container runs script as the main process of a container that holds busybox.
func container(t *testing.T, script string) (*process.Container, *process.Session) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root for namespaces; try: sudo go test")
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("needs a static busybox; try: apt-get install busybox-static")
	}
	dir := t.TempDir()
	program, err := os.ReadFile(busybox)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "busybox"), program, 0o755))
	reaper := process.NewReaper()
	go reaper.Run()
	root := rootfs.Root{Dir: dir, Staging: t.TempDir()}
	space, err := process.NewSpace(func() error {
		return errors.Join(unix.Mount(dir, dir, "", unix.MS_BIND, ""), root.Stage())
	})
	must(t, err)
	must(t, space.Do(root.Enter))
	c, err := process.NewContainer(space, reaper, "box", "")
	must(t, err)
	main, err := c.Start(link.MainSession, shell(script), process.Options{})
	must(t, err)
	t.Cleanup(func() {
		_ = main.Signal(unix.SIGKILL)
		<-main.Done()
		c.Close()
	})
	return c, main
}

func shell(script string) *tetherv1.Process {
	return &tetherv1.Process{Args: []string{"/busybox", "sh", "-c", script}, Stdin: true}
}

func wantCode(t *testing.T, what string, err error, code codes.Code) {
	t.Helper()
	if status.Code(err) != code {
		t.Errorf("%s: %v, want %v", what, err, code)
	}
}

func TestAgentOfAContainer(t *testing.T) {
	c, main := container(t, "read line; exit 3")
	stopped := make(chan time.Duration, 2)
	a, host := serve(t, Config{Container: c, Stop: func(_ context.Context, _ unix.Signal, grace time.Duration) error {
		stopped <- grace
		return process.ErrEnded
	}, Release: func(*tetherv1.Fork) error { return link.Refuse(errdefs.ErrFailedPrecondition, "not held") }})
	ctx, rpc := t.Context(), host.Tether()

	info, err := rpc.Info(ctx, &tetherv1.InfoRequest{})
	if err != nil || info.Version != "v1" || info.Phase != "running" || len(info.Sessions) != 1 || info.Kernel == "" {
		t.Errorf("info: %v, %v", info, err)
	}
	exec := func(id string, p *tetherv1.Process) (*tetherv1.ExecResponse, error) {
		return rpc.Exec(ctx, &tetherv1.ExecRequest{Session: id, Process: p, AttachStdout: true})
	}
	_, err = exec("bad name", shell("true"))
	wantCode(t, "bad name", err, codes.InvalidArgument)
	_, err = exec("x", nil)
	wantCode(t, "no process", err, codes.InvalidArgument)
	_, err = exec(link.MainSession, shell("true"))
	wantCode(t, "name taken", err, codes.AlreadyExists)
	if r, err := exec("x", &tetherv1.Process{Args: []string{"/nosuch"}}); err != nil || r.Failure.GetReason() != tetherv1.Failure_NOT_FOUND {
		t.Errorf("no such program: %v, %v", r, err)
	}
	if r, err := exec("x", shell("echo out; echo err >&2; read line; exit 5")); err != nil || r.Failure != nil || r.Pid == 0 {
		t.Errorf("exec: %v, %v", r, err)
	}
	out, err := host.OpenOutput(ctx, "x", link.StreamStdout, 0)
	must(t, err)
	in, err := host.OpenInput(ctx, "x")
	must(t, err)
	must(t, in.CloseWrite())
	if text, err := io.ReadAll(out); err != nil || string(text) != "out\n" {
		t.Errorf("output: %q, %v", text, err)
	}
	if r, err := rpc.Wait(ctx, &tetherv1.WaitRequest{Session: "x"}); err != nil || r.Exit.Code != 5 {
		t.Errorf("wait: %v, %v", r, err)
	}
	info, err = rpc.Info(ctx, &tetherv1.InfoRequest{}) // what a host that adopts the sessions has to know
	must(t, err)
	if all := info.SessionInfos; len(all) != 2 || all[0].Session != link.MainSession || all[0].Exit != nil || all[0].StartedUnixNano == 0 ||
		all[1].Session != "x" || all[1].Exit.GetCode() != 5 || all[1].Pid == 0 {
		t.Errorf("sessions: %v", all)
	}
	_, err = host.OpenOutput(ctx, "x", link.StreamStderr, 1000)
	wantCode(t, "offset beyond the end", errors.Unwrap(err), codes.OutOfRange)
	_, err = rpc.Wait(ctx, &tetherv1.WaitRequest{Session: "none"})
	wantCode(t, "no such session", err, codes.NotFound)
	_, err = rpc.Signal(ctx, &tetherv1.SignalRequest{Session: "x", Signal: 15})
	wantCode(t, "signal to an ended process", err, codes.FailedPrecondition)
	_, err = rpc.Signal(ctx, &tetherv1.SignalRequest{Session: "x", Signal: 0})
	wantCode(t, "signal 0", err, codes.InvalidArgument)
	_, err = rpc.Resize(ctx, &tetherv1.ResizeRequest{Session: "x", Window: &tetherv1.Window{Rows: 1, Columns: 1}})
	wantCode(t, "resize without a terminal", err, codes.FailedPrecondition)
	_, err = rpc.Resize(ctx, &tetherv1.ResizeRequest{Session: "x"})
	wantCode(t, "resize without a window", err, codes.InvalidArgument)
	_, err = rpc.Unpack(ctx, &tetherv1.UnpackRequest{Upload: "x"})
	wantCode(t, "unpack", err, codes.FailedPrecondition)
	if r, err := rpc.Processes(ctx, &tetherv1.ProcessesRequest{}); err != nil || len(r.Processes) == 0 || r.Processes[0].Pid != 1 { // other tests' containers are in it
		t.Errorf("processes: %v, %v", r, err)
	}
	_, err = rpc.Release(ctx, &tetherv1.ReleaseRequest{})
	wantCode(t, "release of what is not held", err, codes.FailedPrecondition)
	for _, request := range []*tetherv1.StopRequest{{GraceSeconds: 7}, {GraceSeconds: 7, NoGraceLimit: true}} {
		_, err = rpc.Stop(ctx, request)
		wantCode(t, "stop of what has ended", err, codes.FailedPrecondition)
	}
	if first, second := <-stopped, <-stopped; first != 7*time.Second || second >= 0 {
		t.Errorf("graces %v and %v", first, second)
	}
	waits := make(chan error, 1)
	go func() {
		_, err := rpc.Wait(ctx, &tetherv1.WaitRequest{Session: link.MainSession})
		waits <- err
	}()
	in, err = host.OpenInput(ctx, link.MainSession)
	must(t, err)
	must(t, in.CloseWrite())
	<-main.Done()
	a.Drain(ctx)
	must(t, <-waits)
	_, err = exec("late", shell("true"))
	wantCode(t, "exec after the end", err, codes.FailedPrecondition)
	c.Close()
	_, err = rpc.Processes(ctx, &tetherv1.ProcessesRequest{})
	must(t, err)
}

func TestAgentWithoutAContainer(t *testing.T) {
	_, host := serve(t, Config{Unpacker: NewUnpacker(t.TempDir())})
	ctx, rpc := t.Context(), host.Tether()
	_, err := rpc.Exec(ctx, &tetherv1.ExecRequest{Session: "x", Process: shell("true")})
	wantCode(t, "exec", err, codes.FailedPrecondition)
	_, err = rpc.Wait(ctx, &tetherv1.WaitRequest{Session: link.MainSession})
	wantCode(t, "wait", err, codes.FailedPrecondition)
	_, err = rpc.Processes(ctx, &tetherv1.ProcessesRequest{})
	wantCode(t, "processes", err, codes.FailedPrecondition)
	_, err = rpc.Unpack(ctx, &tetherv1.UnpackRequest{Upload: "a/b"})
	wantCode(t, "malformed id", err, codes.InvalidArgument)
	if info, err := rpc.Info(ctx, &tetherv1.InfoRequest{}); err != nil || len(info.Sessions) != 0 {
		t.Errorf("info: %v, %v", info, err)
	}
}
