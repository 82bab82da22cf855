package peer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/containervm/containervm/bench/internal/measure"
)

// Bundle is an OCI bundle whose process is the static busybox that says the greeting.
type Bundle struct {
	dir  string
	last atomic.Int64
}

// NewBundle makes the bundle: a root with nothing but busybox, and the configuration that `runc spec` writes, without a
// terminal.
func NewBundle(ctx context.Context, dir string) (*Bundle, error) {
	root := filepath.Join(dir, "rootfs")
	if err := os.MkdirAll(filepath.Join(root, "proc"), 0o755); err != nil {
		return nil, fmt.Errorf("cannot make bundle: %w", err)
	}
	program, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return nil, fmt.Errorf("cannot read busybox (try: apt-get install busybox-static): %w", err)
	}
	if err := os.WriteFile(filepath.Join(root, "busybox"), program, 0o755); err != nil {
		return nil, err
	}
	config, err := json.MarshalIndent(bundleConfig(), "", " ")
	if err != nil {
		return nil, err
	}
	return &Bundle{dir: dir}, os.WriteFile(filepath.Join(dir, "config.json"), config, 0o644)
}

// bundleConfig has the namespaces of `runc spec`, and of its mounts the one that runc itself needs.
func bundleConfig() any {
	type object = map[string]any
	var namespaces []object
	for _, n := range []string{"pid", "network", "ipc", "uts", "mount"} {
		namespaces = append(namespaces, object{"type": n})
	}
	return object{
		"ociVersion": "1.0.2",
		"process": object{
			"args": []string{"/busybox", "echo", Greeting}, "cwd": "/", "env": []string{"PATH=/"},
			"user": object{"uid": 0, "gid": 0}, "noNewPrivileges": true,
		},
		"root":     object{"path": "rootfs", "readonly": true},
		"hostname": "bench",
		"mounts":   []object{{"destination": "/proc", "type": "proc", "source": "proc"}},
		"linux":    object{"namespaces": namespaces},
	}
}

// Run runs the bundle with an OCI runtime and ends its clock at the first byte. The container's name is a new one each
// time. options come before the command.
func (b *Bundle) Run(ctx context.Context, runtime string, options ...string) (s measure.Sample, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	id := fmt.Sprintf("cvm-bench-%d-%d", os.Getpid(), b.last.Add(1))
	args := append(options, "--root", filepath.Join(b.dir, "state-"+filepath.Base(runtime)), "run", "--bundle", b.dir, id)
	cmd := exec.CommandContext(ctx, runtime, args...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return s, err
	}
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return s, fmt.Errorf("cannot start %s: %w", runtime, err)
	}
	word := make([]byte, len(Greeting))
	_, err = io.ReadFull(out, word)
	took := measure.Millis(time.Since(begin))
	_, errRest := io.Copy(io.Discard, out)
	if errRun := errors.Join(errRest, cmd.Wait()); errRun != nil || err != nil {
		return s, fmt.Errorf("%s run: %w: %s", filepath.Base(runtime), errors.Join(err, errRun), lastLine(stderr.String()))
	}
	if string(word) != Greeting {
		return s, fmt.Errorf("%s run said %q", runtime, word)
	}
	return measure.Sample{Value: took}, nil
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}
