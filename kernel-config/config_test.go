// Package kernelconfig_test holds the promises of the fragments beside it: what they say is what the kernel has.
package kernelconfig_test

import (
	"bufio"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/containervm/containervm/internal/vmtest"
)

// option is a line of a fragment: an option and its value, "n" for "is not set".
type option struct{ name, value string }

var (
	set   = regexp.MustCompile(`^(CONFIG_\w+)=(.+)$`)
	unset = regexp.MustCompile(`^# (CONFIG_\w+) is not set$`)
)

func options(t *testing.T, file string) []option {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var all []option
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if m := set.FindStringSubmatch(lines.Text()); m != nil {
			all = append(all, option{m[1], m[2]})
		} else if m := unset.FindStringSubmatch(lines.Text()); m != nil {
			all = append(all, option{m[1], "n"})
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

func fragments(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("*.config")
	if err != nil || len(files) == 0 {
		t.Fatalf("no fragments: %v", err)
	}
	return files
}

// A line that is neither an option nor a comment would be dropped by Kconfig without a word.
func TestFragmentsHoldOptionsAndComments(t *testing.T) {
	for _, file := range fragments(t) {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(data)) {
			line = strings.TrimRight(line, "\n")
			comment := strings.HasPrefix(line, "#") && !strings.HasPrefix(line, "# CONFIG_")
			if line != "" && !comment && !set.MatchString(line) && !unset.MatchString(line) {
				t.Errorf("%s: %q is neither option nor comment", file, line)
			}
		}
	}
}

func TestFragmentsAgree(t *testing.T) {
	seen := map[string]string{}
	for _, file := range fragments(t) {
		for _, o := range options(t, file) {
			if old, ok := seen[o.name]; ok && old != o.value {
				t.Errorf("%s: %s=%s, another fragment says %s", file, o.name, o.value, old)
			}
			seen[o.name] = o.value
		}
	}
}

// Kconfig drops an option whose dependencies are not met: the kernel that was built must have every one.
func TestBuiltKernelHoldsEveryOption(t *testing.T) {
	where, err := exec.Command("./build", "--where").Output()
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(strings.TrimSpace(string(where)), "config")
	if _, err := os.Stat(config); errors.Is(err, fs.ErrNotExist) {
		vmtest.Missing(t, "the kernel is not built (try: make guest)")
	}
	built := map[string]string{}
	for _, o := range options(t, config) {
		built[o.name] = o.value
	}
	for _, file := range fragments(t) {
		for _, o := range options(t, file) {
			got, ok := built[o.name]
			if !ok {
				got = "n"
			}
			if got != o.value {
				t.Errorf("%s: %s is %s in the kernel, want %s", file, o.name, got, o.value)
			}
		}
	}
}
