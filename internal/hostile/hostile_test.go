package hostile

import (
	"archive/tar"
	"cmp"
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/containervm/containervm/internal/vmtest"
)

// image is the attacker alone.
const image = "attacker:test"

// attackerMemory is what a machine has whose container attacks.
const attackerMemory = "128m"

// attack is one container that attacks.
type attack struct {
	name  string
	run   []string // options of `docker run`
	args  []string // of the attacker; {sibling} and {host} stand for addresses
	lives bool     // it never ends by itself
	check func(t *testing.T, h *vmtest.Host, a *attacked)
}

// TestHostile runs each attack beside a sibling and its client.
func TestHostile(t *testing.T) {
	h := vmtest.Start(t, vmtest.Options{Fork: true}) // the first machines boot, until the template is there
	h.MustDocker(t, "load", "-i", attackerImage(t))
	s := startSibling(t, h)
	t.Logf("at rest: %s", s.costs(t))
	for _, a := range attacks() {
		t.Run(a.name, func(t *testing.T) { s.attack(t, a) })
	}
	s.end(t)
}

func attacks() []attack {
	return []attack{
		{name: "logs", run: []string{"--log-opt", "max-size=2m", "--log-opt", "max-file=2"}, args: []string{"logs"}, check: logsAreBounded},
		{name: "console", args: []string{"console"}, check: noEscapes},
		{name: "vsock", args: []string{"vsock"}, check: reachesNobody},
		{name: "vsock as a user", run: []string{"-u", "1000:1000"}, args: []string{"vsock"}, check: reachesNobody},
		{name: "guestinfo", run: []string{"-u", "1000:1000"}, args: []string{"guestinfo", "freeze"}, check: saysNothing},
		{name: "records", args: []string{"records"}},
		{name: "network", args: []string{"network", "{sibling}", "{host}"}, check: reachesNobody},
		{name: "devices", args: []string{"devices"}},
		{name: "kernel", args: []string{"kernel"}, check: nothingWorks},
		{name: "memory", args: []string{"memory"}},
		{name: "tmpfs", args: []string{"tmpfs"}},
		{name: "disk", args: []string{"disk"}},
		{name: "forks", args: []string{"forks"}, lives: true},
		{name: "hang", args: []string{"hang"}, lives: true},
		{name: "panic", args: []string{"panic"}, check: noEscapes},
	}
}

// attackerImage builds the attacker, and an image of it.
func attackerImage(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "attacker")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, "./attacker")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("cannot build the attacker: %v\n%s", err, out)
	}
	text, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	dir := func(name string) vmtest.File {
		return vmtest.File{Header: tar.Header{Name: name, Mode: 0o755, Typeflag: tar.TypeDir}}
	}
	return vmtest.Archive(t, image, v1.Config{Entrypoint: []string{"/attacker"}}, []vmtest.File{
		dir("dev/"), dir("proc/"), dir("sys/"), dir("etc/"), dir("tmp/"), {Header: tar.Header{Name: "attacker", Mode: 0o755}, Body: string(text)},
	})
}

// attacked is an attack that has been made, or goes on.
type attacked struct {
	name, id string
	said     map[string][]string // by key, what the attacker found; see say there
	output   vmtest.Result       // of `docker logs`
}

