package daemon_test

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/moby/moby/client"

	"github.com/containervm/containervm/controller/daemon"
	ctr "github.com/containervm/containervm/controller/internal/container"
	hostd "github.com/containervm/containervm/hostd-bridge/daemon"
	"github.com/containervm/containervm/hostd-bridge/daemon/daemontest"
	"github.com/containervm/containervm/tether/link/linktest"
)

// engine is a controller on a host whose machines are in memory, with an image "base".
type engine struct {
	t      *testing.T
	host   *daemontest.Host
	socket string
	docker *client.Client
	times  ctr.Timeouts
	forks  forks
	stop   func()
}

// forks are the limits of an engine's templates; without any, containers boot.
type forks struct {
	templates, warm int
	noDisk          bool // the host's clones take no disk along
	noNetworks      bool // the host has not the extension networks
}

// testTime bounds every test: one that waits for ever fails.
const testTime = time.Minute

func start(t *testing.T, setup func(*daemontest.Machine, *linktest.Tether)) *engine {
	t.Helper()
	return startOn(t, daemontest.TetherGuest(t, setup), ctr.Timeouts{})
}

// startOn starts an engine whose machines run guest.
func startOn(t *testing.T, guest daemontest.Guest, times ctr.Timeouts) *engine {
	t.Helper()
	return startForks(t, guest, times, forks{})
}

// startForks starts an engine whose containers may be forked.
func startForks(t *testing.T, guest daemontest.Guest, times ctr.Timeouts, f forks) *engine {
	t.Helper()
	host := daemontest.Start(t, guest, func(c *hostd.Config) { c.NoDiskAtFork, c.NoNetworks = f.noDisk, f.noNetworks })
	e := &engine{t: t, host: host, socket: filepath.Join(t.TempDir(), "docker.sock"), times: times, forks: f}
	e.run()
	t.Cleanup(func() { e.stop() })
	e.importImage("base")
	return e
}

// run starts the controller, also again after stop.
func (e *engine) run() {
	e.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	at := e.host.Endpoint
	go func() {
		ended <- daemon.Run(ctx, daemon.Config{
			Socket: e.socket, VSphereURL: at.URL, Username: at.Username, Password: at.Password, CAFile: at.CAFile,
			Bridge:    netip.MustParsePrefix("172.17.0.0/16"), // whatever networks this machine has
			Templates: e.forks.templates, Warm: e.forks.warm, Timeouts: e.times, Log: slog.New(slog.NewTextHandler(testLog{e.t}, nil)),
		}, func() { close(ready) })
	}()
	select {
	case <-ready:
	case err := <-ended:
		e.t.Fatalf("controller ended at start: %v", err)
	}
	docker, err := client.New(client.WithHost("unix://" + e.socket))
	if err != nil {
		e.t.Fatal(err)
	}
	e.docker = docker
	e.stop = func() {
		e.stop = func() {}
		docker.Close()
		cancel()
		if err := <-ended; err != nil {
			e.t.Errorf("controller: %v", err)
		}
	}
}

// importImage makes an image of a root with one file in it.
func (e *engine) importImage(name string) {
	e.t.Helper()
	var root bytes.Buffer
	w := tar.NewWriter(&root)
	if err := w.WriteHeader(&tar.Header{Name: "hello", Size: 2, Mode: 0o644}); err != nil {
		e.t.Fatal(err)
	}
	if _, err := w.Write([]byte("hi")); err != nil {
		e.t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		e.t.Fatal(err)
	}
	res, err := e.docker.ImageImport(e.ctx(), client.ImageImportSource{Source: &root, SourceName: "-"}, name, client.ImageImportOptions{})
	if err != nil {
		e.t.Fatal(err)
	}
	defer res.Close()
	if out, err := io.ReadAll(res); err != nil || bytes.Contains(out, []byte("error")) {
		e.t.Fatalf("import: %s, %v", out, err)
	}
}

func (e *engine) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), testTime)
	e.t.Cleanup(cancel)
	return ctx
}

type testLog struct{ t *testing.T }

func (l testLog) Write(p []byte) (int, error) {
	_, err := os.Stderr.Write(p)
	return len(p), err
}
