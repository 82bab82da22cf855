package peer

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/containervm/containervm/initramfs"
)

//go:embed guest/init.c
var initSource []byte

// BuildInitrd makes the file system of the peers' guests in dir: the init of guest/init.c, and busybox as the process.
func BuildInitrd(ctx context.Context, dir string) (string, error) {
	source, program, path := filepath.Join(dir, "init.c"), filepath.Join(dir, "init"), filepath.Join(dir, "peer.cpio")
	if err := os.WriteFile(source, initSource, 0o600); err != nil {
		return "", err
	}
	compile := exec.CommandContext(ctx, "gcc", "-static", "-nostdlib", "-O2", "-fno-stack-protector", "-fno-builtin", "-s", "-o", program, source)
	if out, err := compile.CombinedOutput(); err != nil {
		return "", fmt.Errorf("cannot compile the init of the peers: %w\n%s", err, out)
	}
	init, err := os.ReadFile(program)
	if err != nil {
		return "", err
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return "", fmt.Errorf("cannot read busybox (try: apt-get install busybox-static): %w", err)
	}
	var b bytes.Buffer
	entries := append(initramfs.Content(init), initramfs.Entry{Name: "busybox", Mode: initramfs.ModeRegular | 0o755, Data: busybox})
	if err := initramfs.Write(&b, entries); err != nil {
		return "", err
	}
	return path, os.WriteFile(path, b.Bytes(), 0o600)
}
