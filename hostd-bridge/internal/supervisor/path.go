package supervisor

import (
	"fmt"
	"os"
	"path/filepath"
)

// maxSocketPath is the longest path of a unix socket: sun_path of unix(7) without the final zero.
const maxSocketPath = 107

// withShortPath calls use with path, or with a short alias of it when it is too long for a socket.
func withShortPath(path string, use func(string) error) error {
	if len(path) <= maxSocketPath {
		return use(path)
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return use(fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path)))
}
