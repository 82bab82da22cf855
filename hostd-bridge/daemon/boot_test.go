package daemon_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/containervm/containervm/hostd-bridge/daemon"
)

// bootFile returns the vSphere path of a boot artefact, from the index that a client downloads.
func bootFile(t *testing.T, e daemon.Endpoint, name string) string {
	t.Helper()
	dst := filepath.Join(t.TempDir(), "current.json")
	mustGovc(t, e, "datastore.download", "cvm/boot/current.json", dst)
	data, err := os.ReadFile(dst)
	if err != nil {
		t.Fatal(err)
	}
	index := map[string]string{}
	if err := json.Unmarshal(data, &index); err != nil {
		t.Fatal(err)
	}
	return "[local] " + index[name]
}
