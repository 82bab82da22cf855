package archtest

import (
	"slices"
	"strings"
	"testing"
)

// TestInventoryLayers holds the order of the packages of the host's inventory: each imports only those before it. What they have
// in common with those outside is vm, which says what VMs are, and vmhost, which is all of them together.
func TestInventoryLayers(t *testing.T) {
	const root = module + "hostd-bridge/internal/vm"
	order := []string{"", "/journal", "/inventory", "/admission", "/disks", "/prestart", "/networks", "/lifecycle", "/clone", "/vmhost"}
	outside := []string{"", "/vmhost", "/vmtest"}
	seen := 0
	for _, p := range list(t) {
		layer, inside := strings.CutPrefix(p.ImportPath, root)
		inside = inside && (layer == "" || layer[0] == '/')
		allowed := outside
		switch at := slices.Index(order, layer); {
		case inside && at >= 0:
			allowed = order[:at]
			seen++
		case layer == "/vmtest" && inside:
			allowed = order[:1]
		case inside:
			t.Errorf("%s has no place in the order of the inventory's packages", p.ImportPath)
		case p.ImportPath == module+"hostd-bridge/daemon":
			allowed = append(outside[:len(outside):len(outside)], "/journal") // it opens the file
		}
		for _, i := range p.Imports {
			of, local := strings.CutPrefix(i, root)
			if local && (of == "" || of[0] == '/') && !slices.Contains(allowed, of) {
				t.Errorf("%s imports %s: it may import, of the inventory's packages, those named %q", p.ImportPath, i, allowed)
			}
		}
	}
	if seen != len(order) {
		t.Errorf("%d of %d packages are there", seen, len(order))
	}
}
