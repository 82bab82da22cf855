package hostile

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containervm/containervm/internal/vmtest"
)

// sibling is the container beside the attackers, and the client that follows its output.
type sibling struct {
	h             *vmtest.Host
	id, url       string
	address       string   // in its network
	hostAddresses []string // that no container may reach
	started       string
	daemon        int          // process of both daemons
	lines         atomic.Int64 // that the client has read
	trouble       atomic.Value // string: what the client read that is no count
	stop          func()
}

const siblingName = "sibling"

func startSibling(t *testing.T, h *vmtest.Host) *sibling {
	t.Helper()
	s := &sibling{h: h}
	s.id = h.MustDocker(t, "run", "-d", "--name", siblingName, "-p", "127.0.0.1::80", image, "sibling")
	s.url = "http://" + h.MustDocker(t, "port", siblingName, "80")
	s.address = h.MustDocker(t, "inspect", "-f", "{{.NetworkSettings.Networks.bridge.IPAddress}}", siblingName)
	s.hostAddresses = hostAddresses(t, h, h.MustDocker(t, "inspect", "-f", "{{.NetworkSettings.Networks.bridge.Gateway}}", siblingName))
	s.started = h.MustDocker(t, "inspect", "-f", "{{.State.StartedAt}}", siblingName)
	for _, p := range h.Processes() {
		if p.Program == "cvm" {
			s.daemon = p.PID
		}
	}
	if s.daemon == 0 {
		t.Fatalf("no daemon: %v", h.Processes())
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	client := h.Command(ctx, "docker", "logs", "-f", siblingName)
	out, err := client.StdoutPipe()
	if err == nil {
		err = client.Start()
	}
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.follow(out)
		_ = client.Wait() // killed by stop, or the trouble says more
	}()
	s.stop = func() { cancel(); <-done }
	t.Cleanup(s.stop)
	s.goesOn(t, 5, "before any attack")
	h.MustDocker(t, "run", "--rm", "-m", attackerMemory, image, "kernel")
	vmtest.Eventually(t, 2*time.Minute, "the templates of both sizes are frozen, so that what comes later is the attacks'", func() bool {
		return strings.Count(h.CVM(t, "templates").Stdout, "frozen") == 2
	})
	return s
}

// follow reads the counts, which come one after the other, until the output ends.
func (s *sibling) follow(out io.Reader) {
	lines, want := bufio.NewScanner(out), int64(1)
	for ; lines.Scan(); want++ {
		if lines.Text() != fmt.Sprintf("count %d", want) {
			s.trouble.CompareAndSwap(nil, fmt.Sprintf("%q, not count %d", lines.Text(), want))
			return
		}
		s.lines.Store(want)
	}
	s.trouble.CompareAndSwap(nil, fmt.Sprintf("the end of the output after %d", want-1))
}

// goesOn waits until the client has read so many counts, all of them in order.
func (s *sibling) goesOn(t *testing.T, lines int64, when string) {
	t.Helper()
	vmtest.Eventually(t, time.Minute, "the sibling's client reads on "+when, func() bool {
		if trouble := s.trouble.Load(); trouble != nil {
			t.Fatalf("%s the sibling's client read %s", when, trouble)
		}
		return s.lines.Load() >= lines
	})
}

// ask asks the sibling by its published port for its count.
func (s *sibling) ask(t *testing.T) (count int64) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 30 * time.Second}
	res, err := client.Get(s.url)
	if err != nil {
		t.Fatalf("the sibling does not answer: %v", err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, 1000))
	if err != nil {
		t.Fatalf("the sibling does not answer: %v", err)
	}
	if _, err := fmt.Sscanf(string(text), "sibling %d", &count); err != nil {
		t.Fatalf("not the sibling answers at its port: %q", text)
	}
	return count
}

// end looks at the sibling a last time: it is the very run that was started, and its disk holds its count.
func (s *sibling) end(t *testing.T) {
	t.Helper()
	s.goesOn(t, s.lines.Load()+5, "at the end")
	if started := s.h.MustDocker(t, "inspect", "-f", "{{.State.StartedAt}}", siblingName); started != s.started {
		t.Errorf("the sibling was started again: %s, and %s before", started, s.started)
	}
	s.stop()
	if r := s.h.Docker(t, "kill", siblingName); r.Code != 0 {
		t.Errorf("docker kill: %+v", r)
	}
	s.h.CheckIdle(t)
}

// traces are what there is of machines: processes, files and sockets.
func (s *sibling) traces() map[string]bool {
	all := map[string]bool{}
	for _, p := range s.h.Processes() {
		if p.Program == vmtest.QEMU || p.Program == vmtest.Supervisor || p.Program == vmtest.Switch {
			all[p.String()] = true
		}
	}
	for _, root := range []string{filepath.Join(s.h.Run, "vm"), filepath.Join(s.h.State, "hostd", "datastore")} {
		_ = filepath.WalkDir(root, func(path string, _ os.DirEntry, err error) error {
			if err == nil {
				all[path] = true
			}
			return nil
		})
	}
	sockets, _ := os.ReadFile("/proc/net/unix")
	for line := range strings.Lines(string(sockets)) {
		if _, path, ok := strings.Cut(line, s.h.Dir); ok && strings.Contains(path, "/vm/") {
			all["socket "+strings.TrimSpace(path)] = true
		}
	}
	return all
}

// nothingLeft waits until there is nothing that was not there before, and no control group of the machine.
func (s *sibling) nothingLeft(t *testing.T, before map[string]bool, groups []string) {
	t.Helper()
	var left []string
	defer func() {
		if len(left) > 0 {
			t.Log("left behind:\n  " + strings.Join(left, "\n  "))
		}
	}()
	vmtest.Eventually(t, 20*time.Second, "of the attacker nothing is left", func() bool {
		left = nil
		for trace := range s.traces() {
			if !before[trace] {
				left = append(left, trace)
			}
		}
		for _, dir := range groups {
			if _, err := os.Stat(dir); err == nil {
				left = append(left, dir)
			}
		}
		return len(left) == 0
	})
}
