// Package metrics counts what the host does, for Prometheus.
package metrics

import (
	"context"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/containervm/containervm/hostd-bridge/internal/vm"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/vmhost"
)

// Metrics is what is counted of one host.
type Metrics struct {
	registry *prometheus.Registry
	starts   *prometheus.CounterVec
	failures *prometheus.CounterVec
	clones   *prometheus.HistogramVec
}

// Kinds of starts, the values of the label kind.
const (
	kindBoot = "boot"
	kindFork = "fork"
)

// New returns metrics in which nothing has been counted.
func New() *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		starts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "containervm_starts_total", Help: "Machines that were started, by kind: boot or fork.",
		}, []string{"kind"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "containervm_start_failures_total", Help: "Starts that failed, by kind: boot or fork.",
		}, []string{"kind"}),
		clones: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "containervm_clone_seconds",
			Help:    "Time from the beginning of a clone to its CPUs running, by whether its QEMU was started ahead of time.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 14), // 1 ms to 8 s
		}, []string{"prestarted"}),
	}
	m.registry.MustRegister(m.starts, m.failures, m.clones, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	for _, kind := range []string{kindBoot, kindFork} { // a counter that is not there is no zero
		m.starts.WithLabelValues(kind)
		m.failures.WithLabelValues(kind)
	}
	return m
}

// Observe counts a start; it is vmhost.Options.Observe.
func (m *Metrics) Observe(o vm.Outcome) {
	kind := kindBoot
	if o.Fork {
		kind = kindFork
	}
	if o.Err != nil {
		m.failures.WithLabelValues(kind).Inc()
		return
	}
	m.starts.WithLabelValues(kind).Inc()
	if o.Fork {
		prestarted := "no"
		if o.Prestarted {
			prestarted = "yes"
		}
		m.clones.WithLabelValues(prestarted).Observe(o.Took.Seconds())
	}
}

// Watch adds what is read of an inventory whenever someone asks.
func (m *Metrics) Watch(inventory *vmhost.Host) {
	m.registry.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "containervm_prestarted", Help: "Children whose QEMU was started ahead of time and waits.",
		}, func() (n float64) {
			for _, p := range inventory.Prestart.Status() {
				n += float64(p.Prestarted)
			}
			return n
		}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "containervm_running", Help: "VMs that are powered on, frozen ones included.",
		}, func() (n float64) {
			for _, v := range inventory.List() {
				if v.Power == vm.PoweredOn {
					n++
				}
			}
			return n
		}),
		switches{inventory},
	)
}

// measureTime bounds how long switches are asked for what they count, which takes milliseconds.
const measureTime = time.Second

// switches collects what is counted of the switches of networks: all of it at one time.
type switches struct{ inventory *vmhost.Host }

func descriptions() (running, restarts, forged *prometheus.Desc) {
	return prometheus.NewDesc("containervm_switches", "Switches of networks that run.", nil, nil),
		prometheus.NewDesc("containervm_switch_restarts_total", "Switches that ended by themselves; another one was started.", nil, nil),
		prometheus.NewDesc("containervm_forged_frames_total", "Frames that were dropped because their source was not their card's address.", nil, nil)
}

// Describe implements prometheus.Collector.
func (s switches) Describe(out chan<- *prometheus.Desc) {
	running, restarts, forged := descriptions()
	out <- running
	out <- restarts
	out <- forged
}

// Collect implements prometheus.Collector.
func (s switches) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), measureTime)
	defer cancel()
	c := s.inventory.Switches.Counts(ctx)
	running, restarts, forged := descriptions()
	out <- prometheus.MustNewConstMetric(running, prometheus.GaugeValue, float64(c.Running))
	out <- prometheus.MustNewConstMetric(restarts, prometheus.CounterValue, float64(c.Restarts))
	out <- prometheus.MustNewConstMetric(forged, prometheus.CounterValue, float64(c.Forged))
}

// Handler serves the metrics as text.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}
