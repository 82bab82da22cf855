package plainfile

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestPlanted: links, pipes and directories are neither followed nor waited for nor written to.
func TestPlanted(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	if err := os.WriteFile(at("secret"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	planted := map[string]func(path string) error{
		"link": func(path string) error { return os.Symlink(at("secret"), path) },
		"pipe": func(path string) error { return unix.Mkfifo(path, 0o600) },
		"dir":  func(path string) error { return os.Mkdir(path, 0o700) },
	}
	for name, plant := range planted {
		if err := plant(at(name)); err != nil {
			t.Fatal(err)
		}
		if f, err := Open(at(name)); err == nil {
			t.Errorf("a %s was opened", name)
			f.Close()
		}
		f, err := Create(at(name), 0o600)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		f.WriteString("new")
		f.Close()
	}
	if b, err := os.ReadFile(at("secret")); err != nil || string(b) != "secret" {
		t.Errorf("a link was written through: %q, %v", b, err)
	}
	if f, err := Open(at("secret")); err != nil {
		t.Error(err)
	} else {
		f.Close()
	}
}
