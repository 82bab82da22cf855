package boot

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A value that this kernel does not have keeps none of the others from being set.
func TestSetSysctls(t *testing.T) {
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "there"), []byte("1024"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := setSysctls(root, []sysctl{{"missing/key", "1"}, {"there", "0"}})
	if err == nil || !strings.Contains(err.Error(), "missing") {
		t.Errorf("%v, want a word about the missing one", err)
	}
	if got, err := os.ReadFile(filepath.Join(root, "there")); string(got) != "0" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}
