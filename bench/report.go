package main

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// Report is a run of the benchmark, with every sample.
type Report struct {
	At      time.Time `json:"at"`
	Machine Machine   `json:"machine"`
	Results []Result  `json:"results"`
	// Boot explains the boots of containers that were measured.
	Boot struct {
		Phases  []Span    `json:"phases"`     // in the guest
		StartMs []float64 `json:"startMs"`    // until docker start was answered
		VimMs   []float64 `json:"vim25Ms"`    // vim25 calls between start and first byte, summed up for each boot
		Calls   []Call    `json:"vim25Calls"` // the same one by one
	} `json:"boot"`
}

// Machine is what the figures depend on.
type Machine struct {
	CPU        string `json:"cpu"`
	Processors int    `json:"processors"`
	Accel      string `json:"accel"`
	QEMU       string `json:"qemu"`
	Go         string `json:"go"`
	KernelSHA  string `json:"kernelSha256"`
	Load       string `json:"load"` // /proc/loadavg at the start
}

func newReport(o options) (*Report, error) {
	kernel, err := os.ReadFile(filepath.Join(o.guest, "vmlinux"))
	if err != nil {
		return nil, fmt.Errorf("cannot read kernel: %w", err)
	}
	qemu, err := exec.Command("qemu-system-x86_64", "--version").Output()
	if err != nil {
		return nil, fmt.Errorf("cannot learn QEMU's version: %w", err)
	}
	version, _, _ := strings.Cut(string(qemu), "\n")
	return &Report{At: time.Now(), Machine: Machine{
		CPU: field("/proc/cpuinfo", "model name"), Processors: runtime.NumCPU(), Accel: o.accel, QEMU: version,
		Go: runtime.Version(), KernelSHA: fmt.Sprintf("%x", sha256.Sum256(kernel)), Load: load(),
	}}, nil
}

// field is the first value of a key in a file of /proc, or empty.
func field(path, key string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == key {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func load() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return ""
	}
	return strings.Join(strings.Fields(string(text))[:3], " ")
}

func (r *Report) addBoots(b *boots) {
	r.Boot.Phases, r.Boot.StartMs, r.Boot.VimMs, r.Boot.Calls = b.profile(), b.start, b.vim, b.calls
}

// write puts RESULTS.md and results.json into dir.
func (r *Report) write(dir string) error {
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

func (r *Report) markdown() string {
	var b strings.Builder
	m := r.Machine
	fmt.Fprintf(&b, "# Results\n\nMade by `make bench` on %s: %s, %d processors, %s, %s, %s, kernel %.12s, load %s.\n\n"+
		"Ratios are medians of paired rounds, A and B by turns, with a bootstrap interval of 95 %%; absolute figures do not carry to\n"+
		"other machines. The noise is B against itself. Rounds in which a probe (/bin/true) took over twice its median are discarded;\n"+
		"failures stay counted. Raw samples: results.json. Where it falls short, and why: README.md.\n\n",
		r.At.Format(time.DateOnly), m.CPU, m.Processors, m.Accel, m.QEMU, m.Go, m.KernelSHA, m.Load)
	b.WriteString("| what | A | B | median A | median B | A / B | 95 % | p95 | goal | noise B / B | rounds | discarded | failed |\n")
	b.WriteString("|---|---|---|---|---|---|---|---|---|---|---|---|---|\n")
	for _, c := range r.Results {
		b.WriteString(c.row() + "\n")
	}
	r.writeBoot(&b)
	return b.String()
}

// row is a line of the table.
func (c Result) row() string {
	return fmt.Sprintf("| %s | %s | %s | %.1f %s | %.1f %s | **%.2f** | %.2f to %.2f | %.2f | %s | %.2f (%.2f to %.2f) | %d | %d | %d |",
		c.Name, c.A, c.B, c.MedianA, c.Unit, c.MedianB, c.Unit, c.Ratio.Median, c.Ratio.CI.Low, c.Ratio.CI.High,
		c.Ratio.P95, c.Goal, c.Noise.Median, c.Noise.CI.Low, c.Noise.CI.High, len(c.Rounds), c.Discarded, c.Failed)
}

// writeBoot writes where a boot's time goes.
func (r *Report) writeBoot(b *strings.Builder) {
	boot := r.Boot
	fmt.Fprintf(b, "\nA boot makes %.1f vim25 calls between start and first byte that do not wait by design; together they take %.1f ms "+
		"(median; goal: under 5).\n`docker start` is answered after %.0f ms.\n\n",
		float64(len(boot.Calls))/float64(max(1, len(boot.VimMs))), median(boot.VimMs), median(boot.StartMs))
	b.WriteString("Where the guest's time goes, median of the boots (ms between the lines of its console):\n\n|")
	for _, s := range boot.Phases {
		fmt.Fprintf(b, " %s |", s.Name)
	}
	b.WriteString("\n|" + strings.Repeat("---|", len(boot.Phases)) + "\n|")
	for _, s := range boot.Phases {
		fmt.Fprintf(b, " %.0f |", s.Ms)
	}
	b.WriteString("\n")
}
