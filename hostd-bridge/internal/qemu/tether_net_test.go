package qemu

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// cardScript lists the interfaces of a container with their addresses.
const cardScript = `for n in /sys/class/net/*; do n=${n##*/}; echo "$n $(cat /sys/class/net/$n/address)" $(ip -o addr show dev $n scope global | awk '{print $4}'); done`

// allCards are the cards of a machine with all slots in use.
func allCards(s *vm.MachineSpec) {
	s.NICs = nil
	for slot := range hostapi.MaxCards {
		s.NICs = append(s.NICs, vm.NIC{MAC: fmt.Sprintf("52:54:00:00:00:0%d", slot), Connected: true})
	}
}

// TestTetherNetwork looks at the network of a running container of either machine type: the cards are in the order of their slots, spare
// ones are not seen, and one comes and goes while processes run.
func TestTetherNetwork(t *testing.T) {
	disk := busyboxDisk(t)
	for _, machine := range []string{hostapi.MachineMicroVM, hostapi.MachineQ35} {
		t.Run(machine, func(t *testing.T) {
			spec := tetherSpec("trap 'exit 0' TERM; echo ready; while :; do sleep 0.1; done")
			spec.Interfaces = []*tetherv1.Interface{{Slot: 2, Addresses: []string{"10.0.2.15/24"}, Gateway: "10.0.2.2"}}
			g := launchTether(t, spec, delta(t, disk), allCards, func(s *vm.MachineSpec) { s.Machine = machine })
			st := g.awaitStatus(tetherv1.State_RUNNING)
			for i, m := range st.Marks[1:] {
				t.Logf("%-10s %6d µs", st.Marks[i].Name, (m.UnixNano-st.Marks[i].UnixNano)/1000)
			}
			c := g.client()
			g.awaitOutput(c, "ready\n")
			testCards(t, c)
			testForward(t, c)
			_, err := c.Tether().Stop(t.Context(), &tetherv1.StopRequest{GraceSeconds: 10})
			must(t, err)
			if st, _ := g.ending(); st.Exit.GetCode() != 0 {
				t.Errorf("status %v", st)
			}
		})
	}
}

func testCards(t *testing.T, c *link.Client) {
	t.Helper()
	n := 0
	see := func(want string) {
		t.Helper()
		n++
		got, _ := execute(t, c, fmt.Sprint("cards-", n), shell(cardScript+"; cat /etc/hosts | grep box; grep nameserver /etc/resolv.conf; ip route | grep default"))
		if got != want {
			t.Errorf("the container sees\n%s\nwant\n%s", got, want)
		}
	}
	configure := func(r *tetherv1.ConfigureRequest) []*tetherv1.Interface {
		t.Helper()
		resp, err := c.Tether().Configure(t.Context(), r)
		must(t, err)
		return resp.Interfaces
	}
	see("eth0 52:54:00:00:00:01 10.0.2.15/24\nlo 00:00:00:00:00:00\n10.0.2.15\tbox\ndefault via 10.0.2.2 dev eth0 \n")
	first := &tetherv1.Interface{Slot: 2, Addresses: []string{"10.0.2.15/24"}, Gateway: "10.0.2.2"}
	second := &tetherv1.Interface{Slot: 4, Mac: "02:42:0a:09:00:02", Addresses: []string{"10.9.0.2/24"}, Gateway: "10.9.0.1"}
	got := configure(&tetherv1.ConfigureRequest{
		Interfaces: []*tetherv1.Interface{first, second}, Resolver: &tetherv1.Resolver{Nameservers: []string{"10.9.0.1"}},
		Hosts: []*tetherv1.HostEntry{{Address: "10.9.0.3", Names: []string{"otherbox"}}},
	})
	if len(got) != 2 || got[0].Name != "eth0" || got[1].Name != "eth1" || got[1].Mac != second.Mac {
		t.Errorf("interfaces %v", got)
	}
	see("eth0 52:54:00:00:00:01 10.0.2.15/24\neth1 02:42:0a:09:00:02 10.9.0.2/24\nlo 00:00:00:00:00:00\n" +
		"10.0.2.15\tbox\n10.9.0.3\totherbox\nnameserver 10.9.0.1\ndefault via 10.0.2.2 dev eth0 \n")
	configure(&tetherv1.ConfigureRequest{Interfaces: []*tetherv1.Interface{second}})
	see("eth1 02:42:0a:09:00:02 10.9.0.2/24\nlo 00:00:00:00:00:00\n10.9.0.2\tbox\ndefault via 10.9.0.1 dev eth1 \n")
	_, err := c.Tether().Configure(t.Context(), &tetherv1.ConfigureRequest{Interfaces: []*tetherv1.Interface{{Slot: 5}}})
	if !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a slot that is not there: %v", err)
	}
	configure(&tetherv1.ConfigureRequest{Interfaces: []*tetherv1.Interface{first}})
	see("eth0 52:54:00:00:00:01 10.0.2.15/24\nlo 00:00:00:00:00:00\n10.0.2.15\tbox\ndefault via 10.0.2.2 dev eth0 \n")
}

