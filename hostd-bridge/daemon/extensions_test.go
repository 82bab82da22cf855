package daemon_test

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/containervm/containervm/hostd-bridge/daemon"
	"github.com/containervm/containervm/hostd-bridge/daemon/daemontest"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/vmtest"
)

// body gets a path and returns the answer's body.
func body(t *testing.T, e daemon.Endpoint, c *govmomi.Client, path string) []byte {
	t.Helper()
	res := get(t, e, c, path)
	data, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("%s: status %d, error %v: %s", path, res.StatusCode, err, data)
	}
	return data
}

func TestExtensions(t *testing.T) {
	for _, without := range []bool{false, true} {
		h := daemontest.Start(t, nil, func(c *daemon.Config) { c.NoDiskAtFork = without })
		want := `{"extensions":["diskAtFork","log","networks","vsock","cpuLimit"]}`
		if without {
			want = `{"extensions":["log","networks","vsock","cpuLimit"]}`
		}
		if got := string(body(t, h.Endpoint, connect(t, h.Endpoint), "/cvm/extensions")); got != want+"\n" {
			t.Errorf("extensions %s", got)
		}
		for _, path := range []string{"/cvm/extensions", "/cvm/pools", "/cvm/memory", "/cvm/metrics", "/cvm/networks"} {
			if res := get(t, h.Endpoint, nil, path); res.StatusCode != http.StatusUnauthorized {
				t.Errorf("%s without a session: status %d", path, res.StatusCode)
			}
		}
	}
}

// pools is the answer to GET /cvm/pools.
type pools struct {
	Pools []struct {
		Template         string
		Prestarted, Want int
	}
}

func TestPoolsAndMetrics(t *testing.T) {
	h := daemontest.Start(t, freezer, func(c *daemon.Config) { c.Prestart = 2 })
	c := connect(t, h.Endpoint)
	source := frozenVM(t, h.Endpoint, c, "template")
	awaitPrestarted(t, h.Endpoint, c, source, 2)
	ref, err := instantClone(t, c, source, types.VirtualMachineInstantCloneSpec{Name: "one"})
	if err != nil {
		t.Fatal(err)
	}
	done(t)(object.NewVirtualMachine(c.Client, ref).PowerOff(t.Context()))
	awaitPrestarted(t, h.Endpoint, c, source, 2) // the one that was taken is replaced
	wants(t, string(body(t, h.Endpoint, c, "/cvm/metrics")),
		`containervm_starts_total{kind="boot"} 1`, `containervm_starts_total{kind="fork"} 1`, `containervm_start_failures_total{kind="fork"} 0`,
		`containervm_clone_seconds_count{prestarted="yes"} 1`, `containervm_prestarted 2`, `containervm_running 1`)
	h.Stop()
	if open := h.Hypervisor.Open(); open != 0 {
		t.Errorf("%d prestarted machines outlive the daemon", open)
	}
	h.Run()
	awaitPrestarted(t, h.Endpoint, connect(t, h.Endpoint), source, 2) // the template is found again, and is in use
}

// TestMemory: machines that are on are measured; one whose supervisor does not answer does not hide the others.
func TestMemory(t *testing.T) {
	h := daemontest.Start(t, freezer)
	c := connect(t, h.Endpoint)
	expect := func(want string) {
		t.Helper()
		if got := string(body(t, h.Endpoint, c, "/cvm/memory")); got != `{"machines":[`+want+"]}\n" {
			t.Errorf("memory %s, want %s", got, want)
		}
	}
	newVM(t, h.Endpoint, c, "off")
	expect("")
	source := frozenVM(t, h.Endpoint, c, "template")
	ref, err := instantClone(t, c, source, types.VirtualMachineInstantCloneSpec{Name: "one"})
	if err != nil {
		t.Fatal(err)
	}
	frozen := `{"vm":"` + source.Value + `","sharedKiB":40960,"guestPrivateKiB":0,"overheadKiB":0}`
	expect(frozen + `,{"vm":"` + ref.Value + `","sharedKiB":40960,"guestPrivateKiB":2049,"overheadKiB":20480}`)
	var asked atomic.Int32
	h.Hypervisor.On(vmtest.Measure, func() error {
		if asked.Add(1) == 1 {
			return errors.New("no answer")
		}
		return nil
	})
	if got := string(body(t, h.Endpoint, c, "/cvm/memory")); strings.Count(got, `"vm"`) != 1 {
		t.Errorf("memory when one machine cannot be measured: %s", got)
	}
	h.Hypervisor.On(vmtest.Measure, nil)
	done(t)(object.NewVirtualMachine(c.Client, ref).PowerOff(t.Context()))
	expect(frozen)
}

// awaitPrestarted asks until n machines are prestarted for a template. It asks again and again, as an operator would: no event tells of
// them, since they are not VMs.
func awaitPrestarted(t *testing.T, e daemon.Endpoint, c *govmomi.Client, template types.ManagedObjectReference, n int) {
	t.Helper()
	for {
		var got pools
		if err := json.Unmarshal(body(t, e, c, "/cvm/pools"), &got); err != nil {
			t.Fatal(err)
		}
		if len(got.Pools) != 1 || got.Pools[0].Template != template.Value || got.Pools[0].Want != n {
			t.Fatalf("pools %+v", got)
		}
		if got.Pools[0].Prestarted == n {
			return
		}
	}
}
