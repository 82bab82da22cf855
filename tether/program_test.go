package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// The program of a rehearsal runs on this machine, too, which is one for whose processor it was made.
func TestProgram(t *testing.T) {
	path := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(path, program(), 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(path).CombinedOutput(); err != nil || string(out) != programText {
		t.Errorf("%q, %v", out, err)
	}
}
