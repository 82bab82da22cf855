package main

import (
	"context"
	"errors"
	"os"

	"github.com/moby/moby/client"
	"github.com/moby/term"
	"github.com/spf13/cobra"
)

// execOptions are the flags of `cvm exec`, in Docker's spelling.
type execOptions struct {
	interactive, tty, detach  bool
	env                       []string
	workdir, user, detachKeys string
}

func execCommand(a *app) *cobra.Command {
	var o execOptions
	cmd := &cobra.Command{
		Use:   "exec [flags] CONTAINER COMMAND [ARGUMENT...]",
		Short: "Run a command in a running container",
		Long:  `Run a command beside the main process of a running container. The exit status is that of the command.`,
		Example: `  cvm exec -it r sh
  echo data | cvm exec -i r sh -c 'cat >/tmp/file'`,
		Args: cobra.MinimumNArgs(2),
		RunE: a.withAPI(func(ctx context.Context, api *client.Client, args []string) error {
			return execIn(ctx, a, api, o, args[0], args[1:])
		}),
	}
	f := cmd.Flags()
	f.SetInterspersed(false)
	f.BoolVarP(&o.interactive, "interactive", "i", false, "keep standard input open")
	f.BoolVarP(&o.tty, "tty", "t", false, "give the command a terminal")
	f.BoolVarP(&o.detach, "detach", "d", false, "do not wait for the command")
	f.StringArrayVarP(&o.env, "env", "e", nil, "environment `NAME=VALUE`")
	f.StringVarP(&o.workdir, "workdir", "w", "", "working `DIR`")
	f.StringVarP(&o.user, "user", "u", "", "`USER[:GROUP]`, names or numbers")
	f.StringVar(&o.detachKeys, "detach-keys", defaultDetachKeys, "`KEYS` that detach from the command")
	return cmd
}

func execIn(ctx context.Context, a *app, api *client.Client, o execOptions, name string, command []string) error {
	if _, terminal := term.GetFdInfo(a.in); o.tty && o.interactive && !o.detach && !terminal {
		return errors.New("cannot give the command a terminal: standard input is not one; leave out -t")
	}
	keys, err := parseDetachKeys(o.detachKeys)
	if err != nil {
		return err
	}
	var size client.ConsoleSize
	if o.tty {
		size = a.size()
	}
	created, err := api.ExecCreate(ctx, name, client.ExecCreateOptions{
		Cmd: command, Env: expandEnv(o.env, os.LookupEnv), WorkingDir: o.workdir, User: o.user,
		TTY: o.tty, ConsoleSize: size, DetachKeys: keys.text, AttachStdin: o.interactive && !o.detach, AttachStdout: !o.detach, AttachStderr: !o.detach,
	})
	if err != nil {
		return cannot("run a command in "+name, err)
	}
	if o.detach {
		_, err := api.ExecStart(ctx, created.ID, client.ExecStartOptions{Detach: true, TTY: o.tty})
		return cannot("start the command in "+name, err)
	}
	return execAttached(ctx, a, api, created.ID, o, keys, size)
}

// execAttached starts the command, joins the streams and returns its exit status as the program's own.
func execAttached(ctx context.Context, a *app, api *client.Client, id string, o execOptions, keys detachKeys, size client.ConsoleSize) error {
	conn, err := api.ExecAttach(ctx, id, client.ExecAttachOptions{TTY: o.tty, ConsoleSize: size})
	if err != nil {
		return &exitError{startStatus(err), cannot("start the command", err)}
	}
	if o.tty {
		defer a.followSize(func(s client.ConsoleSize) {
			_, _ = api.ExecResize(ctx, id, client.ExecResizeOptions(s)) // it may have ended
		})()
	}
	s := &stream{app: a, conn: conn.HijackedResponse, tty: o.tty, stdin: o.interactive, detachKeys: keys.bytes}
	if err := s.run(ctx); errors.Is(err, errDetached) {
		return nil
	} else if err != nil {
		return err
	}
	end, err := api.ExecInspect(ctx, id, client.ExecInspectOptions{})
	if err != nil {
		return cannot("ask how the command ended", err)
	}
	if end.ExitCode != 0 {
		return &exitError{code: end.ExitCode}
	}
	return nil
}