// attack runs one attacker to its end, or until it has had time to do harm, and looks at everybody else.
func (s *sibling) attack(t *testing.T, a attack) {
	before, lines, asked := s.traces(), s.lines.Load(), s.ask(t)
	x := &attacked{name: "evil-" + strings.ReplaceAll(a.name, " ", "-")}
	args := append([]string{"run", "-d", "--name", x.name, "-m", attackerMemory}, a.run...)
	args = append(args, image)
	for _, arg := range a.args {
		args = append(args, s.fill(arg)...)
	}
	x.id = s.h.MustDocker(t, args...)
	qemu, supervisor := s.h.MachineOf(t, x.id)
	groups := groupsOf(qemu, supervisor)
	peak := watch(qemu, supervisor)
	if a.lives {
		s.goesOn(t, lines+20, "while the attack lasts")
	} else {
		s.waitEnd(t, x)
	}
	t.Logf("costs: peak of %s; %s", peak(), s.costs(t))
	s.goesOn(t, lines+20, "after the attack")
	if now := s.ask(t); now <= asked {
		t.Errorf("the sibling's count is %d, and was %d before the attack", now, asked)
	}
	x.output = s.h.Docker(t, "logs", x.name)
	x.said = saidIn(x.output.Stderr)
	if state := s.h.MustDocker(t, "inspect", "-f", "{{json .State}}", x.name); true {
		t.Logf("ended as %s; said %s", state, short(x.said))
	}
	filesAreBounded(t, s.h, x)
	if a.check != nil {
		a.check(t, s.h, x)
	}
	peak.check(t)
	s.h.MustDocker(t, "rm", "-f", x.name)
	s.nothingLeft(t, before, groups)
}

// fill puts addresses in the place of their names.
func (s *sibling) fill(arg string) []string {
	switch arg {
	case "{sibling}":
		return []string{s.address}
	case "{host}":
		return s.hostAddresses
	}
	return []string{arg}
}

// waitEnd waits until the container has ended.
func (s *sibling) waitEnd(t *testing.T, x *attacked) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	wait := s.h.Command(ctx, "docker", "wait", x.name)
	if out, err := wait.CombinedOutput(); err != nil {
		t.Errorf("the attacker has not ended: %v %s", err, out)
	}
}

// saidIn reads an attacker's findings.
func saidIn(text string) map[string][]string {
	said := map[string][]string{}
	for line := range strings.Lines(text) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), ": "); ok && len(line) < 300 {
			said[key] = append(said[key], value)
		}
	}
	return said
}

// short is what was said, as far as it fits a line.
func short(said map[string][]string) string {
	var b strings.Builder
	for key, values := range said {
		if !strings.ContainsRune(key, '\x1b') {
			fmt.Fprintf(&b, "%q: %q ", key, values[:min(3, len(values))])
		}
	}
	return b.String()
}

// logsAreBounded: the files of its output have what was asked for, and a record.
func logsAreBounded(t *testing.T, h *vmtest.Host, a *attacked) {
	var size int64
	files, _ := filepath.Glob(filepath.Join(h.State, "hostd", "datastore", a.id, "stdio*.log"))
	for _, path := range files {
		if info, err := os.Stat(path); err == nil {
			size += info.Size()
		}
	}
	if most := int64(4<<20 + 3*70<<10); len(files) == 0 || size > most {
		t.Errorf("the log has %d bytes in %d files, more than %d", size, len(files), most)
	}
}

// filesAreBounded: what a guest can make grow without writing to its disk has an end, each and all.
func filesAreBounded(t *testing.T, h *vmtest.Host, a *attacked) {
	const most = 4<<20 + 128<<10 // hostd-bridge/internal/supervisor: maxConsole, maxOwnLog, and what was under way
	count := 0
	for _, pattern := range []string{
		filepath.Join(h.State, "hostd", "datastore", a.id, "console*"), filepath.Join(h.Run, "vm", "*", "*.log"),
		filepath.Join(h.Run, "net", "*", "*.log"), filepath.Join(h.State, "logs", "*"), filepath.Join(h.State, "hostd", "journal*"),
	} {
		files, _ := filepath.Glob(pattern)
		for _, path := range files {
			info, err := os.Stat(path)
			if err == nil && info.Size() > most {
				t.Errorf("%s has %d bytes", path, info.Size())
			}
			count++
		}
	}
	if count < 4 {
		t.Errorf("only %d files of logs were found", count)
	}
}

