package daemon_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	ctr "github.com/containervm/containervm/controller/internal/container"
	"github.com/containervm/containervm/hostd-bridge/daemon/daemontest"
	"github.com/containervm/containervm/internal/vmtest"
	"github.com/containervm/containervm/tether/link"
	"github.com/containervm/containervm/tether/link/linktest"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// patient is a tether whose process comes to its fork point when the test says so.
type patient struct {
	*linktest.Tether
	asked, reached chan struct{}
}

func (p *patient) Hold(ctx context.Context, r *tetherv1.HoldRequest) (*tetherv1.HoldResponse, error) {
	if r.GetAtPoint() {
		p.asked <- struct{}{}
		<-p.reached
	}
	return p.Tether.Hold(ctx, r)
}

// TestForkAtPoint: a fork waits for its point; a client that does not wait so long leaves nothing held, although the tether
// does not learn of it.
func TestForkAtPoint(t *testing.T) {
	good := daemontest.TetherGuest(t, nil)
	p := &patient{Tether: linktest.NewTether(t), asked: make(chan struct{}), reached: make(chan struct{})}
	e := startForks(t, func(ctx context.Context, m *daemontest.Machine) {
		if spec, err := link.DecodeSpec(m.Get(link.KeySpec)); err != nil || m.Parent() != nil || spec.GetProcess().GetArgs() == nil {
			good(ctx, m)
			return
		}
		m.Remember("the process has run")
		m.Listen(link.PortLink, func(conn net.Conn) { _ = link.Serve(ctx, conn, p, slog.New(slog.DiscardHandler)) })
		running(t, m)
		<-ctx.Done()
	}, ctr.Timeouts{}, forks{})
	e.begin(e.create("web", container.Config{Cmd: []string{"sleep"}}, container.HostConfig{}))
	fork := func(ctx context.Context) <-chan int {
		status := make(chan int, 1)
		req, _ := http.NewRequestWithContext(ctx, "POST", "http://docker/containers/web/fork", strings.NewReader(`{"AtPoint": true}`))
		req.Header.Set("Content-Type", "application/json")
		go func() {
			res, err := e.dialer().Do(req)
			if err != nil {
				status <- 0
				return
			}
			defer res.Body.Close()
			_, _ = io.Copy(io.Discard, res.Body)
			status <- res.StatusCode
		}()
		return status
	}
	ctx, leave := context.WithCancel(e.ctx())
	status := fork(ctx)
	<-p.asked
	leave()
	<-status
	p.reached <- struct{}{} // only now: nobody waits for it any more
	vmtest.Eventually(t, testTime/4, "what was held is let go", func() bool { return len(p.Releases()) == 1 })
	e.only("web")
	status = fork(e.ctx())
	<-p.asked
	p.reached <- struct{}{}
	if got := <-status; got != http.StatusCreated {
		t.Errorf("the next fork: %d", got)
	}
	e.only("web", "web-1")
}

// TestForksInInfo: docker info and the metrics tell what is kept for forks.
func TestForksInInfo(t *testing.T) {
	e := forking(t, forks{templates: 3, warm: 1})
	e.awaitWarm(1)
	e.create("parked", container.Config{Cmd: []string{"sleep"}}, container.HostConfig{})
	e.awaitWarm(1)
	res, err := e.docker.Info(e.ctx(), client.InfoOptions{})
	if err != nil {
		t.Fatal(err)
	}
	lines := map[string]string{}
	for _, l := range res.Info.DriverStatus {
		lines[l[0]] = l[1]
	}
	if lines["Templates"] != "1 (at most 3)" || lines["Warm"] != "1 of 1" || lines["Parked"] != "1" || lines["Pre-started"] == "" {
		t.Errorf("driver status %v", res.Info.DriverStatus)
	}
	if _, ok := res.Info.Runtimes["fork"]; !ok || res.Info.DefaultRuntime != "fork" || len(res.Info.Runtimes) != 2 {
		t.Errorf("runtimes %v, default %s", res.Info.Runtimes, res.Info.DefaultRuntime)
	}
	answer, err := e.dialer().Get("http://docker/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`cvm_container_create_seconds_count{kind="warm"} 1`, "cvm_templates 1", "cvm_warm_machines 1", "cvm_parked_containers 1", "cvm_containers_running 0"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the metrics lack %q:\n%s", want, text)
		}
	}
}
