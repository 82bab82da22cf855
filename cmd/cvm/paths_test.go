package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func getenv(vars map[string]string) func(string) string {
	return func(name string) string { return vars[name] }
}

func TestDefaultPaths(t *testing.T) {
	for _, c := range []struct {
		name       string
		env        map[string]string
		uid        int
		state, run string
	}{
		{"root", nil, 0, "/var/lib/containervm", "/run/containervm"},
		{"user", map[string]string{"HOME": "/home/u"}, 1000, "/home/u/.local/state/containervm", "/run/user/1000/containervm"},
		{"user with XDG", map[string]string{"HOME": "/home/u", "XDG_STATE_HOME": "/s", "XDG_RUNTIME_DIR": "/r"}, 1000, "/s/containervm", "/r/containervm"},
		{"override", map[string]string{"CVM_STATE": "/a", "CVM_RUN": "/b"}, 0, "/a", "/b"},
	} {
		p := defaultPaths(getenv(c.env), c.uid)
		if p.State != c.state || p.Run != c.run {
			t.Errorf("%s: %+v, want %s and %s", c.name, p, c.state, c.run)
		}
	}
}

func TestPrepare(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	p := paths{State: "state", Run: "run"}
	if err := p.prepare(); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(dir, "state", "logs"))
	if err != nil || info.Mode().Perm() != 0o700 || !filepath.IsAbs(p.State) {
		t.Errorf("%v, %v, %s", info, err, p.State)
	}
	p.Run = "/" + strings.Repeat("x", 100)
	if err := p.prepare(); err == nil || !strings.Contains(err.Error(), "--run") {
		t.Errorf("a run directory that is too long for sockets: %v", err)
	}
}
