package trusted

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func must(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestMakeDir(t *testing.T) {
	base := t.TempDir()
	must(t, os.Chmod(base, 0o755))
	dir := filepath.Join(base, "a/b/c")
	must(t, MakeDir(dir), MakeDir(dir))
	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info, err)
	}
	must(t, os.Symlink("a", filepath.Join(base, "link")), MakeDir(filepath.Join(base, "link/b/d")), os.Symlink(dir, filepath.Join(base, "abs")), Check(filepath.Join(base, "abs")))
	must(t, os.Mkdir(filepath.Join(base, "sticky"), 0o700), os.Chmod(filepath.Join(base, "sticky"), 0o777|os.ModeSticky), MakeDir(filepath.Join(base, "sticky/mine")))
}

// TestPlanted: where others could plant a link, nothing is made.
func TestPlanted(t *testing.T) {
	base := t.TempDir()
	must(t, os.Mkdir(filepath.Join(base, "open"), 0o700), os.Mkdir(filepath.Join(base, "open/in"), 0o700), os.Chmod(filepath.Join(base, "open"), 0o777),
		os.Mkdir(filepath.Join(base, "group"), 0o700), os.Chmod(filepath.Join(base, "group"), 0o770),
		os.Mkdir(filepath.Join(base, "sticky"), 0o700), os.Chmod(filepath.Join(base, "sticky"), 0o777|os.ModeSticky),
		os.WriteFile(filepath.Join(base, "file"), nil, 0o600),
		os.Symlink("loop", filepath.Join(base, "loop")), os.Symlink("open", filepath.Join(base, "to-open")))
	for path, want := range map[string]string{
		"open": "mode is 0777", "open/in": "mode is 0777", "open/new": "mode is 0777", "group": "mode is 0770", "sticky": "mode is 0777",
		"file": "no directory", "loop": "too many levels", "to-open/in": "mode is 0777", "to-open/new/deep": "mode is 0777",
	} {
		if err := MakeDir(filepath.Join(base, path)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want an error with %q", path, err, want)
		}
	}
	if _, err := os.Stat(filepath.Join(base, "open/new")); err == nil {
		t.Error("a directory was made where others write")
	}
}

// TestOthers: what belongs to another user is refused.
func TestOthers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to give things away; try: sudo go test")
	}
	base := t.TempDir()
	theirs, link := filepath.Join(base, "theirs"), filepath.Join(base, "link")
	must(t, os.Mkdir(theirs, 0o700), os.Chown(theirs, 1234, 1234), os.Symlink("/var", link), os.Lchown(link, 1234, 1234))
	for _, path := range []string{theirs, filepath.Join(theirs, "below"), filepath.Join(link, "below")} {
		if err := MakeDir(path); err == nil || !strings.Contains(err.Error(), "user 1234") {
			t.Errorf("%s: %v", path, err)
		}
	}
}
