package api

import (
	"net/http"
	"time"

	"github.com/containervm/containervm/controller/internal/template"
	"github.com/containervm/containervm/controller/internal/vsphere"
)

// templateAnswer is a template in a list. Figures that the host does not give, or that were not asked for, are null.
type templateAnswer struct {
	Name             string
	State            string
	MemoryMiB, CPUs  int
	Kernel, Initrd   string
	Version          string // of its tether
	Created          time.Time
	Used             time.Time
	Children         int
	Warm             int
	Prestarted, Want *int
	SharedMiB        *int
	PrivateMiB       *int
	OverheadMiB      *int
}

// list has memory measured only for those who ask: most want names.
func (a *forkAPI) list(w http.ResponseWriter, r *http.Request) error {
	pools, err := a.host.Pools(r.Context())
	if err != nil {
		return err
	}
	var memory []vsphere.Memory
	if boolParam(r, "memory") {
		if memory, err = a.host.Memory(r.Context()); err != nil {
			return err
		}
	}
	list := []templateAnswer{}
	for _, t := range a.templates.List() {
		line := templateAnswer{
			Name: t.Name, State: t.State, MemoryMiB: t.Size.MemoryMiB, CPUs: t.Size.CPUs, Kernel: t.Kernel, Initrd: t.Initrd,
			Version: t.Version, Created: t.Created, Used: t.Used, Children: t.Children, Warm: t.Warm,
		}
		for _, p := range pools {
			if p.Template == t.VM.Ref {
				line.Prestarted, line.Want = &p.Prestarted, &p.Want
			}
		}
		line.measure(t, memory)
		list = append(list, line)
	}
	return writeJSON(w, http.StatusOK, list)
}

// measure adds up what was measured of a template and of the machines that were forked from it. Of those, the ones that have
// been booted since share nothing with it any more.
func (l *templateAnswer) measure(t template.Template, memory []vsphere.Memory) {
	byVM := map[vsphere.Ref]vsphere.Memory{}
	for _, m := range memory {
		byVM[m.VM] = m
	}
	own, measured := byVM[t.VM.Ref]
	if !measured {
		return
	}
	var private, overhead int64
	for _, ref := range t.Forks {
		if m := byVM[ref]; m.SharedKiB > 0 {
			private, overhead = private+m.GuestPrivateKiB, overhead+m.OverheadKiB
		}
	}
	l.SharedMiB, l.PrivateMiB, l.OverheadMiB = mebibytes(own.SharedKiB), mebibytes(private), mebibytes(overhead)
}

// mebibytes rounds up, so that only nothing is nothing.
func mebibytes(kib int64) *int {
	n := int((kib + 1023) / 1024)
	return &n
}
