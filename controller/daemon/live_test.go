package daemon_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/client"

	"github.com/containervm/containervm/hostd-bridge/daemon/daemontest"
	"github.com/containervm/containervm/internal/vmtest"
	"github.com/containervm/containervm/tether/link"
	"github.com/containervm/containervm/tether/link/linktest"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// TestPause: a paused container is shown as such, refuses what Docker refuses in Docker's words, and is so for the next controller too.
func TestPause(t *testing.T) {
	e := start(t, nil)
	e.create("c", container.Config{Cmd: []string{"sleep"}}, container.HostConfig{})
	pause := func() error {
		_, err := e.docker.ContainerPause(e.ctx(), "c", client.ContainerPauseOptions{})
		return err
	}
	unpause := func() error {
		_, err := e.docker.ContainerUnpause(e.ctx(), "c", client.ContainerUnpauseOptions{})
		return err
	}
	if err := pause(); !errdefs.IsConflict(err) || !strings.Contains(err.Error(), "is not running") {
		t.Errorf("pause of a container that does not run: %v", err)
	}
	e.begin("c")
	if err := unpause(); err == nil || !strings.Contains(err.Error(), "is not paused") {
		t.Errorf("unpause of a container that runs: %v", err)
	}
	if err := pause(); err != nil {
		t.Fatal(err)
	}
	if err := pause(); !errdefs.IsConflict(err) || !strings.Contains(err.Error(), "is already paused") {
		t.Errorf("pause of a paused container: %v", err)
	}
	e.stop()
	e.run()
	if s := e.state("c"); !s.Paused || !s.Running || s.Status != container.StatePaused {
		t.Errorf("state of a paused container: %+v", s)
	}
	list, err := e.docker.ContainerList(e.ctx(), client.ContainerListOptions{Filters: client.Filters{}.Add("status", "paused")})
	if err != nil || len(list.Items) != 1 || !strings.HasSuffix(list.Items[0].Status, " (Paused)") {
		t.Errorf("%+v, %v", list.Items, err)
	}
	if _, err := e.execIn("c", "true"); !errdefs.IsConflict(err) || !strings.Contains(err.Error(), "Container c is paused, unpause the container before exec") {
		t.Errorf("exec in a paused container: %v", err)
	}
	if _, err := e.docker.ContainerAttach(e.ctx(), "c", client.ContainerAttachOptions{Stream: true, Stdout: true}); err == nil || !strings.Contains(err.Error(), "409") {
		t.Errorf("attach to a paused container: %v", err)
	}
	if _, err := e.docker.ContainerStart(e.ctx(), "c", client.ContainerStartOptions{}); !errdefs.IsConflict(err) || !strings.Contains(err.Error(), "cannot start a paused container, try unpause instead") {
		t.Errorf("start of a paused container: %v", err)
	}
	if s := e.state("c"); !s.Paused || !s.Running {
		t.Errorf("state after a start that was refused: %+v", s)
	}
	if err := unpause(); err != nil {
		t.Error(err)
	}
	if s := e.state("c"); s.Paused || !s.Running {
		t.Errorf("state after the pause: %+v", s)
	}
	if err := pause(); err != nil {
		t.Fatal(err)
	}
	if _, err := e.docker.ContainerRestart(e.ctx(), "c", client.ContainerRestartOptions{}); err != nil {
		t.Error(err)
	}
	if s := e.state("c"); s.Paused || !s.Running {
		t.Errorf("state of a paused container that was restarted: %+v", s)
	}
	if err := pause(); err != nil {
		t.Fatal(err)
	}
	if _, err := e.docker.ContainerStop(e.ctx(), "c", client.ContainerStopOptions{}); err != nil {
		t.Error(err)
	}
	if s := e.state("c"); s.Paused || s.Running {
		t.Errorf("state of a paused container that was stopped: %+v", s)
	}
	vmtest.Eventually(t, testTime/2, "all of it is told", func() bool {
		past := client.EventsListOptions{Since: "1m", Until: time.Now().Format(time.RFC3339Nano), Filters: client.Filters{}.Add("event", "pause", "unpause")}
		var actions []string
		for _, m := range e.eventsOf(past) {
			actions = append(actions, string(m.Action))
		}
		return slices.Equal(actions, []string{"unpause", "pause", "unpause", "pause", "unpause"}) // of the first controller's nothing is left
	})
}

