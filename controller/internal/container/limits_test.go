package container

import (
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"

	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

func ptr[T any](v T) *T { return &v }

func TestCapabilities(t *testing.T) {
	all := capabilityCount()
	for name, c := range map[string]struct {
		h          container.HostConfig
		kept       int // -1: no message, which is all
		has, lacks string
		fails      string
	}{
		"none asked for":      {container.HostConfig{}, -1, "", "", ""},
		"added to all":        {container.HostConfig{CapAdd: []string{"NET_ADMIN"}}, -1, "", "", ""},
		"one dropped":         {container.HostConfig{CapDrop: []string{"chown"}}, all - 1, "CAP_KILL", "CAP_CHOWN", ""},
		"all dropped":         {container.HostConfig{CapDrop: []string{"all"}}, 0, "", "CAP_CHOWN", ""},
		"all but":             {container.HostConfig{CapDrop: []string{"ALL"}, CapAdd: []string{"net_admin", "CAP_CHOWN"}}, 2, "CAP_NET_ADMIN", "CAP_KILL", ""},
		"dropped and added":   {container.HostConfig{CapDrop: []string{"KILL"}, CapAdd: []string{"KILL"}}, all, "CAP_KILL", "", ""},
		"all added, less one": {container.HostConfig{CapDrop: []string{"KILL"}, CapAdd: []string{"ALL"}}, all - 1, "CAP_CHOWN", "CAP_KILL", ""},
		"privileged":          {container.HostConfig{Privileged: true, CapDrop: []string{"ALL"}}, -1, "", "", ""},
		"unknown added":       {container.HostConfig{CapAdd: []string{"foo"}}, 0, "", "", `invalid CapAdd: unknown capability: "CAP_FOO"`},
		"unknown dropped":     {container.HostConfig{CapDrop: []string{""}}, 0, "", "", `invalid CapDrop: unknown capability: "CAP_"`},
	} {
		got, err := capabilities(&c.h)
		if c.fails != "" {
			if !errdefs.IsInvalidArgument(err) || err.Error() != c.fails {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		kept := -1
		if got != nil {
			kept = len(got.Names)
		}
		if err != nil || kept != c.kept || c.has != "" && !slices.Contains(got.Names, c.has) || c.lacks != "" && slices.Contains(got.Names, c.lacks) {
			t.Errorf("%s: %d kept, want %d: %v, %v", name, kept, c.kept, got, err)
		}
	}
}

func capabilityCount() int {
	c, _ := capabilities(&container.HostConfig{CapDrop: []string{"KILL"}})
	return len(c.Names) + 1
}

// Words are those of dockerd 20.10 and 28, but where only a containerVM has the limit.
func TestCheckLimits(t *testing.T) {
	resources := func(r container.Resources) container.HostConfig { return container.HostConfig{Resources: r} }
	for want, h := range map[string]container.HostConfig{
		"Invalid value 1001, range for oom score adj is [-1000, 1000]":                    {OomScoreAdj: 1001},
		"SHM size can not be less than 0":                                                 {ShmSize: -1},
		"invalid umask 1000: must be 0 to 0777":                                           {Umask: ptr(uint32(0o1000))},
		"sysctl 'kernel.hostname' is not allowed: the container's names are":              {Sysctls: map[string]string{"net.a": "1", "kernel.hostname": "x"}},
		"sysctl 'net/../x' is not allowed: it is no name of a kernel parameter":           {Sysctls: map[string]string{"net/../x": "1"}},
		`masked and read-only paths must be absolute: "proc"`:                             {MaskedPaths: []string{"/a"}, ReadonlyPaths: []string{"proc"}},
		"You should always set the Memory limit when using Memoryswap limit, see usage":   resources(container.Resources{MemorySwap: 1 << 30}),
		"invalid memory swap -2":                                                          resources(container.Resources{Memory: 1 << 30, MemorySwap: -2}),
		"bytes of swap, at most 34359738368 are possible":                                 resources(container.Resources{Memory: 1 << 30, MemorySwap: 1 << 40}),
		"Invalid value: 101, valid memory swappiness range is 0-100":                      resources(container.Resources{MemorySwappiness: ptr(int64(101))}),
		"Minimum memory reservation allowed is 6MB":                                       resources(container.Resources{MemoryReservation: 1 << 20}),
		"Minimum memory limit can not be less than memory reservation limit, see usage":   resources(container.Resources{Memory: 100 << 20, MemoryReservation: 200 << 20}),
		"a memory reservation of 1073741824 bytes is more than the machine's memory":      resources(container.Resources{MemoryReservation: 1 << 30}),
		"the minimum allowed cpu-shares is 2":                                             resources(container.Resources{CPUShares: 1}),
		"the maximum allowed cpu-shares is 262144":                                        resources(container.Resources{CPUShares: 1 << 20}),
		"invalid CPU shares (-1): value must be a positive integer":                       resources(container.Resources{CPUShares: -1}),
		"Requested CPUs are not available - requested 1, available: 0: they are those of": resources(container.Resources{CpusetCpus: "1"}),
		"Requested CPUs are not available - requested 0-2, available: 0-1":                resources(container.Resources{CpusetCpus: "0-2", NanoCPUs: 2e9}),
		"Invalid value x for cpuset cpus: invalid format: x":                              resources(container.Resources{CpusetCpus: "x"}),
		"Invalid value 2-1 for cpuset cpus: invalid format: 2-1":                          resources(container.Resources{CpusetCpus: "2-1"}),
		"Invalid value 0, for cpuset cpus: invalid format: 0,":                            resources(container.Resources{CpusetCpus: "0,"}),
		"Invalid value 0-65535 for cpuset cpus: value out of range":                       resources(container.Resources{CpusetCpus: "0-65535"}),
		"invalid ulimit name foo":                                                         resources(container.Resources{Ulimits: []*units.Ulimit{{Name: "foo"}}}),
		"invalid ulimit: null":                                                            resources(container.Resources{Ulimits: []*units.Ulimit{nil}}),
		"ulimit soft limit must be less than or equal to hard limit: 2 > 1":               resources(container.Resources{Ulimits: []*units.Ulimit{{Name: "nofile", Soft: 2, Hard: 1}}}),
		"invalid ulimit nofile: a limit must be -1 or more":                               resources(container.Resources{Ulimits: []*units.Ulimit{{Name: "nofile", Soft: -2, Hard: -2}}}),
	} {
		if err := checkLimits(&h); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	h := container.HostConfig{
		OomScoreAdj: -1000, ShmSize: 1, Umask: ptr(uint32(0)), Sysctls: map[string]string{"net.core.somaxconn": "1"}, MaskedPaths: []string{"/a"},
		Resources: container.Resources{
			Memory: 256 << 20, MemorySwap: 512 << 20, MemorySwappiness: ptr(int64(0)), MemoryReservation: 64 << 20, CPUShares: 2, NanoCPUs: 15e8,
			CpusetCpus: "0,1", PidsLimit: ptr(int64(-5)), Ulimits: []*units.Ulimit{{Name: "nofile", Soft: 1, Hard: -1}},
		},
	}
	if err := checkLimits(&h); err != nil {
		t.Error(err)
	}
}

// What a tether is told of limits; nothing of those that nobody asked for, so that a start does nothing for them.
func TestLimitSpec(t *testing.T) {
	var none, some tetherv1.Spec
	limitSpec(&none, &container.HostConfig{})
	if none.String() != (&tetherv1.Spec{}).String() {
		t.Errorf("%v", &none)
	}
	limitSpec(&some, &container.HostConfig{
		Privileged: true, ShmSize: 5, Init: ptr(true), Sysctls: map[string]string{"b.c": "2", "a.b": "1"}, MaskedPaths: []string{"/m"}, ReadonlyPaths: []string{"/r"},
		Resources: container.Resources{
			Memory: 100, MemorySwap: 150, MemoryReservation: 60, MemorySwappiness: ptr(int64(7)), CPUShares: 1024, CpusetCpus: "0", PidsLimit: ptr(int64(9)),
		},
	})
	want := &tetherv1.Spec{
		ShmBytes: 5, Init: true, AllDevices: true, MaskedPaths: []string{"/m"}, ReadOnlyPaths: []string{"/r"}, Cpus: "0", PidsLimit: 9,
		SwapBytes: 50, MemoryReservationBytes: 60, CpuWeight: 39,
		Sysctls: []*tetherv1.Sysctl{{Name: "a.b", Value: "1"}, {Name: "b.c", Value: "2"}, {Name: "vm.swappiness", Value: "7"}},
	}
	if some.String() != want.String() {
		t.Errorf("%v\n%v", &some, want)
	}
	for _, c := range []struct{ memory, swap, want int64 }{
		{0, 0, 0}, {1 << 30, 0, 0}, {1 << 30, 1 << 30, 0}, {1 << 30, 3 << 30, 2 << 30}, {1 << 30, -1, 2 << 30}, {0, -1, 1 << 30}, {1 << 40, -1, maxSwap},
	} {
		if got := swapBytes(&container.Resources{Memory: c.memory, MemorySwap: c.swap}); got != c.want {
			t.Errorf("%d bytes of swap for %+v", got, c)
		}
	}
	for shares, want := range map[int64]uint64{0: 0, 2: 1, 1024: 39, 262144: 10000} {
		if got := cpuWeight(shares); got != want {
			t.Errorf("%d shares are a weight of %d, not %d", shares, got, want)
		}
	}
}

func TestRestrict(t *testing.T) {
	h := &container.HostConfig{
		CapDrop: []string{"ALL"}, OomScoreAdj: 5, Umask: ptr(uint32(0o27)), SecurityOpt: []string{"no-new-privileges"},
		Resources: container.Resources{Ulimits: []*units.Ulimit{{Name: "core", Soft: -1, Hard: -1}}},
	}
	var p, privileged, plain tetherv1.Process
	Restrict(&p, h, false)
	if p.Capabilities == nil || len(p.Capabilities.Names) != 0 || !p.NoNewPrivileges || p.OomScoreAdj != 5 || p.GetUmask().GetMask() != 0o27 ||
		len(p.Rlimits) != 1 || p.Rlimits[0].Hard != 1<<64-1 {
		t.Errorf("%v", &p)
	}
	Restrict(&privileged, h, true)
	if privileged.Capabilities != nil || !privileged.NoNewPrivileges || privileged.OomScoreAdj != 5 {
		t.Errorf("%v", &privileged)
	}
	Restrict(&plain, &container.HostConfig{}, false)
	if plain.String() != (&tetherv1.Process{}).String() {
		t.Errorf("%v", &plain)
	}
	for options, want := range map[string]bool{
		"": false, "seccomp=unconfined": false, "no-new-privileges": true, "no-new-privileges:true": true, "no-new-privileges=true": true,
		"no-new-privileges=false": false, "no-new-privileges:maybe": false, "no-new-privileges,no-new-privileges=false": false,
	} {
		if got := forbidsPrivileges(strings.Split(options, ",")); got != want {
			t.Errorf("%q: %v", options, got)
		}
	}
}

// A list of CPUs that a client sends is refused, or is numbers in order that a machine may have.
func FuzzCPUSet(f *testing.F) {
	for _, seed := range []string{"", "0", "0-2,5", "2-1", ",", "-", "0-65535", "1,1,0", "+1", "٣"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		all, err := cpuSet(text)
		if err != nil {
			return
		}
		for i, n := range all {
			if n < 0 || n > maxCPUs || i > 0 && n <= all[i-1] {
				t.Errorf("%q is %v", text, all)
			}
		}
	})
}