// noEscapes: nothing that a person reads of a container has what its guest wrote to the console, to the kernel's log or as guestinfo.
func noEscapes(t *testing.T, h *vmtest.Host, a *attacked) {
	for _, command := range [][]string{
		{"docker", "inspect", "-f", "{{.State.Error}}{{.State.Status}}{{.Config.Hostname}}{{json .NetworkSettings}}", a.name},
		{"docker", "ps", "-a", "--no-trunc"},
		{"docker", "start", "-a", a.name}, // runs it again: its error may hold the console's end
		{h.CVMPath(), "ps", "-a"},
		{h.GovcPath(), "vm.info", "-e", a.id},
		{h.GovcPath(), "events"},
	} {
		if strings.HasPrefix(strings.Join(command, " "), "docker start") && a.name != "evil-panic" {
			continue
		}
		r := h.Exec(t, command[0], command[1:]...)
		said := r.Stdout + r.Stderr
		if command[1] == "start" {
			said = cmp.Or(h.Docker(t, "inspect", "-f", "{{.State.Error}}", a.name).Stdout, said)
		}
		if at := strings.IndexAny(said, "\x1b\x07\u009b\u202e"); at >= 0 {
			t.Errorf("%v shows a guest's control characters: %q", command, said[max(0, at-60):min(len(said), at+60)])
		}
	}
}

// saysNothing: a process of the container, of whatever user, neither reads what its machine was told nor says anything in its tether's name; the
// end of its run is the one that it had.
func saysNothing(t *testing.T, h *vmtest.Host, a *attacked) {
	noEscapes(t, h, a)
	for _, key := range []string{"spec", "escaped bytes", "forged", "freeze", "phase", "ip"} {
		for _, reply := range a.said[key] {
			if strings.HasPrefix(reply, "1") {
				t.Errorf("%s was answered with %q", key, reply)
			}
		}
	}
	if state := h.MustDocker(t, "inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", a.name); state != "exited 7" {
		t.Errorf("the run ended as %q, and its process with 7", state)
	}
}

// reachesNobody: neither another machine, nor the host.
func reachesNobody(t *testing.T, _ *vmtest.Host, a *attacked) {
	if others := a.said["others reached"]; len(others) > 0 && others[0] != "0" {
		t.Errorf("tethers of others, or ports in their names, answered: %v", others)
	}
	if len(a.said["reached"]) > 0 {
		t.Errorf("reached through the network: %v", a.said["reached"])
	}
	if len(a.said["ended"]) == 0 {
		t.Errorf("the attack did not come to its end: %v", a.output.Stderr[:min(2000, len(a.output.Stderr))])
	}
}

func nothingWorks(t *testing.T, _ *vmtest.Host, a *attacked) {
	if len(a.said["works"]) > 0 {
		t.Errorf("root in the container can: %v", a.said["works"])
	}
}

// hostAddresses are where a container must not get: the vSphere port, and a listener of the test's own, by each address of this machine.
func hostAddresses(t *testing.T, h *vmtest.Host, gateway string) (all []string) {
	t.Helper()
	out := h.CVM(t, "env")
	var port string
	for line := range strings.Lines(out.Stdout) {
		if _, value, ok := strings.Cut(line, "GOVC_URL="); ok {
			u, err := url.Parse(strings.Trim(strings.TrimSpace(value), `"'`))
			if err != nil {
				t.Fatal(err)
			}
			port = u.Port()
		}
	}
	if port == "" {
		t.Fatalf("cvm env names no URL of the vSphere API: %s", out.Stdout)
	}
	everywhere, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { everywhere.Close() })
	_, mine, _ := net.SplitHostPort(everywhere.Addr().String())
	hosts := []string{gateway, "127.0.0.1", "169.254.169.254", "0.0.0.0"}
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addresses {
		if ip, _, err := net.ParseCIDR(a.String()); err == nil && ip.To4() != nil && !ip.IsLoopback() {
			hosts = append(hosts, ip.String())
		}
	}
	for _, host := range hosts {
		all = append(all, net.JoinHostPort(host, port), net.JoinHostPort(host, mine))
	}
	return all
}
