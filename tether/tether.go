package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
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
	// mountsDir is where the tether has volumes and the like.
	mountsDir = "/mounts"
	// generationFile is where the tether has the file that tells of forks.
	generationFile = "/generation"
	// stagingDir is where the container's file systems wait for its root.
	stagingDir = "/stage"
	// hostWait is how long the host may take for an answer before the machine gives up.
	hostWait = 30 * time.Second
	// flushWait is how long the host may take for all that was reported.
	flushWait = 5 * time.Second
)

// phase is a named step of the boot. The host sees its name in guestinfo, so that a machine that hangs tells where.
type phase struct {
	name string
	run  func(ctx context.Context) error
}

// tether is the machine's state. The goroutine of main owns it: it goes through the phases, and while the container runs it is the
// event loop (attend). Others see progress alone, and the loop does for them what they ask for by stops and forks.
type tether struct {
	version  string
	console  *slog.Logger
	cmdline  boot.Cmdline
	progress *progress
	reaper   *process.Reaper

	host     *guestinfo.Client   // nil until the host is found
	reporter *guestinfo.Reporter // nil until then
	vsock    bool                // the host is reached by vsock
	token    *guestinfo.Token    // whose connections are the tether's
	port     *os.File            // socket of the link; nil: not taken yet
	answered bool                // the host has answered

	instance   *instance             // the container; nil until the Spec is read
	base       rootfs.Root           // the zero Root: not found out yet
	ready      *place                // made by a template for the container of each child; nil: there is none
	generation *forkpoint.Generation // nil: the container cannot see it
	cards      *netconf.Cards        // nil until they are looked for
	clock      *wallClock            // nil until a container runs
	child      *child                // who the last fork made of this machine; nil: it was booted
	signals    <-chan os.Signal      // those that ask for the machine's end; nil: they are not listened for yet
}

func newTether(version string) *tether {
	return &tether{
		version: version, console: slog.New(newConsoleHandler(os.Stderr, slog.LevelInfo)),
		progress: newProgress(), reaper: process.NewReaper(), token: new(guestinfo.Token),
	}
}

func (t *tether) run(ctx context.Context, phases []phase) error {
	for _, p := range phases {
		t.progress.enter(p.name, t.console)
		if err := p.run(ctx); err != nil {
			return err
		}
	}
	return nil
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
	t.console = slog.New(newConsoleHandler(console, slog.LevelInfo))
	if t.cmdline, err = boot.ReadCmdline(); err != nil {
		return err
	}
	level, err := boot.LogLevel(t.cmdline)
	t.console = slog.New(newConsoleHandler(console, level))
	if err != nil {
		t.console.Warn("the log level stays as it is", "err", err)
	}
	go t.reaper.Run() // as long as the machine
	if err := boot.SlackenMonitor(); err != nil {
		t.console.Warn("the runtime's monitor takes time", "err", err)
	}
	if err := boot.LockMemory(); err != nil {
		t.console.Warn("the container can swap out the tether", "err", err)
	}
	if err := boot.SetSysctls(); err != nil {
		t.console.Warn("not all parameters of the kernel are set", "err", err)
	}
	return boot.Limits()
}

func (t *tether) findHost(ctx context.Context) error {
	transport, name, err := guestinfo.Detect(t.token)
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
	t.progress.tellTo(t.reporter)
	return nil
}

func (t *tether) readSpec(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, hostWait)
	defer cancel()
	text, err := t.host.Hello(ctx, link.KeySpec)
	if err == nil || errors.Is(err, link.ErrNoValue) {
		t.answered = true
		go t.reporter.Run(context.WithoutCancel(ctx)) // as long as the machine
		t.reporter.Set(link.KeyVersion, t.version)
	}
	if err != nil {
		return fmt.Errorf("cannot read what to run: %w", err)
	}
	spec, err := link.DecodeSpec(text)
	t.instance = &instance{spec: spec}
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

func (t *tether) setNames(context.Context) error { return identity.SetNames(t.instance.spec) }

func (t *tether) configureNetwork(context.Context) error {
	spec := t.instance.spec
	if err := t.findCards(spec.Interfaces); err != nil {
		return err
	}
	if address := identity.FirstAddress(spec); address != "" {
		t.reporter.Set(link.KeyIP, address)
	}
	return nil
}

