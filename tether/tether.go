package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/containervm/containervm/tether/internal/boot"
	"github.com/containervm/containervm/tether/internal/forkpoint"
	"github.com/containervm/containervm/tether/internal/guestinfo"
	"github.com/containervm/containervm/tether/internal/identity"
	"github.com/containervm/containervm/tether/internal/netconf"
	"github.com/containervm/containervm/tether/internal/process"
	"github.com/containervm/containervm/tether/internal/rootfs"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

const (
	// diskDir is where the tether has the root disk.
	diskDir = "/disk"
	// stagingDir is where the container's file systems wait for its root.
	stagingDir = "/stage"
	// hostWait is how long the host may take for an answer before the machine gives up.
	hostWait = 30 * time.Second
	// lastWords is how long the host may take for the final status.
	lastWords = 5 * time.Second
)

// phase is a named step of the boot. The host sees its name in guestinfo, so that a machine that hangs tells where.
type phase struct {
	name string
	run  func(ctx context.Context) error
}

// tether is what the phases build up. One goroutine goes through them; the agent sees phase and status alone.
type tether struct {
	version string
	console *slog.Logger
	cmdline boot.Cmdline
	phase   atomic.Value // string
	status  atomic.Pointer[tetherv1.Status]

	host      *guestinfo.Client   // nil until the host is found
	reporter  *guestinfo.Reporter // nil until then
	vsock     bool                // the host is reached by vsock
	heard     bool                // the host has answered
	spec      atomic.Pointer[tetherv1.Spec]
	disk      rootfs.Disk
	mounted   bool
	base      rootfs.Root // the zero Root: not found out yet
	reaper    *process.Reaper
	space     *process.Space // that the container will have; nil: none is made yet
	container *process.Container
	main      *process.Session

	timeline timeline
	late     *time.Timer // tells the host of a phase that a fork stays in
	telling  sync.Mutex  // the phase
	forked   atomic.Bool // this machine is a fork
	cards    netconf.Cards
	child    *child         // the last fork's; of the goroutine that makes it a machine of its own
	hold     *hold          // nil until the process is to run
	signals  chan os.Signal // those that ask for the machine's end; nil: they are not listened for yet
}

func newTether(version string) *tether {
	t := &tether{version: version, console: slog.New(newConsoleHandler(os.Stderr)), reaper: process.NewReaper()}
	t.phase.Store("")
	t.late = time.AfterFunc(time.Hour, t.tellPhase)
	t.late.Stop()
	t.status.Store(&tetherv1.Status{})
	return t
}

func (t *tether) run(ctx context.Context, phases []phase) error {
	for _, p := range phases {
		t.enter(p.name)
		if err := p.run(ctx); err != nil {
			return err
		}
	}
	return nil
}

// enter tells the console and the host of a phase.
func (t *tether) enter(name string) {
	t.phase.Store(name)
	t.timeline.mark(name)
	if t.forked.Load() {
		t.late.Reset(latePhase)
		return
	}
	t.console.Info(name)
	if t.reporter != nil {
		t.reporter.Set(link.KeyPhase, name)
	}
}

func (t *tether) mountEarly(context.Context) error {
	for _, m := range boot.Early() {
		if err := m.Create(); err != nil && !errors.Is(err, unix.EBUSY) { // the kernel may have mounted it
			return err
		}
	}
	// The container's namespace sees what is mounted here after it was made: the disk.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("cannot share mounts with the container: %w", err)
	}
	console, err := os.OpenFile("/dev/console", os.O_WRONLY|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	t.console = slog.New(newConsoleHandler(console))
	if t.cmdline, err = boot.ReadCmdline(); err != nil {
		return err
	}
	go t.reaper.Run()
	if err := boot.CalmMonitor(); err != nil {
		t.console.Warn("the runtime's monitor takes time", "err", err)
	}
	return boot.Limits()
}

func (t *tether) findHost(ctx context.Context) error {
	transport, name, err := guestinfo.Detect()
	if err != nil {
		return err
	}
	t.vsock = name == guestinfo.Vsock
	t.host = guestinfo.New(transport)
	t.reporter = guestinfo.NewReporter(func(ctx context.Context, key, value string) error {
		ctx, cancel := context.WithTimeout(ctx, hostWait)
		defer cancel()
		return t.host.Set(ctx, key, value)
	})
	return nil
}

func (t *tether) readSpec(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, hostWait)
	defer cancel()
	text, err := t.host.Get(ctx, link.KeySpec)
	if err == nil || errors.Is(err, link.ErrNoValue) {
		t.heard = true
		go t.reporter.Run(context.WithoutCancel(ctx))
		t.reporter.Set(link.KeyVersion, t.version)
	}
	if err != nil {
		return fmt.Errorf("cannot read what to run: %w", err)
	}
	spec, err := link.DecodeSpec(text)
	t.spec.Store(spec)
	return err
}

