package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/containervm/containervm/bench/internal/measure"
	"github.com/containervm/containervm/bench/internal/plots"
)

// Report is a run of the benchmark, with every sample.
type Report struct {
	At      time.Time        `json:"at"`
	Machine Machine          `json:"machine"`
	Results []measure.Result `json:"results"`
	NotRun  []NotRun         `json:"notRun,omitempty"`
}

// NotRun is a group that was not measured at all.
type NotRun struct {
	Name string `json:"name"`
	Why  string `json:"why"`
}

func newReport(o options) (*Report, error) {
	m, err := describeMachine(o)
	return &Report{At: time.Now(), Machine: m}, err
}

func readReport(path string) (*Report, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read results: %w", err)
	}
	var r Report
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("cannot understand results: %w", err)
	}
	return &r, nil
}

// put has groups that were measured later take the place of those with their names; new ones come last.
func (r *Report) put(later []measure.Result) {
	for _, res := range later {
		if i := slices.IndexFunc(r.Results, func(old measure.Result) bool { return old.Name == res.Name }); i >= 0 {
			r.Results[i] = res
			continue
		}
		r.Results = append(r.Results, res)
	}
}

// measure runs the groups that were asked for, one after the other. One that cannot be prepared is told in the report.
func (r *Report) measure(ctx context.Context, e *environment, o options) error {
	chosen := chosen(o)
	begin, shown := time.Now(), newProgress(os.Stderr)
	for i, c := range chosen {
		plan := measure.Plan{Rounds: c.rounds(o.rounds), Progress: shown.round}
		if o.budget > 0 {
			left := o.budget - time.Since(begin)
			if left <= 0 {
				r.NotRun = append(r.NotRun, NotRun{c.name, "the time for all groups is up"})
				continue
			}
			plan.Budget = left / time.Duration(len(chosen)-i)
		}
		if err := r.group(ctx, e, c, plan, shown); err != nil {
			return err
		}
	}
	return nil
}

func (r *Report) group(ctx context.Context, e *environment, c entry, plan measure.Plan, shown *progress) error {
	shown.say(c.name, "preparing")
	begin := time.Now()
	g, err := c.build(ctx, e)
	if err == nil {
		plan.Budget = leftOf(plan.Budget, time.Since(begin))
		g.Name = c.name
		var res measure.Result
		if res, err = measure.Run(ctx, g, plan); err != nil {
			return errors.Join(err, e.endGroup())
		}
		shown.done()
		writeGroup(os.Stderr, res)
		r.Results = append(r.Results, res)
	} else {
		shown.done()
		r.NotRun = append(r.NotRun, NotRun{c.name, err.Error()})
	}
	if ctx.Err() != nil {
		return errors.Join(ctx.Err(), e.endGroup())
	}
	return e.endGroup()
}

// leftOf is what preparing leaves of a budget; none stays none.
func leftOf(budget, used time.Duration) time.Duration {
	if budget == 0 {
		return 0
	}
	return max(1, budget-used)
}

func chosen(o options) (all []entry) {
	for _, e := range entries() {
		asked := e.quick || !o.quick
		if o.run != nil {
			asked = o.run.MatchString(e.name)
		}
		if asked && (!e.needsRoot || o.root != "") {
			all = append(all, e)
		}
	}
	return all
}

func (r *Report) print(w io.Writer, asJSON bool) error {
	text := []byte(r.markdown())
	if asJSON {
		var err error
		if text, err = r.json(); err != nil {
			return err
		}
	}
	_, err := w.Write(text)
	return err
}

func (r *Report) json() ([]byte, error) {
	data, err := json.Marshal(r) // with every sample it is large enough without white space
	if err != nil {
		return nil, fmt.Errorf("cannot encode results: %w", err)
	}
	return append(data, '\n'), nil
}

// write puts RESULTS.md, results.json and the plots into dir.
func (r *Report) write(dir string) error {
	data, err := r.json()
	if err != nil {
		return err
	}
	drawn := filepath.Join(dir, "plots")
	if err := os.MkdirAll(drawn, 0o755); err != nil {
		return fmt.Errorf("cannot make directory of plots: %w", err)
	}
	files := map[string][]byte{filepath.Join(dir, "results.json"): data, filepath.Join(dir, "RESULTS.md"): []byte(r.markdown())}
	for _, p := range plots.All(r.Results) {
		svg, err := p.SVG()
		if err != nil {
			return fmt.Errorf("cannot draw %s: %w", p.Name, err)
		}
		files[filepath.Join(drawn, p.Name+".svg")] = svg
	}
	for path, content := range files {
		if err := os.WriteFile(path, content, 0o644); err != nil {
			return fmt.Errorf("cannot write results: %w", err)
		}
	}
	return nil
}
