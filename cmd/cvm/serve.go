package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	controller "github.com/containervm/containervm/controller/daemon"
	hostd "github.com/containervm/containervm/hostd-bridge/daemon"
	"github.com/containervm/containervm/internal/version"
)

// hostConfig is how the host is started.
type hostConfig struct {
	listen string // address of the vSphere API
	guest  string // directory of the guest's artefacts
	accel  string // "", "kvm" or "tcg"

	templates, warm, prestart int

	hostGateway string // ports of the host's loopback, as hostd.ParsePorts reads them

	levels  logLevels
	capture bool // of what network cards send and receive
	pprof   bool // on the control socket
}

// addFlags declares the flags that `cvm up` and the background process share.
func (h *hostConfig) addFlags(cmd *cobra.Command) {
	h.addWhereFlags(cmd)
	cmd.Flags().IntVar(&h.templates, "templates", controller.DefaultTemplates, "keep at most `N` templates for containers to be forked from; 0: every container boots")
	cmd.Flags().IntVar(&h.warm, "warm", 1, "keep `N` machines forked ahead of time, which wait to be a container: some 50 MiB each; 0: none")
	cmd.Flags().IntVar(&h.prestart, "prestart", 1, "keep `N` emulators started ahead of time for each template; 0: none")
	cmd.Flags().StringVar(&h.hostGateway, "host-gateway", "", "let containers with --add-host NAME:host-gateway reach `PORTS` of this machine's loopback, as in 5432,8000-8010,53/udp (default: none)")
	h.levels = logLevels{}
	cmd.Flags().Var(h.levels, "log", "`LEVELS` of the logs: debug, or hostd-bridge, controller, supervisor or tether with one each, as in tether=debug,controller=warn (default info)")
	cmd.Flags().BoolVar(&h.capture, "capture", false, "write what each machine's network cards send and receive to vm/*/nic*.pcap in --run, while it runs")
	cmd.Flags().BoolVar(&h.pprof, "pprof", false, "serve profiles of the host's process on its control socket, cvm.sock in --run")
}

// addWhereFlags declares those of them by which the host is found on this machine.
func (h *hostConfig) addWhereFlags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&h.listen, "listen", "127.0.0.1:8989", "`ADDRESS` of the vSphere API")
	cmd.Flags().StringVar(&h.guest, "guest", os.Getenv("CVM_GUEST_DIR"), "`DIR` of kernel, initramfs and blank disk (default: guest, beside this program; environment: CVM_GUEST_DIR)")
	cmd.Flags().StringVar(&h.accel, "accel", "", "`NAME` of the accelerator: kvm or tcg (default: kvm when a trial shows that it works)")
}

// check refuses numbers that mean nothing.
func (h *hostConfig) check() error {
	for flag, n := range map[string]int{"--templates": h.templates, "--warm": h.warm, "--prestart": h.prestart} {
		if n < 0 || n > maxKept {
			return fmt.Errorf("cannot use %d for %s: want a number from 0 to %d", n, flag, maxKept)
		}
	}
	if _, err := hostd.ParsePorts(h.hostGateway); err != nil {
		return fmt.Errorf("--host-gateway: %w", err)
	}
	return nil
}

// maxKept is the most machines of a kind that may be kept for later.
const maxKept = 1000

// args are the flags that make another cvm use the same configuration.
func (h *hostConfig) args(p paths) []string {
	args := []string{"--state", p.State, "--run", p.Run, "--listen", h.listen, "--guest", h.guest, "--accel", h.accel,
		"--templates", strconv.Itoa(h.templates), "--warm", strconv.Itoa(h.warm), "--prestart", strconv.Itoa(h.prestart)}
	if h.hostGateway != "" {
		args = append(args, "--host-gateway", h.hostGateway)
	}
	if len(h.levels) > 0 {
		args = append(args, "--log", h.levels.String())
	}
	if h.capture {
		args = append(args, "--capture")
	}
	if h.pprof {
		args = append(args, "--pprof")
	}
	return args
}

// serveCommand is the process behind `cvm up`. It tells its parent of progress on descriptor 3.
func serveCommand(a *app) *cobra.Command {
	var h hostConfig
	cmd := &cobra.Command{
		Use:    "serve",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			report := newReporter(os.NewFile(reportFD, "report"))
			logs, err := openLog(a.paths.logFile())
			if err != nil {
				return report.fail(err)
			}
			return report.fail(serve(cmd.Context(), a.paths, h, h.loggers(logs, report), report.ready))
		},
	}
	h.addFlags(cmd)
	return cmd
}

