package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/containervm/containervm/tether/internal/boot"
	"github.com/containervm/containervm/tether/internal/forkpoint"
	"github.com/containervm/containervm/tether/internal/process"
	"github.com/containervm/containervm/tether/internal/rootfs"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// confine does what the Spec says of the container beyond its root and its mounts. It is called before the process starts, of a container
// without any wishes of the kind to no cost. booted: the disk may have been that of an earlier run.
func (i *instance) confine(root rootfs.Root, booted bool) error {
	s := i.spec
	limits := limitsOf(s)
	if limits != (process.Limits{}) {
		if err := i.container.SetLimits(limits); err != nil {
			return err
		}
	}
	if err := setSysctls(s.Sysctls); err != nil {
		return err
	}
	switch {
	case s.SwapBytes > 0:
		if err := i.swap.On(diskDir, s.SwapBytes); err != nil {
			return err
		}
		if err := boot.AllowSwap(); err != nil {
			return err
		}
	case booted:
		_ = rootfs.ClearSwap(diskDir) // it costs room alone
	}
	if s.AllDevices {
		devices, err := rootfs.FindDevices()
		if err == nil {
			err = i.container.Do(devices.Make)
		}
		if err != nil {
			return err
		}
	}
	if s.Init {
		if err := i.container.Do(linkInit); err != nil {
			return err
		}
	}
	i.container.Configure(process.Covers{Masked: s.MaskedPaths, ReadOnly: s.ReadOnlyPaths}, s.Init)
	if s.ReadOnlyRoot { // Docker makes the working directory before the root is read-only
		return i.container.Do(func() error { return makeCwd(root, s.GetProcess().GetCwd()) })
	}
	return nil
}

// limitsOf are those of a Spec.
func limitsOf(s *tetherv1.Spec) process.Limits {
	return process.Limits{Pids: max(s.PidsLimit, 0), CPUs: s.Cpus, MemoryLow: s.MemoryReservationBytes, CPUWeight: s.CpuWeight}
}

// setSysctls sets the kernel's parameters in order. The machine's namespaces are the container's.
func setSysctls(all []*tetherv1.Sysctl) error {
	for _, s := range all {
		path, err := link.SysctlPath(s.Name, s.Value)
		if err == nil {
			err = boot.SetSysctl(path, s.Value)
		}
		if err != nil {
			return fmt.Errorf("cannot set sysctl %s to %q: %w", s.Name, s.Value, err)
		}
	}
	return nil
}

// linkInit gives the tether's program, which the container has, the name by which it is an init.
func linkInit() error {
	err := os.Symlink(filepath.Base(forkpoint.Program), process.InitProgram)
	if os.IsExist(err) {
		return nil
	}
	return err
}

// makeCwd makes a working directory that is missing. One that cannot be made is refused when the process starts.
func makeCwd(root rootfs.Root, cwd string) error {
	cwd = filepath.Clean("/" + cwd)
	if _, err := os.Stat(cwd); !os.IsNotExist(err) {
		return nil
	}
	return root.Writable(func() error {
		_ = os.MkdirAll(cwd, 0o755) // see above
		return nil
	})
}