// testForward talks to servers in the container from outside, by the link alone.
func testForward(t *testing.T, c *link.Client) {
	t.Helper()
	for n, address := range []string{"127.0.0.1:7000", "10.0.2.15:7000"} {
		id := fmt.Sprint("server-", n)
		begin(t, c, id, shell("nc -l -p 7000 -e sh -c 'read x; echo \"got $x\"'& while ! grep -q ' 0A ' /proc/net/tcp /proc/net/tcp6; do sleep 0.02; done; echo up; wait"))
		up, err := c.OpenOutput(t.Context(), id, link.StreamStdout, 0)
		must(t, err)
		expect(t, up, "up\n")
		s, err := c.Forward(t.Context(), "tcp", address)
		must(t, err)
		_, err = s.Write([]byte("this\n"))
		must(t, err)
		if text, err := io.ReadAll(s); string(text) != "got this\n" || err != nil {
			t.Errorf("%s: %q, %v", address, text, err)
		}
		must(t, s.Close())
		finish(t, c, id)
		_ = up.Close()
	}
	if _, err := c.Forward(t.Context(), "tcp", "127.0.0.1:1"); !errdefs.IsUnavailable(err) {
		t.Errorf("nobody listens: %v", err)
	}
}

// TestTetherMounts has a container with memory and files over its root, which is read-only, and looks at what refuses to mount.
func TestTetherMounts(t *testing.T) {
	disk := busyboxDisk(t)
	spec := tetherSpec("cat /run/secrets/key; stat -c %a:%u /run/secrets/key; grep -E ' /(cache|tmp) ' /proc/mounts | sed 's/relatime.*/relatime/'; touch /tmp/x && echo wrote; touch /x; exit 4")
	spec.ReadOnlyRoot = true
	spec.Files = []*tetherv1.File{{Path: "/run/secrets/key", Content: []byte("s3cret\n"), Mode: 0o400, Uid: 5}}
	spec.Mounts = []*tetherv1.Mount{
		{Target: "/tmp", Source: &tetherv1.Mount_Tmpfs{Tmpfs: &tetherv1.Tmpfs{SizeBytes: 1 << 20, Mode: 0o700}}},
		{Target: "/cache", ReadOnly: true, Source: &tetherv1.Mount_Tmpfs{Tmpfs: &tetherv1.Tmpfs{}}},
	}
	st, out := launchTether(t, spec, delta(t, disk)).ending()
	const want = "s3cret\n400:5\ntmpfs /tmp tmpfs rw,nosuid,nodev,noexec,relatime\ntmpfs /cache tmpfs ro,nosuid,nodev,noexec,relatime\nwrote\n"
	if st.Exit.GetCode() != 4 || out[link.StreamStdout] != want || !strings.Contains(out[link.StreamStderr], "Read-only") {
		t.Errorf("%v, %q", st, out)
	}
	for text, m := range map[string]*tetherv1.Mount{
		`cannot mount volume vol3 on /v: cannot find the disk with serial number "vol3"`: {Target: "/v/", Source: &tetherv1.Mount_Volume{Volume: &tetherv1.Volume{Serial: "vol3"}}},
		"there is no server at 127.0.0.1":                                                {Target: "/n", Source: &tetherv1.Mount_Nfs{Nfs: &tetherv1.Nfs{Address: "127.0.0.1", Path: "/x", Options: "soft,retrans=1,timeo=10"}}},
		`cannot mount on "/proc/x": /proc and /sys`:                                      {Target: "/proc/x", Source: &tetherv1.Mount_Tmpfs{Tmpfs: &tetherv1.Tmpfs{}}},
		`cannot mount tmpfs on /bin/sh: not a directory`:                                 {Target: "/bin/sh", Source: &tetherv1.Mount_Tmpfs{Tmpfs: &tetherv1.Tmpfs{}}},
		`cannot mount tmpfs on /t: option "huge" is not known`:                           {Target: "/t", Source: &tetherv1.Mount_Tmpfs{Tmpfs: &tetherv1.Tmpfs{Options: "huge"}}},
	} {
		spec := tetherSpec("echo never")
		spec.Mounts = []*tetherv1.Mount{m}
		st, out := launchTether(t, spec, delta(t, disk)).ending()
		if st.State != tetherv1.State_FAILED || st.Failure.GetReason() != tetherv1.Failure_MOUNT || !strings.Contains(st.Failure.GetMessage(), text) || out[link.StreamStdout] != "" {
			t.Errorf("%v, %q, want %q", st, out, text)
		}
	}
}
