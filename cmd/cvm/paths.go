package main

import (
	"fmt"
	"path/filepath"

	"github.com/containervm/containervm/internal/trusted"
)

// paths are the places of one embedded host on this machine.
type paths struct {
	State string // kept: disks, images, logs, credentials
	Run   string // lost at a reboot: sockets
}

// defaultPaths are the system's directories for root and the XDG directories for everyone else. CVM_STATE and CVM_RUN
// override them.
func defaultPaths(getenv func(string) string, uid int) paths {
	p := paths{State: "/var/lib/containervm", Run: "/run/containervm"}
	if uid != 0 {
		p.State = filepath.Join(firstSet(getenv("XDG_STATE_HOME"), filepath.Join(getenv("HOME"), ".local/state")), "containervm")
		p.Run = filepath.Join(firstSet(getenv("XDG_RUNTIME_DIR"), fmt.Sprintf("/run/user/%d", uid)), "containervm")
	}
	p.State = firstSet(getenv("CVM_STATE"), p.State)
	p.Run = firstSet(getenv("CVM_RUN"), p.Run)
	return p
}

func firstSet(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

func (p paths) dockerSocket() string  { return filepath.Join(p.Run, "docker.sock") }
func (p paths) controlSocket() string { return filepath.Join(p.Run, "cvm.sock") }
func (p paths) lockFile() string      { return filepath.Join(p.State, "cvm.lock") }
func (p paths) startLock() string     { return filepath.Join(p.State, "start.lock") }
func (p paths) logFile() string       { return filepath.Join(p.State, "logs", "cvm.log") }

// maxSocketPath is the longest path of a unix socket: sun_path of unix(7) less its final NUL.
const maxSocketPath = 107

// longestSocket stands for the longest path that is bound below the run directory.
const longestSocket = "vm/vm-2147483647/supervisor.sock"

// prepare makes the directories, which only their owner may enter, with absolute names.
func (p *paths) prepare() error {
	for _, dir := range []*string{&p.State, &p.Run} {
		abs, err := filepath.Abs(*dir)
		if err != nil {
			return fmt.Errorf("cannot find the directory %s: %w", *dir, err)
		}
		*dir = abs
	}
	if n := len(filepath.Join(p.Run, longestSocket)); n > maxSocketPath {
		return fmt.Errorf("cannot use %s for sockets: their names would have %d bytes and %d are allowed: choose a shorter directory with --run", p.Run, n, maxSocketPath)
	}
	for _, dir := range []string{p.State, filepath.Dir(p.logFile()), p.Run} {
		if err := trusted.MakeDir(dir); err != nil {
			return err
		}
	}
	return nil
}
