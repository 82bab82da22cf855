package container

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/containervm/containervm/controller/internal/template"
)

// Metrics counts what is done to containers, for Prometheus.
type Metrics struct {
	creates, starts *prometheus.HistogramVec // seconds
}

// Seconds are the borders of the histograms: from a warm machine's start to a boot under emulation on a busy host.
func Seconds() []float64 { return []float64{.002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30} }

// NewMetrics returns metrics that are part of a registry. The count of each histogram is the number of creates and starts.
func NewMetrics(r prometheus.Registerer) *Metrics {
	histogram := func(name, help, label string) *prometheus.HistogramVec {
		h := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: Seconds()}, []string{label})
		r.MustRegister(h)
		return h
	}
	return &Metrics{
		creates: histogram("cvm_container_create_seconds", "Time to make a container, by how it got its machine (boot, fork, warm).", "kind"),
		starts:  histogram("cvm_container_start_seconds", "Time from a start to the running process, by how the machine came up (boot, fork).", "kind"),
	}
}

func (m *Metrics) created(way string, d time.Duration) {
	m.creates.WithLabelValues(way).Observe(d.Seconds())
}
func (m *Metrics) started(kind string, d time.Duration) {
	m.starts.WithLabelValues(kind).Observe(d.Seconds())
}

// Collect registers gauges that are read from the inventory when they are asked for.
func (s *Service) Collect(r prometheus.Registerer) {
	gauge := func(name, help string, value func() float64) {
		r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value))
	}
	gauge("cvm_templates", "Templates that stand at their fork point.", func() float64 {
		n := 0
		for _, t := range s.templates.List() {
			if t.State == template.StateFrozen {
				n++
			}
		}
		return float64(n)
	})
	gauge("cvm_warm_machines", "Machines that were forked ahead of time and are ready to be a container.", func() float64 { return float64(s.templates.Warm()) })
	gauge("cvm_parked_containers", "Created containers whose machine waits at its gate.", func() float64 { return float64(s.Parked()) })
	gauge("cvm_containers_running", "Containers that run.", func() float64 {
		n := 0
		for _, c := range s.All() {
			if c.Running() {
				n++
			}
		}
		return float64(n)
	})
}

// Parked counts the created containers whose machine waits at its gate.
func (s *Service) Parked() int {
	n := 0
	for _, c := range s.All() {
		if c.Phase() == PhaseParked {
			n++
		}
	}
	return n
}
