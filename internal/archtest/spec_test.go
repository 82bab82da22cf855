package archtest

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestPromises holds the tables of promises to the tests that they name: each is there, in the package that stands before it.
func TestPromises(t *testing.T) {
	root := filepath.Join("..", "..")
	word := regexp.MustCompile("`(Test[A-Za-z0-9_]+)(?:/[^`]*)?`|((?:[a-z0-9-]+/)+[a-z0-9-]+|e2e) ")
	for _, file := range []string{"SPECIFICATION.md", "SECURITY.md"} {
		text, err := os.ReadFile(filepath.Join(root, file))
		if err != nil {
			t.Fatal(err)
		}
		named := 0
		for line := range strings.Lines(string(text)) {
			if !strings.HasPrefix(line, "| ") {
				continue
			}
			var tests []string // of the package that was named last
			for _, m := range word.FindAllStringSubmatch(line, -1) {
				if m[2] != "" {
					tests = testsOf(t, filepath.Join(root, strings.Replace(m[2], "e2e", "internal/e2e", 1)))
					continue
				}
				if named++; !slices.Contains(tests, m[1]) {
					t.Errorf("%s: no %s in the package that its line names: %.60s…", file, m[1], line)
				}
			}
		}
		if file == "SPECIFICATION.md" && named == 0 {
			t.Error("no test is named: the tables have another form")
		}
	}
}

// testsOf returns the names of a directory's tests.
func testsOf(t *testing.T, dir string) (names []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	declared := regexp.MustCompile(`(?m)^func (Test[A-Za-z0-9_]+)\(`)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range declared.FindAllStringSubmatch(string(text), -1) {
			names = append(names, m[1])
		}
	}
	return names
}
