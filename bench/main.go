// Bench measures containerVM against the floor of the machine it runs on and writes ratios, never bare times: A and B
// are measured by turns in one run, their paired ratios give a median and its interval, rounds in which the machine was
// busy with something else are discarded and counted, failures stay in the samples.
//
//	go run ./bench -guest bin/guest -supervisor bin/cvm-supervisor -out bench [-n 30] [-root debian.tar]
package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"time"
)

// options are the flags.
type options struct {
	guest, supervisor, out, accel, root string
	rounds                              int
}

func main() {
	var o options
	flag.StringVar(&o.guest, "guest", "bin/guest", "`DIR` of the kernel, the initramfs and the blank disk")
	flag.StringVar(&o.supervisor, "supervisor", "bin/cvm-supervisor", "`FILE` of the supervisor program")
	flag.StringVar(&o.out, "out", "bench", "`DIR` of RESULTS.md and results.json")
	flag.StringVar(&o.accel, "accel", "tcg", "accelerator of both sides: tcg or kvm")
	flag.StringVar(&o.root, "root", "", "`FILE`, a tar of a Debian root, to measure unpacking with")
	flag.IntVar(&o.rounds, "n", 30, "rounds of each case")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := bench(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func bench(ctx context.Context, o options) (err error) {
	dir, err := os.MkdirTemp("", "cvm-bench-")
	if err != nil {
		return fmt.Errorf("cannot make directory of the run: %w", err)
	}
	defer os.RemoveAll(dir)
	guest, err := filepath.Abs(o.guest)
	if err != nil {
		return err
	}
	supervisor, err := filepath.Abs(o.supervisor)
	if err != nil {
		return err
	}
	h, err := startHost(ctx, dir, guest, supervisor, o.accel)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.stop()) }()
	r, err := measure(ctx, h, o, dir)
	if err != nil {
		return err
	}
	if err := r.write(o.out); err != nil {
		return err
	}
	fmt.Print(r.markdown())
	return nil
}

func measure(ctx context.Context, h *host, o options, dir string) (Report, error) {
	r := Report{At: time.Now(), Processors: runtime.NumCPU(), Accel: o.accel}
	kernel, err := os.ReadFile(filepath.Join(o.guest, "vmlinux"))
	if err != nil {
		return r, fmt.Errorf("cannot read kernel: %w", err)
	}
	r.KernelSHA = fmt.Sprintf("%x", sha256.Sum256(kernel))
	root, err := benchRoot(ctx, dir)
	if err != nil {
		return r, err
	}
	if err := h.importImage(ctx, imageName, root); err != nil {
		return r, err
	}
	bare, err := newBareMachine(dir, filepath.Join(o.guest, "vmlinux"), o.accel)
	if err != nil {
		return r, err
	}
	h.calls.take()
	if err := r.add(ctx, bootCase(h, bare), o.rounds); err != nil {
		return r, err
	}
	r.Calls = h.calls.take()
	r.Under5Ms = shareUnder(r.Calls, 5)

	cases, closeCases, err := execCases(ctx, h)
	if err != nil {
		return r, err
	}
	for _, c := range cases {
		if err := r.add(ctx, c, o.rounds); err != nil {
			return r, errors.Join(err, closeCases())
		}
	}
	if err := closeCases(); err != nil {
		return r, err
	}
	return r, r.addUnpack(ctx, h, o, dir)
}

func (r *Report) addUnpack(ctx context.Context, h *host, o options, dir string) error {
	if o.root == "" {
		return nil
	}
	root, err := os.ReadFile(o.root)
	if err != nil {
		return fmt.Errorf("cannot read Debian root: %w", err)
	}
	return r.add(ctx, unpackCase(h, root, dir), max(3, o.rounds/6))
}

func (r *Report) add(ctx context.Context, c Case, rounds int) error {
	res, err := run(ctx, c, rounds, os.Stderr)
	if err != nil {
		return err
	}
	r.Results = append(r.Results, res)
	return nil
}