// setClock takes over the host's clock: many machines have none of their own. A host without one is no reason to stop.
func (t *tether) setClock(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, hostWait)
	defer cancel()
	if _, _, err := identity.SetClock(func() (time.Time, error) { return t.host.Time(ctx) }); err != nil {
		t.console.Warn("clock not set", "err", err)
	}
	return nil
}

func (t *tether) setNames(context.Context) error { return identity.SetNames(t.spec.Load()) }

func (t *tether) configureNetwork(context.Context) error {
	if err := netconf.Configure(t.spec.Load().Interfaces); err != nil {
		return &process.Error{Reason: tetherv1.Failure_NETWORK, Err: err}
	}
	if address := identity.FirstAddress(t.spec.Load()); address != "" {
		t.reporter.Set(link.KeyIP, address)
	}
	return nil
}

func (t *tether) mountDisk(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, rootfs.DiskWait)
	defer cancel()
	if t.disk, err = rootfs.WaitDisk(ctx); err == nil && t.forked.Load() {
		err = t.disk.Reread() // the slot may have held another one
	}
	if err == nil {
		err = t.disk.Mount(diskDir, 0, rootfs.DurableOptions)
	}
	if err != nil {
		return &process.Error{Reason: tetherv1.Failure_ROOT_DISK, Err: err}
	}
	t.mounted = true
	return nil
}

func (t *tether) enterRoot(context.Context) error {
	root, err := t.root()
	if err != nil {
		return err
	}
	if t.space == nil {
		if t.space, err = process.NewSpace(root.Stage); err != nil {
			return err
		}
	}
	space := t.space
	t.space = nil // the container's, or closed
	if err := space.Do(root.Enter); err != nil {
		space.Close()
		return &process.Error{Reason: tetherv1.Failure_ROOT_DISK, Err: err}
	}
	t.container, err = process.NewContainer(space, t.reaper, t.spec.Load().Hostname, rootfs.Cgroup)
	return err
}

// root says what the container's root is made of.
func (t *tether) root() (rootfs.Root, error) {
	if t.base.Dir == "" {
		var err error
		if t.base, err = baseRoot(); err != nil {
			return t.base, err
		}
	}
	r, spec := t.base, t.spec.Load()
	r.ReadOnly = spec.ReadOnlyRoot
	r.Files = []rootfs.File{
		{Path: "/etc/hostname", Text: identity.Hostname(spec)},
		{Path: "/etc/hosts", Text: identity.Hosts(spec)},
		{Path: "/etc/resolv.conf", Text: identity.ResolvConf(spec.Resolver)},
		{Path: "/etc/machine-id", Text: identity.MachineID(spec.Id)},
	}
	return r, nil
}

// baseRoot is what the roots of all containers have alike: a template finds it out for its children.
func baseRoot() (rootfs.Root, error) {
	processes, err := boot.MaxProcesses()
	if err != nil {
		return rootfs.Root{}, err
	}
	self, err := os.Executable()
	if err != nil {
		return rootfs.Root{}, err
	}
	return rootfs.Root{
		Dir: diskDir, Staging: stagingDir, MaxProcesses: processes,
		Dev: []string{forkpoint.Dir}, Programs: map[string]string{self: forkpoint.Program},
	}, nil
}

// setStatus tells the host of the main process.
func (t *tether) setStatus(s *tetherv1.Status) {
	s.Marks = t.timeline.marks()
	t.status.Store(s)
	text, err := link.EncodeStatus(s)
	if err != nil {
		t.console.Error("cannot report status", "err", err)
		return
	}
	t.reporter.Set(link.KeyStatus, text)
}

// flush waits until the host knows all that was reported.
func (t *tether) flush(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lastWords)
	defer cancel()
	if err := t.reporter.Flush(ctx); err != nil {
		t.console.Error("the host does not know all", "err", err)
	}
}

// fail tells everyone why the container never ran.
func (t *tether) fail(ctx context.Context, err error) {
	t.console.Error("failed", "phase", t.phase.Load(), "err", err)
	if !t.heard {
		return
	}
	t.setStatus(&tetherv1.Status{State: tetherv1.State_FAILED, Failure: process.Failure(err)})
	t.flush(ctx)
}

// powerOff leaves the disk clean and ends the machine.
func (t *tether) powerOff() {
	boot.PowerOff(boot.PowerOffMethod(t.cmdline), func() {
		if t.container != nil {
			t.container.Close()
		}
		if t.mounted {
			if err := unix.Unmount(diskDir, 0); err != nil {
				t.console.Warn("root disk not unmounted", "err", err)
			}
		}
		unix.Sync()
	})
}
