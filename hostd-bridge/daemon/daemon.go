// Package daemon wires hostd-bridge: the vSphere API of one host.
package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/datastore"
	"github.com/containervm/containervm/hostd-bridge/internal/metrics"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/journal"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/vmhost"
	"github.com/containervm/containervm/internal/trusted"
)

// DefaultListen is where the API listens unless Config says otherwise.
const DefaultListen = "127.0.0.1:8989"

// Defaults of the pre-start pool: one machine of a template serves the next start, and about ten templates can have one.
const (
	DefaultPrestart          = 1
	DefaultPrestartMemoryMiB = 256
)

// stopTimeout bounds how long a stopping daemon waits for calls in flight. Nothing is lost when they are
// cut off: an upload is whole or not there.
const stopTimeout = time.Second

// Config says where the daemon keeps its state and what it runs.
type Config struct {
	StateDir   string // journal, credentials, certificates and the datastore, in hostd/
	RunDir     string // sockets of running machines, in vm/, and of networks' switches, in net/
	GuestDir   string // vmlinux, bzImage, initramfs.cpio, blank.vmdk and volume.vmdk
	Listen     string // host:port; empty: DefaultListen; port 0: any free one
	Supervisor string // path of the cvm-supervisor binary
	Switch     string // path of the cvm-switch binary; empty: beside Supervisor
	QEMU       string // path of qemu-system-x86_64; empty: looked up in PATH
	Accel      string // kvm or tcg; empty: KVM if a trial shows that it works
	// NoDiskAtFork refuses disks in InstantClone_Task, as a vCenter does: clients then add them to the clone.
	NoDiskAtFork bool
	// NoNetworks does not name the extension networks, as a host without it: clients then bring packets into networks themselves.
	NoNetworks bool
	// Prestart is how many machines are kept prestarted for each template in use; 0: DefaultPrestart; negative: none.
	// PrestartMemoryMiB bounds what they take, all together; 0: DefaultPrestartMemoryMiB.
	Prestart, PrestartMemoryMiB int
	// HostGateway is which ports of the host's loopback VMs may reach that ask for it; empty: none.
	HostGateway []hostapi.PortRange
	// Capture writes what each network card sends and receives to nic<N>.pcap in the machine's run directory.
	Capture bool
	// DebugSupervisor and DebugGuest have debug records in each machine's supervisor.log and console.log.
	DebugSupervisor, DebugGuest bool
	Log                         *slog.Logger
}

// ParsePorts reads what HostGateway is to be, as people write it: "5432,8000-8010,53/udp".
func ParsePorts(text string) ([]hostapi.PortRange, error) { return hostapi.ParsePortRanges(text) }

// Endpoint is how a client reaches the daemon.
type Endpoint struct {
	URL      string // https://host:port/sdk
	Username string
	Password string
	CAFile   string // certificate of the authority that signed the daemon's
	// Jail says how machines are kept from their host, and Lacks what of it this host lacks, for people.
	Jail  string
	Lacks []string
}

// Address returns the endpoint's host:port.
func (e Endpoint) Address() string {
	return strings.TrimSuffix(strings.TrimPrefix(e.URL, "https://"), "/sdk")
}

// Backend realises machines and networks, and makes disks.
type Backend interface {
	vm.Hypervisor
	vm.Disks
	vm.Switches
}

// RunOn runs the daemon on a given backend until ctx ends; the machines go on running. It calls ready when clients can
// connect.
func RunOn(ctx context.Context, c Config, backend Backend, ready func(Endpoint)) (err error) {
	h, err := open(ctx, c, backend)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.close()) }()
	return h.serve(ctx, ready)
}

// host is everything that is open while the daemon runs, in the order in which it was opened.
type host struct {
	Config
	lock      *os.File
	identity  *identity
	store     *datastore.Store
	journal   *journal.Journal
	metrics   *metrics.Metrics
	inventory *vmhost.Host
}

// dir is the daemon's own directory.
func (c *Config) dir() string { return filepath.Join(c.StateDir, "hostd") }

func (c *Config) datastore() string { return filepath.Join(c.dir(), "datastore") }

func open(ctx context.Context, c Config, backend Backend) (_ *host, err error) {
	if c.Listen == "" {
		c.Listen = DefaultListen
	}
	c.Prestart = max(0, cmp.Or(c.Prestart, DefaultPrestart))
	c.PrestartMemoryMiB = cmp.Or(c.PrestartMemoryMiB, DefaultPrestartMemoryMiB)
	h := &host{Config: c, metrics: metrics.New()}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.close())
		}
	}()
	for _, step := range []func() error{h.makeDirs, h.takeLock, h.openIdentity, h.openStore, h.openJournal} {
		if err := step(); err != nil {
			return h, err
		}
	}
	boot, err := seed(h.store, c.GuestDir)
	if err != nil {
		return h, err
	}
	return h, h.openInventory(ctx, backend, boot)
}

func (h *host) makeDirs() error {
	for _, dir := range []string{h.dir(), h.machines()} {
		if err := trusted.MakeDir(dir); err != nil {
			return err
		}
	}
	return nil
}

func (h *host) machines() string { return filepath.Join(h.RunDir, "vm") }

// takeLock makes sure that no other daemon works on the same state. The kernel drops the lock when the process ends.
func (h *host) takeLock() (err error) {
	path := filepath.Join(h.dir(), "lock")
	if h.lock, err = trusted.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return fmt.Errorf("cannot open the lock file: %w", err)
	}
	err = unix.Flock(int(h.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("another hostd-bridge works on %s: stop it first, or use another state directory", h.StateDir)
	}
	if err != nil {
		return fmt.Errorf("cannot lock %s: %w", path, err)
	}
	return nil
}

func (h *host) openIdentity() (err error) {
	h.identity, err = openIdentity(h.dir())
	return err
}

func (h *host) openStore() (err error) {
	h.store, err = datastore.Open(h.datastore())
	return err
}

func (h *host) openJournal() (err error) {
	h.journal, err = journal.Open(filepath.Join(h.dir(), "journal"))
	return err
}

func (h *host) openInventory(ctx context.Context, backend Backend, boot *hostapi.BootFiles) (err error) {
	memory, err := hostMemory()
	if err != nil {
		return err
	}
	h.inventory, err = vmhost.Open(ctx, vmhost.Options{
		Journal: h.journal, Store: h.store, Hypervisor: backend, Disks: backend, RunDir: h.machines(),
		Switches: backend, NetDir: filepath.Join(h.RunDir, "net"), HostGateway: h.HostGateway,
		HostMemoryMiB: memory, HostCPUs: runtime.NumCPU(), Blank: boot.Blank, Log: h.Log,
		Prestart: h.Prestart, PrestartMemoryMiB: h.PrestartMemoryMiB, Observe: h.metrics.Observe,
	})
	if err != nil {
		return fmt.Errorf("cannot open the inventory: %w", err)
	}
	h.metrics.Watch(h.inventory)
	return nil
}

// hostMemory returns the host's memory in MiB.
func hostMemory() (int64, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0, fmt.Errorf("cannot read the host's memory: %w", err)
	}
	return int64(info.Totalram) * int64(info.Unit) >> 20, nil
}

// close closes what is open, in reverse.
func (h *host) close() error {
	var errs []error
	if h.inventory != nil {
		errs = append(errs, h.inventory.Close())
	}
	if h.journal != nil {
		errs = append(errs, h.journal.Close())
	}
	if h.store != nil {
		errs = append(errs, h.store.Close())
	}
	if h.lock != nil {
		errs = append(errs, h.lock.Close())
	}
	return errors.Join(errs...)
}
