package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// Report is a run of the benchmark, with every sample.
type Report struct {
	At         time.Time `json:"at"`
	Processors int       `json:"processors"`
	Accel      string    `json:"accel"`
	Results    []Result  `json:"results"`
	// Calls are the vim25 calls of the container boots that were measured.
	Calls     []Call  `json:"vim25Calls"`
	Under5Ms  float64 `json:"vim25ShareUnder5ms"`
	KernelSHA string  `json:"kernelSha256"`
}

// write puts RESULTS.md and results.json into dir.
func (r Report) write(dir string) error {
	data, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return fmt.Errorf("cannot encode results: %w", err)
	}
	for name, content := range map[string][]byte{"results.json": data, "RESULTS.md": []byte(r.markdown())} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			return fmt.Errorf("cannot write results: %w", err)
		}
	}
	return nil
}

func (r Report) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Results\n\nMade by `make bench` on %s: %d processors, %s, %s, kernel %.12s. Ratios are medians of paired rounds,\n"+
		"with a bootstrap interval of 95 %%; absolute figures do not carry to other machines. Raw samples: results.json.\n\n",
		r.At.Format(time.DateOnly), r.Processors, r.Accel, runtime.Version(), r.KernelSHA)
	b.WriteString("| what | A | B | median A | median B | A / B | 95 % | p95 | goal | rounds | discarded | failed |\n")
	b.WriteString("|---|---|---|---|---|---|---|---|---|---|---|---|\n")
	for _, c := range r.Results {
		fmt.Fprintf(&b, "| %s | %s | %s | %.1f %s | %.1f %s | **%.2f** | %.2f to %.2f | %.2f | %s | %d | %d | %d |\n",
			c.Name, c.A, c.B, c.MedianA, c.Unit, c.MedianB, c.Unit, c.Ratio.Median, c.Ratio.CI.Low, c.Ratio.CI.High,
			c.Ratio.P95, c.Goal, len(c.Rounds), c.Discarded, c.Failed)
	}
	fmt.Fprintf(&b, "\nvim25 calls of the boots: %d, of which %.1f %% took less than 5 ms.\n", len(r.Calls), 100*r.Under5Ms)
	return b.String()
}
