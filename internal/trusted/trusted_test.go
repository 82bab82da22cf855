package trusted

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
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

// TestPlantedFiles: what was put in the place of a file is neither followed nor written to.
func TestPlantedFiles(t *testing.T) {
	base := t.TempDir()
	victim := filepath.Join(base, "victim")
	at := func(name string) string { return filepath.Join(base, name) }
	must(t, os.WriteFile(victim, []byte("mine"), 0o600), os.Symlink(victim, at("link")), os.Symlink(at("nowhere"), at("dangling")), syscall.Mkfifo(at("pipe"), 0o600),
		os.WriteFile(at("two"), nil, 0o600), os.Link(at("two"), at("names")), os.Mkdir(at("dir"), 0o700))
	for _, name := range []string{"link", "dangling", "pipe", "names", "dir"} {
		f, err := OpenFile(at(name), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		if err == nil {
			f.Close()
			t.Errorf("%s was opened", name)
		}
	}
	if _, err := os.Lstat(at("nowhere")); err == nil {
		t.Error("a file was made where a link led")
	}
	if os.Geteuid() == 0 {
		must(t, os.WriteFile(at("theirs"), nil, 0o600), os.Chown(at("theirs"), 1234, 1234))
		if f, err := OpenFile(at("theirs"), os.O_RDWR|os.O_CREATE, 0o600); err == nil {
			f.Close()
			t.Error("a file of another user was opened")
		}
	}
	f, err := OpenFile(at("new"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	must(t, err, f.Close())

	must(t, os.Symlink(victim, at("key.new")), os.Symlink(victim, at("key")), WriteFile(at("key"), []byte("secret"), 0o600))
	if text, err := os.ReadFile(victim); err != nil || string(text) != "mine" {
		t.Errorf("the file that links led to holds %q, %v", text, err)
	}
	info, err := os.Lstat(at("key"))
	if text, _ := os.ReadFile(at("key")); err != nil || !info.Mode().IsRegular() || info.Mode().Perm() != 0o600 || string(text) != "secret" {
		t.Errorf("%v, %v, %q", info, err, text)
	}
}
