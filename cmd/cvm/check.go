package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"text/tabwriter"

	"github.com/spf13/cobra"

	hostd "github.com/containervm/containervm/hostd-bridge/daemon"
	"github.com/containervm/containervm/internal/printable"
)

func checkCommand(a *app) *cobra.Command {
	var h hostConfig
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Look at this machine: what the host would use, and what to do",
		Long: `Look at this machine once, as "cvm up" does: KVM, QEMU, the jail around machines, control groups, vsock, memory, disk and ports. Nothing is
changed, and no container is started; a host that runs is left alone.

Each line is ok, less (containers run, slower or less protected) or missing (they do not run). The exit status is 0 unless something is
missing, and then 1.`,
		Example: `  cvm check
  cvm check --json | jq '.[] | select(.state != "ok")'
  sudo cvm check   # root's machines have more`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			exe, err := os.Executable()
			if err != nil {
				return fmt.Errorf("cannot find this program's own path: %w", err)
			}
			findings, err := hostd.Check(cmd.Context(), hostd.Config{
				StateDir: a.paths.State, RunDir: a.paths.Run, Listen: h.listen, Accel: h.accel,
				GuestDir:   firstSet(h.guest, filepath.Join(filepath.Dir(exe), "guest")),
				Supervisor: filepath.Join(filepath.Dir(exe), "cvm-supervisor"),
			})
			if err != nil {
				return err
			}
			if asJSON {
				err = a.printJSON(findings)
			} else {
				err = printFindings(a.out, findings)
			}
			if err != nil {
				return err
			}
			for _, f := range findings {
				if f.State == hostd.Missing {
					return &exitError{code: 1}
				}
			}
			return nil
		},
	}
	h.addWhereFlags(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON array")
	return cmd
}

func printFindings(w io.Writer, findings []hostd.Finding) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, f := range findings {
		fmt.Fprintf(t, "%s\t%s\t%s\n", f.Subject, f.State, printable.Line(f.Found))
		if f.Advice != "" {
			fmt.Fprintf(t, "\t\tbetter: %s\n", printable.Line(f.Advice))
		}
	}
	return t.Flush()
}
