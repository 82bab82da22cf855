package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
)

func statusCommand(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Say whether the host runs, and where it listens",
		Long:  `Say whether the host runs and where it listens. The exit status is 0 when it runs and 3 when it does not.`,
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := runningHost(cmd.Context(), a.paths)
			switch {
			case errors.Is(err, errNotRunning):
				fmt.Fprintln(a.out, "containerVM is not running")
				return &exitError{code: exitNotRunning}
			case err != nil:
				return err
			case asJSON:
				s.VSphere.Password = "" // `cvm env` is the one place that shows it
				return a.printJSON(s)
			}
			printEndpoints(a.out, "running", s)
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

// exitNotRunning is the exit status of `cvm status` without a host: the LSB's status code for "not running".
const exitNotRunning = 3
