// Bench measures containerVM against the floor of the machine it runs on and writes ratios, never bare times: A and B
// are measured by turns in one run, their paired ratios give a median and its interval, rounds in which the machine was
// busy with something else are discarded and counted, failures stay in the samples.
//
//	go run ./bench -guest bin/guest -supervisor bin/cvm-supervisor -out bench [-n 30] [-quick] [-root debian.tar]
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
)

// options are the flags.
type options struct {
	guest, supervisor, out, accel, root string
	rounds                              int
}

// quickRounds tell a mishap from success, no more.
const quickRounds = 6

func main() {
	var o options
	flag.StringVar(&o.guest, "guest", "bin/guest", "`DIR` of the kernel, the initramfs and the blank disk")
	flag.StringVar(&o.supervisor, "supervisor", "bin/cvm-supervisor", "`FILE` of the supervisor program")
	flag.StringVar(&o.out, "out", "bench", "`DIR` of RESULTS.md and results.json; empty: only print")
	flag.StringVar(&o.accel, "accel", "tcg", "accelerator of both sides: tcg or kvm")
	flag.StringVar(&o.root, "root", "", "`FILE`, a tar of a Debian root, to measure unpacking with")
	flag.IntVar(&o.rounds, "n", 30, "rounds of each case")
	quick := flag.Bool("quick", false, "few rounds and no unpacking: under two minutes, and nothing to publish")
	flag.Parse()
	if *quick {
		o.rounds, o.root, o.out = quickRounds, "", ""
	}
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
	fmt.Print(r.markdown())
	if o.out == "" {
		return nil
	}
	return r.write(o.out)
}

// measure runs the cases one after the other.
func measure(ctx context.Context, h *host, o options, dir string) (*Report, error) {
	r, err := newReport(o)
	if err != nil {
		return nil, err
	}
	root, err := benchRoot(ctx, dir)
	if err != nil {
		return nil, err
	}
	if err := h.importImage(ctx, imageName, root); err != nil {
		return nil, err
	}
	id, raw, closeRaw, err := serveRaw(ctx, h)
	if err != nil {
		return nil, err
	}
	bare, err := newBareMachine(dir, id)
	if err == nil {
		err = r.addAll(ctx, execCases(h, id, raw), o)
	}
	if err := errors.Join(err, closeRaw()); err != nil { // before the boots: a machine that idles is noise
		return nil, err
	}
	b := newBoots(h)
	if err := r.addAll(ctx, []Case{bootCase(b, bare)}, o); err != nil {
		return nil, err
	}
	r.addBoots(b)
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
	o.rounds = max(2, o.rounds/5)
	return r.addAll(ctx, []Case{unpackCase(h, root, dir)}, o)
}

// addAll measures cases, each with the noise of its side B against itself.
func (r *Report) addAll(ctx context.Context, cases []Case, o options) error {
	for _, c := range cases {
		res, err := run(ctx, c, o.rounds, os.Stderr)
		if err != nil {
			return err
		}
		noise, err := run(ctx, Case{Name: c.Name + " (noise)", A: c.B, B: c.B}, max(3, o.rounds/3), os.Stderr)
		if err != nil {
			return err
		}
		res.Noise = noise.Ratio
		r.Results = append(r.Results, res)
		fmt.Fprintln(os.Stderr, "  "+res.row())
	}
	return nil
}
