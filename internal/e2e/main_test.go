package e2e

import (
	"os"
	"testing"

	"github.com/vmware/govmomi/cli"
	_ "github.com/vmware/govmomi/cli/about"
	_ "github.com/vmware/govmomi/cli/object"
	_ "github.com/vmware/govmomi/cli/vm"

	"github.com/containervm/containervm/internal/vmtest"
)

// asGovc makes the test's own binary behave as govc, so that no other program has to be built.
const asGovc = "CVM_TEST_AS_GOVC"

func TestMain(m *testing.M) {
	if os.Getenv(asGovc) != "" {
		os.Exit(cli.Run(os.Args[1:]))
	}
	os.Exit(m.Run())
}

// govc runs govc's own command code against the host.
func govc(t *testing.T, h *vmtest.Host, args ...string) vmtest.Result {
	t.Helper()
	cmd := h.Command(t.Context(), os.Args[0], args...)
	cmd.Env = append(cmd.Env, asGovc+"=1")
	return h.Finish(t, cmd)
}
