package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/docker/go-units"

	"github.com/containervm/containervm/internal/vmtest"
)

// fill is a script that writes nine megabytes that cannot be made smaller to a file.
const fill = "dd if=/dev/urandom bs=1M count=9 of="

// testList: what docker ps is asked for is what it lists.
func testList(t *testing.T, h *vmtest.Host) {
	h.MustDocker(t, "create", "--name", "older", image, "true")
	h.MustDocker(t, "run", "--name", "newer", image, "sh", "-c", fill+"/file && sync")
	names := func(args ...string) string {
		t.Helper()
		return h.MustDocker(t, append([]string{"ps", "-a", "--format", "{{.Names}}"}, args...)...)
	}
	equal(t, "ps -n 1", names("-n", "1"), "newer")
	equal(t, "ps -n 2", names("-n", "2"), "newer\nolder")
	equal(t, "ps of an image", names("--filter", "ancestor="+image), "newer\nolder")
	equal(t, "ps of an image's ID", names("--filter", "ancestor="+inspect(t, h, "older", ".Image")), "newer\nolder")
	equal(t, "ps of an image that is not there", names("--filter", "ancestor=nosuch"), "")
	for line := range strings.Lines(h.MustDocker(t, "ps", "-a", "-s", "--format", "{{.Names}} {{.Size}}")) {
		var name, own, all string
		if _, err := fmt.Sscanf(line, "%s %s (virtual %s", &name, &own, &all); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		between(t, "size of "+name, own, map[string]int64{"older": 0, "newer": 9 << 20}[name])
		between(t, "size of "+name+" with its image", strings.TrimSuffix(all, ")"), map[string]int64{"older": 1 << 20, "newer": 10 << 20}[name])
	}
}

// between fails the test unless a size is what was written, and what a file system and the format of a disk add to it.
func between(t *testing.T, what, size string, written int64) int64 {
	t.Helper()
	n, err := units.FromHumanSize(size)
	if most := written + 8<<20; err != nil || n < written || n > most {
		t.Errorf("%s is %q (%v), want from %d to %d bytes", what, size, err, written, most)
	}
	return n
}

// testUsage: docker system df tells the bytes that are there, and docker system prune those that it gives back.
func testUsage(t *testing.T, h *vmtest.Host) {
	h.MustDocker(t, "run", "--name", "filled", "-v", "/data", image, "sh", "-c", fill+"/file && "+fill+"/data/file && sync")
	use := func(kind string) string {
		t.Helper()
		for line := range strings.Lines(h.MustDocker(t, "system", "df", "--format", "{{.Type}}|{{.TotalCount}} {{.Active}} {{.Size}}")) {
			if rest, is := strings.CutPrefix(strings.TrimSpace(line), kind+"|"); is {
				return rest
			}
		}
		t.Fatalf("docker system df has no %s", kind)
		return ""
	}
	containers, is := strings.CutPrefix(use("Containers"), "1 0 ")
	if !is {
		t.Errorf("containers: %q", use("Containers"))
	}
	volumes, is := strings.CutPrefix(use("Local Volumes"), "1 1 ")
	if !is {
		t.Errorf("volumes: %q", use("Local Volumes"))
	}
	both := between(t, "the container", containers, 9<<20) + between(t, "its volume", volumes, 9<<20)

	said := h.MustDocker(t, "system", "prune", "-f", "--volumes")
	_, space, _ := strings.Cut(said, "Total reclaimed space: ")
	const rounding = 100_000 // of three sizes that are told with four digits
	if n, err := units.FromHumanSize(space); err != nil || n < both-rounding || n > both+rounding {
		t.Errorf("docker system prune says %q, %v; there were %d bytes", said, err, both)
	}
	equal(t, "containers afterwards", use("Containers"), "0 0 0B")
	equal(t, "volumes afterwards", use("Local Volumes"), "0 0 0B")
}
