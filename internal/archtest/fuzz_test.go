package archtest

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestFuzzTable: docs/fuzzing.md names every fuzz test, and none that there is not.
func TestFuzzTable(t *testing.T) {
	const root, page = "../..", "docs/fuzzing.md"
	text, err := os.ReadFile(filepath.Join(root, page))
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	for _, row := range regexp.MustCompile("(?m)^\\|.*\\| (\\S+) \\| `(Fuzz\\w+)` \\|$").FindAllStringSubmatch(string(text), -1) {
		listed[row[1]+" "+row[2]] = true
	}
	test := regexp.MustCompile(`(?m)^func (Fuzz\w+)\(`)
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.HasPrefix(d.Name(), ".") && path != root {
			return filepath.SkipDir
		}
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		code, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		dir, _ := filepath.Rel(root, filepath.Dir(path)) // cannot fail: path begins with root
		for _, f := range test.FindAllStringSubmatch(string(code), -1) {
			name := filepath.ToSlash(dir) + " " + f[1]
			if !listed[name] {
				t.Errorf("%s is not in %s: say there whose bytes it reads", name, page)
			}
			delete(listed, name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for name := range listed {
		t.Errorf("%s is in %s, and there is no such test", name, page)
	}
}