// eventsOf are the events of the past.
func (e *engine) eventsOf(opt client.EventsListOptions) (all []events.Message) {
	e.t.Helper()
	res := e.docker.Events(e.ctx(), opt)
	for {
		select {
		case m := <-res.Messages:
			all = append(all, m)
		case err := <-res.Err:
			if err != io.EOF {
				e.t.Error(err)
			}
			return all
		}
	}
}

// statsOf reads samples of what a container uses.
func (e *engine) statsOf(query string, n int) (all []container.StatsResponse) {
	e.t.Helper()
	req, err := http.NewRequestWithContext(e.ctx(), http.MethodGet, "http://docker/containers/c/stats?"+query, nil)
	if err != nil {
		e.t.Fatal(err)
	}
	res, err := e.dialer().Do(req)
	if err != nil {
		e.t.Fatal(err)
	}
	defer res.Body.Close()
	dec := json.NewDecoder(res.Body)
	for range n {
		var s container.StatsResponse
		if err := dec.Decode(&s); err != nil {
			e.t.Fatalf("after %d samples: %v", len(all), err)
		}
		all = append(all, s)
	}
	return all
}

// TestStats: one sample at once, one with the one before it, or one after the other; who does not run uses nothing.
func TestStats(t *testing.T) {
	e := start(t, nil)
	e.create("c", container.Config{Cmd: []string{"sleep"}}, container.HostConfig{})
	if s := e.statsOf("stream=0", 1)[0]; s.Name != "/c" || len(s.ID) != 64 || s.MemoryStats.Limit != 0 || !s.Read.IsZero() {
		t.Errorf("of a container that does not run: %+v", s)
	}
	e.begin("c")
	s := e.statsOf("stream=0&one-shot=1", 1)[0]
	if s.MemoryStats.Usage != 100<<20 || s.MemoryStats.Limit != 512<<20 || s.MemoryStats.Stats["inactive_file"] != 40<<20 || s.PidsStats.Current != 3 ||
		s.CPUStats.CPUUsage.TotalUsage != 500_000_000 || s.CPUStats.SystemUsage != 1_000_000_000 || s.CPUStats.OnlineCPUs != 1 ||
		s.Networks["eth0"].TxBytes != 2000 || len(s.BlkioStats.IoServiceBytesRecursive) != 2 || s.PreCPUStats.SystemUsage != 0 {
		t.Errorf("one shot: %+v", s)
	}
	if s := e.statsOf("stream=0", 1)[0]; s.PreCPUStats.SystemUsage == 0 || s.CPUStats.SystemUsage <= s.PreCPUStats.SystemUsage || !s.Read.After(s.PreRead) {
		t.Errorf("with the one before: %+v", s)
	}
	all := e.statsOf("", 2)
	if all[1].PreCPUStats.SystemUsage != all[0].CPUStats.SystemUsage {
		t.Errorf("a stream: %+v", all)
	}
	for query, status := range map[string]int{"one-shot=1": http.StatusBadRequest, "stream=1&one-shot=1": http.StatusBadRequest} {
		if got := e.call(http.MethodGet, "/containers/c/stats?"+query, "", nil); got != status {
			t.Errorf("%s: status %d", query, got)
		}
	}
}

// TestStatsEnd: a stream ends with its container, and goes on with zeros when that has stopped; a guest that does not answer has no sample.
func TestStatsEnd(t *testing.T) {
	e := startOn(t, badGuests(t, func(_ *daemontest.Machine, f *linktest.Tether) {
		f.OnStats(func(ctx context.Context) (*tetherv1.StatsResponse, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		})
	}), impatient)
	e.create("c", container.Config{Cmd: []string{"sleep"}}, container.HostConfig{})
	e.begin("c")
	res, err := e.docker.ContainerStats(e.ctx(), "c", client.ContainerStatsOptions{Stream: true})
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if status := e.call(http.MethodGet, "/containers/c/stats?stream=0", "", nil); status < 500 {
		t.Errorf("a guest that does not answer: status %d", status)
	}
	if _, err := e.docker.ContainerKill(e.ctx(), "c", client.ContainerKillOptions{}); err != nil {
		t.Fatal(err)
	}
	dec := json.NewDecoder(res.Body)
	var s container.StatsResponse
	if err := dec.Decode(&s); err != nil || s.MemoryStats.Usage != 0 || s.Name != "/c" {
		t.Errorf("%+v, %v", s, err)
	}
	e.remove("c")
	for err == nil {
		err = dec.Decode(&s)
	}
	if err != io.EOF {
		t.Errorf("the stream ends with %v", err)
	}
}

