package main

import (
	"context"
	"errors"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

func attachCommand(a *app) *cobra.Command {
	var keys string
	var noStdin bool
	cmd := &cobra.Command{
		Use:   "attach CONTAINER",
		Short: "Attach to a running container",
		Long: `Connect this terminal to the main process of a running container, until the process ends.

The exit status is that of the process. Ctrl-P Ctrl-Q detaches from a container with a terminal; without a terminal
signals such as Ctrl-C are passed on to the process.`,
		Args: cobra.ExactArgs(1),
		RunE: a.withAPI(func(ctx context.Context, api *client.Client, args []string) error {
			return attach(ctx, a, api, args[0], keys, !noStdin)
		}),
	}
	cmd.Flags().StringVar(&keys, "detach-keys", defaultDetachKeys, "`KEYS` that detach from the container")
	cmd.Flags().BoolVar(&noStdin, "no-stdin", false, "do not attach standard input")
	return cmd
}

func attach(ctx context.Context, a *app, api *client.Client, name, keys string, stdin bool) error {
	detachKeys, err := parseDetachKeys(keys)
	if err != nil {
		return err
	}
	c, err := api.ContainerInspect(ctx, name, client.ContainerInspectOptions{})
	if err != nil {
		return cannot("attach to "+name, err)
	}
	if !c.Container.State.Running {
		return cannot("attach to "+name, errors.New("it is not running; start it with `cvm start`"))
	}
	r := &running{app: a, api: api, id: c.Container.ID, tty: c.Container.Config.Tty, stdin: stdin && c.Container.Config.OpenStdin, keys: detachKeys}
	return r.attach(ctx)
}

// attach is for a container that runs already.
func (r *running) attach(ctx context.Context) error {
	conn, err := r.api.ContainerAttach(ctx, r.id, client.ContainerAttachOptions{Stream: true, Stdin: r.stdin, Stdout: true, Stderr: true, DetachKeys: r.keys.text})
	if err != nil {
		return cannot("attach to the container", err)
	}
	waitCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	wait := r.api.ContainerWait(waitCtx, r.id, client.ContainerWaitOptions{Condition: container.WaitConditionNotRunning})
	return r.foreground(context.WithoutCancel(ctx), conn.HijackedResponse, wait)
}
