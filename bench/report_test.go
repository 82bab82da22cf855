package main

import (
	"context"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containervm/containervm/bench/internal/measure"
)

// exampleReport has one of everything that a report can show.
func exampleReport(t *testing.T) *Report {
	n := 0.0
	fork := func(context.Context) (measure.Sample, error) {
		n++
		return measure.Sample{Value: 40 + n, Each: []float64{1, 2}, Marks: []measure.Mark{
			{Name: "resumed", Value: 10}, {Name: "api", Value: 1}, {Name: "entropy", Of: ofReceipt, Value: 0.2}, {Name: markCalls, Of: measure.OfFigures, Value: 1},
		}}, nil
	}
	boot := func(context.Context) (measure.Sample, error) {
		if n > 3 {
			return measure.Sample{}, errors.New("the machine\nended | hard")
		}
		return measure.Sample{Value: 400, Memory: []measure.Memory{{Seconds: 1, GuestMiB: 1.25, OverheadMiB: 20, MinorFaults: 3}}}, nil
	}
	g := measure.Group{
		Name: "fork", Title: "Fork", Unit: "ms", About: "from here to there", Noise: "fork",
		Sides: []measure.Side{{Name: "fork", Measure: fork}, {Name: "boot", Measure: boot}, {Name: "peer", NotRun: "not on this machine"}},
		Comparisons: []measure.Comparison{
			{Key: "A", Name: "boot / fork", Over: "boot", Under: "fork", Goal: "25"}, {Name: "peer / fork", Over: "peer", Under: "fork"},
		},
	}
	res, err := measure.Run(t.Context(), g, measure.Plan{Rounds: 3})
	if err != nil {
		t.Fatal(err)
	}
	res.At = time.Date(2026, 11, 24, 1, 2, 3, 0, time.UTC)
	return &Report{
		At:      time.Date(2026, 11, 23, 1, 2, 3, 0, time.UTC),
		Machine: Machine{CPU: "a CPU", Processors: 2, MemoryMiB: 1024, Kernel: "6.1", Accel: "tcg", QEMU: "QEMU 7.2", Go: "go1", GuestSHA: "0123456789abcdef", Load: "0 0 0"},
		Results: []measure.Result{res}, NotRun: []NotRun{{"unpack", "no root"}},
	}
}

var update = flag.Bool("update", false, "write the golden files")

// `go test ./bench -update` writes it anew.
func TestReportGolden(t *testing.T) {
	got := exampleReport(t).markdown()
	path := filepath.Join("testdata", "report.md")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil || got != string(want) {
		t.Errorf("the report differs from %s: %v\n%s", path, err, got)
	}
}

// What is written can be read again, and makes the same report.
func TestReportOfItsJSON(t *testing.T) {
	r, dir := exampleReport(t), t.TempDir()
	if err := r.write(dir); err != nil {
		t.Fatal(err)
	}
	again, err := readReport(filepath.Join(dir, "results.json"))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := again.markdown(), r.markdown(); got != want {
		t.Errorf("read again:\n%s\nwant:\n%s", got, want)
	}
	if len(again.Results[0].Rounds) != 3 {
		t.Errorf("%d raw rounds, want 3", len(again.Results[0].Rounds))
	}
}

// TestPut: a group that is measured by itself takes the place of its older self in a report.
func TestPut(t *testing.T) {
	r := Report{Results: []measure.Result{{Name: "fork", Title: "old"}, {Name: "run"}}}
	at := time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)
	r.put([]measure.Result{{Name: "network", Title: "new"}, {Name: "fork", Title: "later", At: at}})
	if got := []string{r.Results[0].Title, r.Results[1].Name, r.Results[2].Title}; !slices.Equal(got, []string{"later", "run", "new"}) {
		t.Errorf("results are %v", got)
	}
	if text := r.markdown(); !strings.Contains(text, ", on 2026-01-02.") {
		t.Errorf("the report does not say when a group was measured: %s", text)
	}
}
