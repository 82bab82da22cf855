package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/containervm/containervm/bench/internal/measure"
)

const (
	imageName = "containervm-bench:latest"
	// sourceBytes is how much a throughput is measured over; bench/guest sends as much.
	sourceBytes = 64 << 20
	servePort   = 5000
)

// bootGroup compares the boot of a container with that of a bare machine.
func bootGroup(ctx context.Context, e *environment) (measure.Group, error) {
	h, err := e.host(ctx)
	if err != nil {
		return measure.Group{}, err
	}
	m, err := e.machine(ctx)
	if err != nil {
		return measure.Group{}, err
	}
	ours, floor := "docker start of a container", "bare QEMU, the same kernel and command line"
	return measure.Group{
		Title: "Boot", Unit: "ms", About: "start of a fresh container, with an attach open, to the first byte of busybox echo; start of QEMU to that of the same program",
		Sides: []measure.Side{
			{Name: ours, Measure: product{h, runtimeBoot, ofStart}.measure},
			{Name: floor, Measure: m.Boot},
		},
		Comparisons: []measure.Comparison{{Name: "boot to first byte of echo", Over: ours, Under: floor, Goal: "at most 1.35"}},
		Probes:      e.probes(m),
	}, nil
}

// execGroup compares the Docker API with raw, a vsock stream to bench/guest as the process of a container.
func execGroup(ctx context.Context, e *environment) (measure.Group, error) {
	h, id, raw, err := e.serving(ctx)
	if err != nil {
		return measure.Group{}, err
	}
	exec, parts, trip := "docker exec of a static true", "5 raw round trips, with the start of the same process", "one byte and back, raw vsock"
	return measure.Group{
		Title: "Exec", Unit: "ms", About: "exec create and start of a static true to the end of its streams",
		Sides: []measure.Side{
			{Name: exec, Measure: measure.Value(func(ctx context.Context) (float64, error) { return execTime(ctx, h, id) })},
			{Name: parts, Measure: measure.Value(func(context.Context) (float64, error) { return rawExec(raw) })},
			{Name: trip, Measure: measure.Value(func(context.Context) (float64, error) { return rawRoundTrip(raw) })},
		},
		Comparisons: []measure.Comparison{
			{Key: "K", Name: "exec against its parts", Over: exec, Under: parts, Goal: "at most 1"},
			{Name: "exec in round trips", Over: exec, Under: trip, Goal: "-"},
		},
		Probes: []measure.Probe{{Name: "/bin/true", Measure: probe}}, Noise: parts,
	}, nil
}

func throughputGroup(ctx context.Context, e *environment) (measure.Group, error) {
	h, id, raw, err := e.serving(ctx)
	if err != nil {
		return measure.Group{}, err
	}
	exec, floor := "docker exec", "raw vsock"
	return measure.Group{
		Title: "Throughput of stdout", Unit: "MB/s", About: "64 MiB from a process in the guest",
		Sides: []measure.Side{
			{Name: exec, Measure: measure.Value(func(ctx context.Context) (float64, error) { return execThroughput(ctx, h, id) })},
			{Name: floor, Measure: measure.Value(func(context.Context) (float64, error) { return rawThroughput(raw) })},
		},
		Comparisons: []measure.Comparison{{Key: "K", Name: "stdout throughput", Over: exec, Under: floor, Goal: "at least 0.8"}},
		Probes:      []measure.Probe{{Name: "/bin/true", Measure: probe}},
	}, nil
}

// serving is a container with bench/guest's server, for the length of the group: a machine that idles is noise to others.
func (e *environment) serving(ctx context.Context) (*host, string, io.ReadWriter, error) {
	h, err := e.host(ctx)
	if err != nil {
		return nil, "", nil, err
	}
	id, raw, end, err := serveRaw(ctx, h)
	if err != nil {
		return nil, "", nil, err
	}
	e.deferred(end)
	return h, id, raw, nil
}

// serveRaw starts a container whose process is bench/guest's server and opens the raw stream to it. close ends both.
func serveRaw(ctx context.Context, h *host) (id string, raw io.ReadWriter, close func() error, err error) {
	if id, err = h.create(ctx, runtimeBoot, "/bench", "serve", fmt.Sprint(servePort)); err != nil {
		return "", nil, nil, err
	}
	var stream io.ReadWriteCloser
	if _, err = h.startUntil(ctx, id, "ready"); err == nil {
		stream, err = openRaw(ctx, h, id, servePort)
	}
	if err != nil {
		return "", nil, nil, errors.Join(err, h.remove(ctx, id))
	}
	return id, stream, func() error { return errors.Join(stream.Close(), h.remove(ctx, id)) }, nil
}

func openRaw(ctx context.Context, h *host, id string, port uint32) (io.ReadWriteCloser, error) {
	r, err := newRelay(ctx, h.endpoint, id)
	if err != nil {
		return nil, err
	}
	return r.open(ctx, port)
}

func execTime(ctx context.Context, h *host, id string) (float64, error) {
	begin := time.Now()
	_, err := h.exec(ctx, id, "/bench", "true")
	return measure.Millis(time.Since(begin)), err
}

func execThroughput(ctx context.Context, h *host, id string) (float64, error) {
	begin := time.Now()
	n, err := h.exec(ctx, id, "/bench", "source", fmt.Sprint(sourceBytes))
	if err == nil && n != sourceBytes {
		err = fmt.Errorf("%d bytes came, want %d", n, sourceBytes)
	}
	return perSecond(n, time.Since(begin)), err
}

// unpackGroup compares the import of a root with writing the same bytes to a file of this machine.
func unpackGroup(ctx context.Context, e *environment) (measure.Group, error) {
	h, err := e.host(ctx)
	if err != nil {
		return measure.Group{}, err
	}
	root, err := os.ReadFile(e.o.root)
	if err != nil {
		return measure.Group{}, fmt.Errorf("cannot read Debian root: %w", err)
	}
	n := 0
	ours := func(ctx context.Context) (float64, error) {
		n++
		// A layer is known by its content: another first file makes another layer.
		fresh, err := distinct(root, n)
		if err != nil {
			return 0, err
		}
		begin := time.Now()
		err = h.importImage(ctx, fmt.Sprintf("containervm-unpack:%d", n), fresh)
		return perSecond(int64(len(root)), time.Since(begin)), err
	}
	floor := func(context.Context) (float64, error) {
		return writeThroughput(filepath.Join(e.dir, "floor.tar"), root)
	}
	return measure.Group{
		Title: "Unpacking", Unit: "MB/s", About: "import of a Debian root as one new layer; write and fsync of the tar",
		Sides:       []measure.Side{{Name: "docker import", Measure: measure.Value(ours)}, {Name: "write and fsync", Measure: measure.Value(floor)}},
		Comparisons: []measure.Comparison{{Name: "unpack of a Debian root", Over: "docker import", Under: "write and fsync", Goal: "A at least 50 MB/s"}},
		Probes:      []measure.Probe{{Name: "/bin/true", Measure: probe}},
	}, nil
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
