// Command hostd-bridge serves the vSphere API of this host, and realises its VMs with QEMU.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/containervm/containervm/hostd-bridge/daemon"
	"github.com/containervm/containervm/internal/ready"
	"github.com/containervm/containervm/internal/version"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		os.Exit(1)
	}
}

func command() *cobra.Command {
	var c daemon.Config
	var verbose bool
	var prestart, readyFD int
	var hostGateway string
	bin := filepath.Dir(executable())
	cmd := &cobra.Command{
		Use:          "hostd-bridge",
		Short:        "Serve the vSphere API of this host, with VMs on QEMU",
		Long:         "Serve the vSphere API of this host, with VMs on QEMU.\n\nStopping it leaves the VMs running; the next one finds them again.",
		Args:         cobra.NoArgs,
		Version:      version.String(),
		SilenceUsage: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c.Log = logger(verbose)
			c.DebugSupervisor, c.DebugGuest = verbose, verbose
			if c.Prestart = prestart; prestart == 0 {
				c.Prestart = -1
			}
			var err error
			if c.HostGateway, err = daemon.ParsePorts(hostGateway); err != nil {
				return fmt.Errorf("--host-gateway: %w", err)
			}
			return daemon.Run(cmd.Context(), c, func(e daemon.Endpoint) {
				fmt.Fprintf(cmd.OutOrStdout(), "serving %s (user %s, CA %s)\n", e.URL, e.Username, e.CAFile)
				if err := ready.Say(readyFD, e); err != nil {
					c.Log.Warn("whoever started this daemon does not hear of it", "err", err)
				}
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&c.StateDir, "state", "/var/lib/containervm", "directory of the inventory, the datastore and the credentials")
	f.StringVar(&c.RunDir, "run", "/run/containervm", "directory of the running VMs' sockets")
	f.StringVar(&c.GuestDir, "guest", filepath.Join(bin, "guest"), "directory of vmlinux, bzImage, initramfs.cpio, blank.vmdk and volume.vmdk")
	f.StringVar(&c.Listen, "listen", daemon.DefaultListen, "address to listen on")
	f.StringVar(&c.Supervisor, "supervisor", filepath.Join(bin, "cvm-supervisor"), "path of the per-VM supervisor")
	f.StringVar(&c.Switch, "switch", filepath.Join(bin, "cvm-switch"), "path of the program that is a network's switch")
	f.StringVar(&hostGateway, "host-gateway", "", "ports of this host's loopback that VMs may reach that ask for it, as in 5432,8000-8010,53/udp (default: none)")
	f.StringVar(&c.QEMU, "qemu", "", "path of qemu-system-x86_64 (default: found in PATH)")
	f.StringVar(&c.Accel, "accel", "", "kvm or tcg (default: kvm if a trial shows that it works)")
	f.IntVar(&prestart, "prestart", daemon.DefaultPrestart, "machines kept ready for the next forks of each template in use; 0: none")
	f.IntVar(&c.PrestartMemoryMiB, "prestart-memory", daemon.DefaultPrestartMemoryMiB, "MiB that those may take in all")
	f.BoolVar(&c.NoDiskAtFork, "no-disk-at-fork", false, "refuse disks in InstantClone_Task, as a vCenter does")
	f.BoolVar(&c.Capture, "capture", false, "write what each network card sends and receives to nic<N>.pcap in the machine's directory below --run, while it runs")
	f.IntVar(&readyFD, "ready-fd", -1, "inherited descriptor to write the endpoint to, password included, as a line of JSON when it serves")
	f.BoolVarP(&verbose, "verbose", "v", false, "log debug records too, also in the logs of each machine's supervisor and guest")
	return cmd
}

// executable returns the path of this program; the artefacts of the build lie beside it.
func executable() string {
	path, err := os.Executable()
	if err != nil {
		return os.Args[0]
	}
	return path
}

func logger(verbose bool) *slog.Logger {
	level := slog.LevelInfo
	if verbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
}
