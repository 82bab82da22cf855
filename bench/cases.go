package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

const (
	imageName = "containervm-bench:latest"
	// sourceBytes is how much a throughput is measured over; bench/guest sends as much.
	sourceBytes = 64 << 20
	servePort   = 5000
)

// bootCase compares the boot of a container with that of a bare machine.
func bootCase(b *boots, bare *bareMachine) Case {
	return Case{
		Name: "boot to first byte of echo", Unit: "ms", Goal: "at most 1.35",
		A: Side{"docker start of a container", b.measure},
		B: Side{"bare QEMU, same kernel and command line, busybox as init", bare.boot},
	}
}

// execCases compare the Docker API with raw, a vsock stream to bench/guest as the process of the container id.
func execCases(h *host, id string, raw io.ReadWriter) []Case {
	trip := Side{"one byte and back, raw vsock", func(context.Context) (float64, error) { return rawRoundTrip(raw) }}
	exec := Side{"docker exec of a static true", func(ctx context.Context) (float64, error) { return execTime(ctx, h, id) }}
	return []Case{{
		Name: "exec against its parts", Unit: "ms", Goal: "at most 1", A: exec,
		B: Side{"5 raw round trips, with the start of the same process", func(context.Context) (float64, error) { return rawExec(raw) }},
	}, {
		Name: "exec in round trips", Unit: "ms", Goal: "-", A: exec, B: trip,
	}, {
		Name: "stdout throughput", Unit: "MB/s", Goal: "at least 0.6",
		A: Side{"docker exec", func(ctx context.Context) (float64, error) { return execThroughput(ctx, h, id) }},
		B: Side{"raw vsock", func(context.Context) (float64, error) { return rawThroughput(raw) }},
	}}
}

// serveRaw starts a container whose process is bench/guest's server and opens the raw stream to it. close ends both.
func serveRaw(ctx context.Context, h *host) (id string, raw io.ReadWriter, close func() error, err error) {
	if id, err = h.create(ctx, "/bench", "serve", fmt.Sprint(servePort)); err != nil {
		return "", nil, nil, err
	}
	var stream io.ReadWriteCloser
	if _, _, err = h.startUntil(ctx, id, "ready"); err == nil {
		stream, err = dialRaw(ctx, h.endpoint, id, servePort)
	}
	if err != nil {
		return "", nil, nil, errors.Join(err, h.remove(ctx, id))
	}
	return id, stream, func() error { return errors.Join(stream.Close(), h.remove(ctx, id)) }, nil
}

func execTime(ctx context.Context, h *host, id string) (float64, error) {
	begin := time.Now()
	_, err := h.exec(ctx, id, "/bench", "true")
	return millis(time.Since(begin)), err
}

func execThroughput(ctx context.Context, h *host, id string) (float64, error) {
	begin := time.Now()
	n, err := h.exec(ctx, id, "/bench", "source", fmt.Sprint(sourceBytes))
	if err == nil && n != sourceBytes {
		err = fmt.Errorf("%d bytes came, want %d", n, sourceBytes)
	}
	return perSecond(n, time.Since(begin)), err
}

// unpackCase compares the import of a root with writing the same bytes to a file of this machine.
func unpackCase(h *host, root []byte, dir string) Case {
	n := 0
	return Case{
		Name: "unpack of a Debian root", Unit: "MB/s", Goal: "A at least 50 MB/s",
		A: Side{"docker import", func(ctx context.Context) (float64, error) {
			n++
			// A layer is known by its content: another first file makes another layer.
			fresh, err := distinct(root, n)
			if err != nil {
				return 0, err
			}
			begin := time.Now()
			err = h.importImage(ctx, fmt.Sprintf("containervm-unpack:%d", n), fresh)
			return perSecond(int64(len(root)), time.Since(begin)), err
		}},
		B: Side{"write and fsync of the tar on this machine", func(context.Context) (float64, error) {
			return writeThroughput(filepath.Join(dir, "floor.tar"), root)
		}},
	}
}

func distinct(root []byte, n int) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := writeFile(w, "bench-round", []byte(fmt.Sprint(n))); err != nil {
		return nil, err
	}
	if err := w.Flush(); err != nil {
		return nil, err
	}
	return append(b.Bytes(), root...), nil
}

func writeThroughput(path string, data []byte) (float64, error) {
	begin := time.Now()
	f, err := os.Create(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if _, err := f.Write(data); err != nil {
		return 0, err
	}
	err = f.Sync()
	return perSecond(int64(len(data)), time.Since(begin)), err
}

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
	for name, path := range map[string]string{"busybox": "/bin/busybox", "bench": program} {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("cannot read program of the image: %w", err)
		}
		if err := writeFile(w, name, data); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func writeFile(w *tar.Writer, name string, data []byte) error {
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o755, Size: int64(len(data))}); err != nil {
		return err
	}
	_, err := w.Write(data)
	return err
}