// loggers makes the loggers of the parts, which write to w at their levels and pass everything on to more.
func (h *hostConfig) loggers(w io.Writer, more ...slog.Handler) func(part string) *slog.Logger {
	return func(part string) *slog.Logger {
		text := slog.NewTextHandler(w, &slog.HandlerOptions{Level: h.levels[part]})
		return slog.New(append(fanout{text}, more...)).With("part", part)
	}
}

// serve runs the host until ctx ends or someone asks for a shutdown. The virtual machines go on running.
func serve(ctx context.Context, p paths, h hostConfig, logger func(part string) *slog.Logger, ready func(hostStatus)) error {
	hostLock, err := lock(p.lockFile(), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("cannot use the state directory %s: another cvm uses it", p.State)
	}
	if err != nil {
		return err
	}
	defer runtime.KeepAlive(hostLock) // closed by the end of this process: who waits for the lock finds no process any more
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("cannot find this program's own path: %w", err)
	}
	socket, err := listenControl(p.controlSocket())
	if err != nil {
		return err
	}
	defer socket.Close()

	ctx, shutdown := context.WithCancel(ctx)
	defer shutdown()
	ports, err := hostd.ParsePorts(h.hostGateway)
	if err != nil {
		return err
	}
	config := hostd.Config{
		StateDir: p.State, RunDir: p.Run, Listen: h.listen, Accel: h.accel,
		GuestDir:   firstSet(h.guest, filepath.Join(filepath.Dir(exe), "guest")),
		Supervisor: filepath.Join(filepath.Dir(exe), "cvm-supervisor"),
		Switch:     filepath.Join(filepath.Dir(exe), "cvm-switch"),
		Prestart:   h.prestart,
		Capture:    h.capture,

		HostGateway: ports,

		DebugSupervisor: h.levels.debug(partSupervisor), DebugGuest: h.levels.debug(partTether),
		Log: logger(partHostd),
	}
	if config.Prestart == 0 {
		config.Prestart = -1 // its zero stands for the default
	}
	control := controller.Config{Socket: p.dockerSocket(), Templates: h.templates, Warm: h.warm, Log: logger(partController)}
	return runDaemons(ctx, config, control, func(e hostd.Endpoint) {
		status := newStatus(p, e)
		server := controlServer(status, h.pprof, shutdown)
		go server.Serve(socket) // ends with the listener, which serve closes
		ready(status)
	})
}

// runDaemons runs both daemons until ctx ends or one of them fails; the controller stops before the host under it.
func runDaemons(ctx context.Context, config hostd.Config, control controller.Config, ready func(hostd.Endpoint)) error {
	g, gctx := errgroup.WithContext(ctx)
	hostCtx, stopHost := context.WithCancel(context.WithoutCancel(ctx))
	endpoints := make(chan hostd.Endpoint, 1)
	hostEnded := make(chan struct{})
	g.Go(func() error {
		defer close(hostEnded)
		if err := hostd.Run(hostCtx, config, func(e hostd.Endpoint) { endpoints <- e }); err != nil && !errors.Is(err, context.Canceled) {
			return fmt.Errorf("hostd-bridge: %w%s", err, advice(err))
		}
		return nil
	})
	g.Go(func() error {
		defer stopHost()
		select {
		case e := <-endpoints:
			return runController(gctx, e, control, func() { ready(e) })
		case <-hostEnded:
			return nil
		case <-gctx.Done():
			return nil
		}
	})
	return g.Wait()
}

// advice is what can be done about a host that cannot start.
func advice(err error) string {
	if errors.Is(err, unix.EADDRINUSE) {
		return "; end what listens there (a host with another --state?), or choose another address by --listen"
	}
	return ""
}

func runController(ctx context.Context, e hostd.Endpoint, c controller.Config, ready func()) error {
	c.VSphereURL, c.Username, c.Password, c.CAFile = e.URL, e.Username, e.Password, e.CAFile
	if err := controller.Run(ctx, c, ready); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("controller: %w", err)
	}
	return nil
}

func newStatus(p paths, e hostd.Endpoint) hostStatus {
	s := hostStatus{
		PID: os.Getpid(), Version: version.String(), Started: time.Now(),
		State: p.State, Log: p.logFile(), DockerHost: "unix://" + p.dockerSocket(),
	}
	s.VSphere.URL, s.VSphere.Username, s.VSphere.Password, s.VSphere.CAFile = e.URL, e.Username, e.Password, e.CAFile
	s.Jail, s.Lacks = e.Jail, e.Lacks
	return s
}
