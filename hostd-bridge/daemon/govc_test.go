package daemon_test

import (
	"context"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/vmware/govmomi/cli"
	_ "github.com/vmware/govmomi/cli/about"
	_ "github.com/vmware/govmomi/cli/datastore"
	_ "github.com/vmware/govmomi/cli/datastore/disk"
	_ "github.com/vmware/govmomi/cli/device"
	_ "github.com/vmware/govmomi/cli/host"
	_ "github.com/vmware/govmomi/cli/host/portgroup"
	_ "github.com/vmware/govmomi/cli/host/vswitch"
	_ "github.com/vmware/govmomi/cli/object"
	_ "github.com/vmware/govmomi/cli/pool"
	_ "github.com/vmware/govmomi/cli/session"
	_ "github.com/vmware/govmomi/cli/task"
	_ "github.com/vmware/govmomi/cli/vm"
	_ "github.com/vmware/govmomi/cli/vm/disk"
	_ "github.com/vmware/govmomi/cli/vm/network"

	"github.com/containervm/containervm/hostd-bridge/daemon"
	"github.com/containervm/containervm/hostd-bridge/daemon/daemontest"
	"github.com/containervm/containervm/hostd-bridge/internal/netswitch/core"
)

// asGovc makes the test binary behave as govc.
const asGovc = "CVM_TEST_GOVC"

func TestMain(m *testing.M) {
	if os.Getenv(asGovc) != "" {
		os.Exit(cli.Run(os.Args[1:]))
	}
	if dir := argument("--dir"); dir != "" { // as cvm-switch, which has no environment
		if err := core.Run(context.Background(), dir, argument("--name"), os.Stdout, os.Stderr); err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// argument is what stands behind a flag of this program.
func argument(flag string) string {
	if at := slices.Index(os.Args, flag); at > 0 && at+1 < len(os.Args) {
		return os.Args[at+1]
	}
	return ""
}

// govc runs vSphere's own command line against a daemon and returns what it prints, and how it fails.
func govc(t *testing.T, e daemon.Endpoint, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), asGovc+"=1", "GOVC_URL="+e.URL, "GOVC_USERNAME="+e.Username,
		"GOVC_PASSWORD="+e.Password, "GOVC_TLS_CA_CERTS="+e.CAFile, "GOVMOMI_HOME="+t.TempDir())
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func mustGovc(t *testing.T, e daemon.Endpoint, args ...string) string {
	t.Helper()
	out, err := govc(t, e, args...)
	if err != nil {
		t.Fatalf("govc %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func wants(t *testing.T, out string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(out, p) {
			t.Errorf("output has no %q:\n%s", p, out)
		}
	}
}

func TestGovcLifeOfAVM(t *testing.T) {
	h := daemontest.Start(t, nil)
	e := h.Endpoint
	wants(t, mustGovc(t, e, "about"), "VirtualCenter", "containerVM")
	wants(t, mustGovc(t, e, "ls"), "/ha-datacenter/vm", "/ha-datacenter/datastore")
	wants(t, mustGovc(t, e, "ls", "/ha-datacenter/host/*"), "Resources")
	mustGovc(t, e, "vm.create", "-on=false", "-m", "64", "-c", "1", "-disk", "1GB", "-net.adapter", "vmxnet3", "first")
	wants(t, mustGovc(t, e, "ls", "vm"), "/ha-datacenter/vm/first")
	mustGovc(t, e, "vm.change", "-vm", "first", "-e", "guestinfo.k=v",
		"-e", "cvm.boot.kernel="+bootFile(t, e, "kernel"), "-e", "cvm.boot.initrd="+bootFile(t, e, "initrd"))
	mustGovc(t, e, "vm.power", "-on", "first")
	wants(t, mustGovc(t, e, "vm.info", "-e", "first"), "poweredOn", "guestinfo.k:", "64MB")
	if out, err := govc(t, e, "vm.power", "-on", "first"); err == nil {
		t.Errorf("second power-on succeeded: %s", out)
	}
	wants(t, mustGovc(t, e, "device.ls", "-vm", "first"), "disk-1000-0", "ethernet-0")
	mustGovc(t, e, "vm.power", "-off", "first")
	wants(t, mustGovc(t, e, "vm.info", "-e", "first"), "poweredOff", "cvm.host.exit")
	wants(t, mustGovc(t, e, "datastore.ls", "first"), "first.vmdk")
	mustGovc(t, e, "vm.destroy", "first")
	if out := mustGovc(t, e, "ls", "vm"); strings.TrimSpace(out) != "" {
		t.Errorf("VM is still there: %s", out)
	}
}