// TestHealth: what a guest says of its health is in inspections, in lists, in filters and in events; who is not checked has none.
func TestHealth(t *testing.T) {
	machines := make(chan *daemontest.Machine, 1)
	e := start(t, func(m *daemontest.Machine, _ *linktest.Tether) {
		select {
		case machines <- m:
		default: // an unpacker
		}
	})
	select {
	case <-machines: // of the import
	default:
	}
	conf := container.Config{Cmd: []string{"sleep"}, Env: []string{"A=b"}, User: "7", Healthcheck: &container.HealthConfig{
		Test: []string{"CMD-SHELL", "test -e /ok"}, Interval: time.Second, Retries: 2,
	}}
	id := e.create("c", conf, container.HostConfig{})
	if h := e.state("c").Health; h != nil {
		t.Errorf("a container that never ran: %+v", h)
	}
	if s := e.spec(id).GetHealth(); !slices.Equal(s.GetProcess().GetArgs(), []string{"/bin/sh", "-c", "test -e /ok"}) || s.Process.User != "7" ||
		!slices.Contains(s.Process.Env, "A=b") || s.Interval != int64(time.Second) || s.Retries != 2 {
		t.Errorf("the tether is told %v", s)
	}
	e.begin("c")
	m := <-machines
	says := func(state tetherv1.HealthStatus_State, streak uint32, status container.HealthStatus) {
		t.Helper()
		text, err := link.EncodeHealth(&tetherv1.HealthStatus{
			State: state, FailingStreak: streak, Results: []*tetherv1.HealthResult{{StartUnixNano: 1e9, EndUnixNano: 2e9, ExitCode: int32(streak), Output: "out\x1b"}},
		})
		if err != nil {
			t.Fatal(err)
		}
		m.Set(link.KeyHealth, text)
		for deadline := time.Now().Add(testTime); e.state("c").Health.Status != status; {
			if time.Now().After(deadline) {
				t.Fatalf("health %+v, want %s", e.state("c").Health, status)
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	if h := e.state("c").Health; h.Status != container.Starting || len(h.Log) != 0 {
		t.Errorf("before the first check: %+v", h)
	}
	says(tetherv1.HealthStatus_HEALTHY, 0, container.Healthy)
	list, err := e.docker.ContainerList(e.ctx(), client.ContainerListOptions{Filters: client.Filters{}.Add("health", "healthy")})
	if err != nil || len(list.Items) != 1 || !strings.HasSuffix(list.Items[0].Status, " (healthy)") || list.Items[0].Health.Status != container.Healthy {
		t.Errorf("%+v, %v", list.Items, err)
	}
	says(tetherv1.HealthStatus_UNHEALTHY, 2, container.Unhealthy)
	if h := e.state("c").Health; h.FailingStreak != 2 || len(h.Log) != 1 || h.Log[0].ExitCode != 2 || h.Log[0].Output != `out\x1b` {
		t.Errorf("%+v", h)
	}
	happened := e.eventsOf(client.EventsListOptions{Since: "1m", Until: time.Now().Format(time.RFC3339Nano), Filters: client.Filters{}.Add("event", "health_status")})
	if len(happened) != 2 || happened[0].Action != events.ActionHealthStatusHealthy || happened[1].Action != events.ActionHealthStatusUnhealthy {
		t.Errorf("events %v", happened)
	}
	e.removeForced("c")
	for _, test := range [][]string{nil, {"NONE"}, {}} {
		id := e.create("c", container.Config{Cmd: []string{"sleep"}, Healthcheck: &container.HealthConfig{Test: test}}, container.HostConfig{})
		e.begin("c")
		if e.state("c").Health != nil || e.spec(id).GetHealth() != nil {
			t.Errorf("%q is checked", test)
		}
		e.removeForced("c")
	}
	for says, h := range map[string]container.HealthConfig{
		"Interval in Healthcheck cannot be less than 1ms": {Test: []string{"CMD", "x"}, Interval: 5},
		"Retries in Healthcheck cannot be negative":       {Test: []string{"CMD", "x"}, Retries: -1},
		"unknown kind of health check":                    {Test: []string{"FOO", "x"}},
		"needs a command":                                 {Test: []string{"CMD"}},
	} {
		_, err := e.docker.ContainerCreate(e.ctx(), client.ContainerCreateOptions{
			Config: &container.Config{Image: "base", Cmd: []string{"true"}, Healthcheck: &h}, HostConfig: &container.HostConfig{},
		})
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), says) {
			t.Errorf("%+v: %v", h, err)
		}
	}
}

// TestUpdateRunning: what the guest and the host can change while a container runs they do, the next boot keeps it, and what they cannot
// is refused with what to do.
func TestUpdateRunning(t *testing.T) {
	tethers := make(chan *linktest.Tether, 8)
	e := start(t, func(_ *daemontest.Machine, f *linktest.Tether) { tethers <- f })
	id := e.create("c", container.Config{Cmd: []string{"sleep"}}, container.HostConfig{Resources: container.Resources{NanoCPUs: 2e9}})
	e.begin("c")
	tether := <-tethers
	for len(tethers) > 0 { // the last one is the container's, the first an unpacker's
		tether = <-tethers
	}
	update := func(r container.Resources) error {
		t.Helper()
		_, err := e.docker.ContainerUpdate(e.ctx(), "c", client.ContainerUpdateOptions{Resources: &r})
		return err
	}
	pids := int64(50)
	if err := update(container.Resources{PidsLimit: &pids, CpusetCpus: "1", MemoryReservation: 10 << 20, CPUShares: 2048}); err != nil {
		t.Fatal(err)
	}
	if err := update(container.Resources{NanoCPUs: 500_000_000}); err != nil {
		t.Fatal(err)
	}
	all := tether.Updates()
	if len(all) != 2 {
		t.Fatalf("the tether was told %v", all)
	}
	for _, r := range all { // each has all limits
		if r.PidsLimit != 50 || r.Cpus != "1" || r.MemoryReservationBytes != 10<<20 || r.CpuWeight < 70 || r.CpuWeight > 90 {
			t.Errorf("the tether is told %v", r)
		}
	}
	if s := e.spec(id); s.PidsLimit != 50 || s.Cpus != "1" {
		t.Errorf("the next boot has %v", s)
	}
	h := e.inspect("c").HostConfig
	if h.PidsLimit == nil || *h.PidsLimit != 50 || h.CpusetCpus != "1" || h.MemoryReservation != 10<<20 || h.CPUShares != 2048 || h.NanoCPUs != 500_000_000 {
		t.Errorf("inspect shows %+v", h.Resources)
	}
	if m := e.host.Hypervisor.Machine(e.vm(id).Ref.Value); m == nil || m.CPULimit() != 0.5 || e.vm(id).CPUs != 2 {
		t.Errorf("the host's limit of %+v", e.vm(id))
	}
	for says, r := range map[string]container.Resources{
		"at most 2, or stop the container first": {NanoCPUs: 3e9},
		"stop the container first":               {Memory: 1 << 30},
	} {
		if err := update(r); !errdefs.IsConflict(err) || !strings.Contains(err.Error(), says) {
			t.Errorf("%+v: %v", r, err)
		}
	}
	for says, r := range map[string]container.Resources{
		"Requested CPUs are not available":          {CpusetCpus: "0-7"},
		"Minimum memory reservation allowed is 6MB": {MemoryReservation: 1000},
		"Invalid value x for cpuset cpus":           {CpusetCpus: "x"},
		"BlkioWeight":                               {BlkioWeight: 100},
	} {
		if err := update(r); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%+v: %v", r, err)
		}
	}
	if n := len(tether.Updates()); n != 2 {
		t.Errorf("a refusal reached the tether: %d updates", n)
	}
	happened := e.eventsOf(client.EventsListOptions{Since: "1m", Until: time.Now().Format(time.RFC3339Nano), Filters: client.Filters{}.Add("event", "update")})
	if len(happened) != 2 {
		t.Errorf("events %v", happened)
	}
}
