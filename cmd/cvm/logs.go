package main

import (
	"context"
	"errors"
	"io"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

func logsCommand(a *app) *cobra.Command {
	o := client.ContainerLogsOptions{ShowStdout: true, ShowStderr: true}
	cmd := &cobra.Command{
		Use:   "logs [flags] CONTAINER",
		Short: "Print what a container has written",
		Long:  `Print what the main process of a container has written to standard output and standard error, also after its end.`,
		Example: `  cvm logs -f r
  cvm logs --tail 100 --timestamps r`,
		Args: cobra.ExactArgs(1),
		RunE: a.withAPI(func(ctx context.Context, api *client.Client, args []string) error {
			return logs(ctx, a, api, args[0], o)
		}),
	}
	f := cmd.Flags()
	f.BoolVarP(&o.Follow, "follow", "f", false, "go on until the container ends")
	f.BoolVarP(&o.Timestamps, "timestamps", "t", false, "begin each line with its time")
	f.StringVarP(&o.Tail, "tail", "n", "all", "`NUMBER` of last lines to print")
	f.StringVar(&o.Since, "since", "", "leave out what is older than this `TIME` or duration (2026-01-02T15:04:05, 10m)")
	f.StringVar(&o.Until, "until", "", "leave out what is newer than this `TIME` or duration")
	return cmd
}

func logs(ctx context.Context, a *app, api *client.Client, name string, o client.ContainerLogsOptions) error {
	c, err := api.ContainerInspect(ctx, name, client.ContainerInspectOptions{})
	if err != nil {
		return cannot("read the log of "+name, err)
	}
	r, err := api.ContainerLogs(ctx, c.Container.ID, o)
	if err != nil {
		return cannot("read the log of "+name, err)
	}
	defer r.Close()
	if c.Container.Config.Tty {
		_, err = io.Copy(a.out, r)
	} else {
		_, err = stdcopy.StdCopy(a.out, a.err, r)
	}
	if errors.Is(err, context.Canceled) {
		return &exitError{code: exitInterrupted}
	}
	return cannot("read the log of "+name, err)
}

// exitInterrupted is the shell's exit status of a program that SIGINT ended: 128 + 2.
const exitInterrupted = 130
