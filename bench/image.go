package main

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/containervm/containervm/bench/internal/measure"
)

// benchRoot is the root of the benchmark's image: busybox and the program of bench/guest, built into dir.
func benchRoot(ctx context.Context, dir string) ([]byte, error) {
	program := filepath.Join(dir, "guest")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", program, "./bench/guest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("cannot build bench/guest (run from the repository's root): %w\n%s", err, out)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := finish(w, map[string]string{"busybox": "/bin/busybox", "bench": program}); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// finish ends an image with copies of this machine's files, whose paths stand by the names that they get.
func finish(w *tar.Writer, files map[string]string) error {
	for name, path := range files {
		data, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("cannot read file of the image: %w", err)
		}
		if err := writeFile(w, name, data); err != nil {
			return err
		}
	}
	return w.Close()
}

func writeFile(w *tar.Writer, name string, data []byte) error {
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o755, Size: int64(len(data))}); err != nil {
		return err
	}
	_, err := w.Write(data)
	return err
}

// probe is the floor of anything that starts a process: /bin/true, in milliseconds.
func probe(ctx context.Context) (float64, error) {
	begin := time.Now()
	err := exec.CommandContext(ctx, "/bin/true").Run()
	return measure.Millis(time.Since(begin)), err
}