// findCards finds the network cards, and makes the interfaces of them.
func (t *tether) findCards(interfaces []*tetherv1.Interface) (err error) {
	if t.cards, err = netconf.Find(); err == nil {
		err = t.cards.Configure(interfaces)
	}
	if err != nil {
		return &process.Error{Reason: tetherv1.Failure_NETWORK, Err: err}
	}
	return nil
}

func (t *tether) mountDisk(ctx context.Context) error {
	return t.instance.mountDisk(ctx, t.child != nil) // a fork's slot may have held another disk
}

func (t *tether) enterRoot(context.Context) error {
	base, err := t.rootBase()
	if err != nil {
		return err
	}
	place := t.ready
	t.ready = nil
	if place == nil {
		if place, err = newPlace(base); err != nil {
			return err
		}
	}
	return t.instance.enterRoot(base, place, t.reaper)
}

// rootBase is what the roots of all containers have alike: a template finds it out for its children.
func (t *tether) rootBase() (rootfs.Root, error) {
	if t.base.Dir != "" {
		return t.base, nil
	}
	processes, err := boot.MaxProcesses()
	if err != nil {
		return rootfs.Root{}, err
	}
	self, err := os.Executable()
	if err != nil {
		return rootfs.Root{}, err
	}
	programs := map[string]string{self: forkpoint.Program}
	if t.generation, err = forkpoint.MountGeneration(generationFile); err != nil {
		t.console.Warn("programs are not told of forks by a file", "err", err)
	} else {
		programs[generationFile] = forkpoint.GenerationFile
	}
	t.base = rootfs.Root{
		Dir: diskDir, Staging: stagingDir, MaxProcesses: processes,
		Dev: []string{forkpoint.Dir}, Programs: programs,
	}
	return t.base, nil
}

// startProcess mounts what the Spec wants first: a server can be reached now, and a fork's disks are there.
func (t *tether) startProcess(ctx context.Context) error {
	if err := t.takePort(); err != nil {
		return err
	}
	if err := t.cards.Settle(); err != nil { // it sees its own cards alone
		return &process.Error{Reason: tetherv1.Failure_NETWORK, Err: err}
	}
	spec := t.instance.spec
	base, err := t.rootBase()
	if err != nil {
		return err
	}
	if len(spec.Mounts)+len(spec.Files) > 0 {
		t.progress.enter("volumes", t.console)
		if err := t.instance.mountAll(ctx, base); err != nil {
			return err
		}
		t.progress.mark("mounted")
	}
	if err := t.instance.confine(t.instance.root(base), t.child == nil); err != nil {
		return err
	}
	return t.instance.start(t.instance.spec.Process, t.console)
}

func (t *tether) leaveRoot(context.Context) error {
	t.instance.leaveRoot()
	return nil
}

// setStatus tells the host of the main process.
func (t *tether) setStatus(s *tetherv1.Status) {
	if err := t.progress.setStatus(s); err != nil {
		t.console.Error("cannot report status", "err", err)
	}
}

// flush waits until the host knows all that was reported.
func (t *tether) flush(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, flushWait)
	defer cancel()
	if err := t.reporter.Flush(ctx); err != nil {
		t.console.Error("the host does not know all", "err", err)
	}
}

// fail tells everyone why the container never ran, or why a fork does not go on.
func (t *tether) fail(ctx context.Context, err error) {
	t.console.Error("failed", "phase", t.progress.Phase(), "err", err)
	if !t.answered {
		return
	}
	t.setStatus(&tetherv1.Status{State: tetherv1.State_FAILED, Failure: process.Failure(err)})
	t.flush(ctx)
}

// powerOff leaves the disk clean and ends the machine.
func (t *tether) powerOff() {
	boot.PowerOff(boot.PowerOffMethod(t.cmdline), func() {
		if t.instance != nil {
			t.instance.leaveRoot()
			lost := t.instance.unmountAll()
			if lost != nil {
				t.console.Warn("not all volumes are clean", "err", lost)
			}
			if err := t.instance.unmountDisk(); err != nil {
				t.console.Warn("the disk is not clean", "err", err)
			}
			if lost != nil && !t.instance.mounted {
				return // a sync would wait for a server that is gone
			}
		}
		unix.Sync()
	})
}
