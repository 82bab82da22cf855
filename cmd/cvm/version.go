package main

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/containervm/containervm/internal/version"
)

func versionCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the versions of cvm and of the host it talks to",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			fmt.Fprintf(a.out, "cvm   %s (%s, %s/%s)\n", version.String(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
			api, err := a.api()
			if err != nil {
				return err
			}
			defer api.Close()
			v, err := api.ServerVersion(cmd.Context(), client.ServerVersionOptions{})
			if errors.Is(cannot("", err), errNotRunning) {
				fmt.Fprintln(a.out, "host  not running")
				return nil
			}
			if err != nil {
				return cannot("ask the host for its version", err)
			}
			fmt.Fprintf(a.out, "host  %s (API %s, at least %s)\n", v.Version, v.APIVersion, v.MinAPIVersion)
			return nil
		},
	}
}
