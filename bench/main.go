// Bench measures containerVM against its peers and the floor of the machine it runs on and writes ratios, never bare
// times: see README.md and package measure.
//
//	go run ./bench -guest bin/guest -supervisor bin/cvm-supervisor -out bench [-n 30] [-quick] [-run regexp] [-list] [-json]
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"time"
)

// options are the flags.
type options struct {
	guest, supervisor, out, accel, root string
	rounds                              int
	budget                              time.Duration // of all groups together; 0: none
	run                                 *regexp.Regexp
	sizes                               sizes
	list, json, quick                   bool
	vsphere, vsphereCA                  string
	from                                string // results to render instead of measuring
	into                                string // results in which the groups that are measured take the place of theirs
}

// sizes are the points of the curves.
type sizes struct {
	dirtyMiB []int           // memory that a template has written to
	burst    []int           // machines at once
	moments  []time.Duration // after the first byte, at which memory is read
}

// quickRounds tell a mishap from success, no more. quickBudget leaves the rest of two minutes for building and starting.
const (
	quickRounds = 4
	quickBudget = 75 * time.Second
)

func main() {
	o, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
		defer stop()
		err = bench(ctx, o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func parse(args []string) (options, error) {
	o := options{sizes: sizes{
		dirtyMiB: []int{32, 512, 2048}, burst: []int{1, 2, 4, 8, 20}, moments: seconds(0, 1, 3, 10),
	}}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.StringVar(&o.guest, "guest", "bin/guest", "`DIR` of the kernel, the initramfs and the blank disk")
	f.StringVar(&o.supervisor, "supervisor", "bin/cvm-supervisor", "`FILE` of the supervisor program")
	f.StringVar(&o.out, "out", "bench", "`DIR` of RESULTS.md, results.json and plots; empty: only print")
	f.StringVar(&o.accel, "accel", "tcg", "accelerator of all machines: tcg or kvm")
	f.StringVar(&o.root, "root", "", "`FILE`, a tar of a Debian root, to measure unpacking with")
	f.IntVar(&o.rounds, "n", 30, "rounds of each group; those whose rounds are long make fewer")
	f.DurationVar(&o.budget, "budget", 0, "time for all groups together: each makes fewer rounds to keep it, but at least one")
	f.StringVar(&o.vsphere, "vsphere", "", "`URL` of a vSphere to run containers on, https://user@host/sdk with the password in GOVC_PASSWORD, instead of an embedded hostd-bridge")
	f.StringVar(&o.vsphereCA, "vsphere-ca", "", "`FILE` of the certificates that vSphere's is checked with; empty: the system's")
	f.StringVar(&o.from, "from", "", "`FILE` of JSON results to make tables and plots of, instead of measuring")
	f.StringVar(&o.into, "into", "", "`FILE` of JSON results: the groups of -run take the place of its own, and the whole is written into -out")
	f.BoolVar(&o.list, "list", false, "list the groups and exit")
	f.BoolVar(&o.json, "json", false, "print the JSON with all samples instead of tables")
	f.Func("run", "measure the groups that match this `REGEXP` only; results then are not written", func(text string) (err error) {
		o.run, err = regexp.Compile(text)
		return err
	})
	f.Func("dirty", "`MIB,…` that templates have written to, at most 8192", list(&o.sizes.dirtyMiB, 8192))
	f.Func("burst", "`N,…` machines at once, at most 512", list(&o.sizes.burst, 512))
	f.BoolVar(&o.quick, "quick", false, "few rounds, few sizes, few groups: under two minutes, and nothing to publish")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if o.quick {
		o.rounds, o.root, o.out, o.budget = quickRounds, "", "", quickBudget
		o.sizes = sizes{dirtyMiB: []int{32, 512}, burst: []int{1, 2}, moments: seconds(0, 1)}
	}
	if o.run != nil && o.into == "" {
		o.out = ""
	}
	if o.rounds < 1 || f.NArg() > 0 {
		return o, fmt.Errorf("cannot measure %d rounds of %q: want at least one round and no further arguments", o.rounds, f.Args())
	}
	return o, nil
}

func bench(ctx context.Context, o options) error {
	if o.list {
		for _, e := range entries() {
			fmt.Printf("%-12s %s\n", e.name, e.about)
		}
		return nil
	}
	r, err := report(ctx, o)
	if err != nil {
		return err
	}
	if o.into != "" {
		whole, err := readReport(o.into)
		if err != nil {
			return err
		}
		whole.put(r.Results)
		r = whole
	}
	if err := r.print(os.Stdout, o.json); err != nil || o.out == "" {
		return err
	}
	return r.write(o.out)
}

// report measures, or reads what was measured.
func report(ctx context.Context, o options) (r *Report, err error) {
	if o.from != "" {
		return readReport(o.from)
	}
	if r, err = newReport(o); err != nil {
		return nil, err
	}
	e, err := newEnvironment(o)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, e.close()) }()
	return r, r.measure(ctx, e, o)
}
