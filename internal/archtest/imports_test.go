package archtest

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/containervm/containervm/"

// goPackage is what `go list` says of a package.
type goPackage struct {
	ImportPath string
	Imports    []string // named in its files
	Deps       []string // reached from it
}

// rule forbids imports; paths that begin with "./" are this module's. A path means the package and all below it.
type rule struct {
	why    string
	from   []string
	except []string // of from
	never  []string
	but    []string // of never
	direct bool     // only imports named in the packages' own files count
}

func rules() []rule {
	return []rule{
		{why: "the controller knows vSphere, link and what a host offers beside vSphere, never QEMU or this host's daemon",
			from: []string{"./controller"}, never: []string{"./hostd-bridge"}, but: []string{"./hostd-bridge/hostapi"}},
		{why: "what a host offers beside vSphere is told to both ends, and knows none; of the guest it knows link",
			from: []string{"./hostd-bridge/hostapi"}, never: []string{"./", "github.com/vmware/govmomi"}, but: []string{"./hostd-bridge/hostapi", "./tether/link"}},
		{why: "the vSphere server does not know what realises its machines",
			from: []string{"./hostd-bridge/internal/vim"}, never: []string{"./hostd-bridge/internal/qemu"}},
		{why: "the inventory does not know what realises its machines, who serves it, or who counts",
			from:  []string{"./hostd-bridge/internal/vm"},
			never: []string{"./hostd-bridge/internal/qemu", "./hostd-bridge/internal/vim", "./hostd-bridge/internal/relay", "./hostd-bridge/internal/metrics", "github.com/vmware/govmomi", "github.com/prometheus"}},
		{why: "one package of the host counts for Prometheus",
			from: []string{"./hostd-bridge"}, except: []string{"./hostd-bridge/internal/metrics"}, never: []string{"github.com/prometheus"}, direct: true},
		{why: "containers know neither sessions, streams nor forks, which are built on them and meet in the API",
			from: []string{"./controller/internal/container"}, never: []string{"./controller/internal/exec", "./controller/internal/stream", "./controller/internal/fork", "./controller/api"}},
		{why: "exec takes the shape of output from stream; else the three do not know each other",
			from: []string{"./controller/internal/stream", "./controller/internal/fork"}, never: []string{"./controller/internal/exec"}},
		{why: "exec takes the shape of output from stream; else the three do not know each other",
			from: []string{"./controller/internal/stream", "./controller/internal/exec"}, never: []string{"./controller/internal/fork"}},
		{why: "link alone turns status codes into classes of errors",
			from: []string{"./controller"}, never: []string{"google.golang.org/grpc"}, direct: true},
		{why: "one package talks to vSphere",
			from: []string{"./controller"}, except: []string{"./controller/internal/vsphere"}, never: []string{"github.com/vmware/govmomi"}, direct: true},
		{why: "inside the guest, agent serves link and guestinfo speaks its text commands; the messages are for all",
			from: []string{"./tether/internal"}, except: []string{"./tether/internal/agent", "./tether/internal/guestinfo"}, never: []string{"./tether/link"}, but: []string{"./tether/link/v1"}, direct: true},
		{why: "link is all that hosts know of the guest",
			from: []string{"./hostd-bridge", "./controller", "./cmd/cvm"}, never: []string{"./tether"}, but: []string{"./tether/link"}},
		{why: "link alone maps status codes; all others name classes of errdefs",
			from: []string{"./"}, except: []string{"./tether/link"}, never: []string{"google.golang.org/grpc"}, direct: true},
		{why: "the guest knows no host",
			from: []string{"./tether"}, never: []string{"./hostd-bridge", "./controller", "github.com/vmware/govmomi"}},
		{why: "the supervisor exists once for each machine and stays small",
			from: []string{"./hostd-bridge/supervisor", "./hostd-bridge/internal/supervisor"}, never: []string{"github.com/vmware/govmomi", "net/http"}},
		{why: "a switch knows cards and addresses, neither machines nor vSphere",
			from: []string{"./hostd-bridge/netswitch", "./hostd-bridge/internal/netswitch", "./hostd-bridge/internal/frames"}, never: []string{"./hostd-bridge", "./controller", "github.com/vmware/govmomi", "net/http"},
			but: []string{"./hostd-bridge/netswitch", "./hostd-bridge/internal/netswitch", "./hostd-bridge/internal/frames", "./hostd-bridge/hostapi"}},
		{why: "guests' packets are parsed by a netstack in the switch process alone",
			from: []string{"./"}, except: []string{"./hostd-bridge/netswitch", "./hostd-bridge/internal/netswitch/core"}, never: []string{"gvisor.dev/gvisor", "./hostd-bridge/internal/netswitch/core"}},
		{why: "the command line speaks the Docker Engine API; the daemons' own packages are not its business",
			from: []string{"./cmd/cvm"}, never: []string{"./hostd-bridge", "./controller"}, but: []string{"./hostd-bridge/daemon", "./controller/daemon"}, direct: true},
		{why: "the engine's own source is not a library",
			from: []string{"./"}, never: []string{"github.com/docker/docker"}},
		{why: "the command line's source is not a library, although go-containerregistry reads its configuration with it",
			from: []string{"./"}, never: []string{"github.com/docker/cli"}, direct: true},
	}
}

func TestImports(t *testing.T) {
	packages := list(t)
	for _, r := range rules() {
		matched := 0
		for _, p := range packages {
			if !under(p.ImportPath, r.from) || under(p.ImportPath, r.except) {
				continue
			}
			matched++
			imports := p.Deps
			if r.direct {
				imports = p.Imports
			}
			for _, i := range imports {
				if under(i, r.never) && !under(i, r.but) {
					t.Errorf("%s imports %s: %s", p.ImportPath, i, r.why)
				}
			}
		}
		if matched == 0 {
			t.Errorf("no package is under %v: the rule holds nothing", r.from)
		}
	}
}

func list(t *testing.T) []goPackage {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports,Deps", module+"...")
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		errors.As(err, &exit)
		t.Fatalf("cannot list the packages: %v\n%s", err, exit.Stderr)
	}
	var packages []goPackage
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
}

// under reports whether a package is one of those paths or below one.
func under(pkg string, paths []string) bool {
	for _, p := range paths {
		if local, ok := strings.CutPrefix(p, "./"); ok {
			p = strings.TrimSuffix(module+local, "/")
		}
		if pkg == p || strings.HasPrefix(pkg, p+"/") {
			return true
		}
	}
	return false
}

func TestUnder(t *testing.T) {
	for _, c := range []struct {
		pkg, path string
		want      bool
	}{
		{module + "controller/api", "./controller", true},
		{module + "controllers", "./controller", false},
		{module + "tether", "./", true},
		{"github.com/docker/docker/client", "github.com/docker/docker", true},
		{"github.com/docker/docker-credential", "github.com/docker/docker", false},
	} {
		if got := under(c.pkg, []string{c.path}); got != c.want {
			t.Errorf("under(%q, %q) = %v", c.pkg, c.path, got)
		}
	}
}
