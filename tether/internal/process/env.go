package process

import (
	"path/filepath"
	"strings"
)

// defaultPath is what Docker gives a container whose image sets no PATH (moby, oci/defaults).
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// environment is the given one over Docker's defaults; of a name that is given twice the last value counts. Entries
// without "=" are dropped, as the kernel's convention has no use for them.
func environment(given []string, hostname, home string, tty bool) []string {
	defaults := []string{"PATH=" + defaultPath, "HOSTNAME=" + hostname}
	if tty {
		defaults = append(defaults, "TERM=xterm")
	}
	if home == "" {
		home = "/"
	}
	all := append(append(defaults, "HOME="+home), given...)
	place := make(map[string]int, len(all))
	var env []string
	for _, entry := range all {
		name, _, ok := strings.Cut(entry, "=")
		if !ok || name == "" || strings.ContainsRune(entry, 0) {
			continue
		}
		if i, seen := place[name]; seen {
			env[i] = entry
			continue
		}
		place[name] = len(env)
		env = append(env, entry)
	}
	return env
}

func lookupEnv(env []string, name string) string {
	for _, entry := range env {
		if n, value, _ := strings.Cut(entry, "="); n == name {
			return value
		}
	}
	return ""
}

// cleanCwd is the working directory as an absolute path.
func cleanCwd(cwd string) string { return filepath.Clean("/" + cwd) }
