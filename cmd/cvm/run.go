package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
	"github.com/moby/term"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/containervm/containervm/internal/printable"
)

// runOptions are the flags of `cvm run`, in Docker's spelling.
type runOptions struct {
	name, entrypoint, workdir, user, hostname, memory, cpus, detachKeys, runtime string
	env, label, dns                                                              []string
	interactive, tty, detach, remove, readOnly                                   bool
}

func runCommand(a *app) *cobra.Command {
	var o runOptions
	cmd := &cobra.Command{
		Use:   "run [flags] IMAGE [COMMAND [ARGUMENT...]]",
		Short: "Run a command in a new container",
		Long: `Run a command in a new container, which is a virtual machine of its own.

The exit status is that of the command; 125 when the container could not be made or started, 126 when the command cannot
be executed and 127 when it is not there. Ctrl-P Ctrl-Q leaves an interactive container running.`,
		Example: `  cvm run --rm busybox:demo echo hello
  cvm run -it --rm busybox:demo sh
  cvm run --rm --runtime boot busybox:demo uname -a
  cvm run -d --name db -m 256m --cpus 1 -e A=b -w /tmp -u 1000:1000 IMAGE COMMAND`,
		Args: cobra.MinimumNArgs(1),
		RunE: a.withAPI(func(ctx context.Context, api *client.Client, args []string) error {
			return run(ctx, a, api, o, args)
		}),
	}
	f := cmd.Flags()
	f.SetInterspersed(false) // flags behind the image are the command's own
	f.BoolVarP(&o.interactive, "interactive", "i", false, "keep standard input open")
	f.BoolVarP(&o.tty, "tty", "t", false, "give the command a terminal")
	f.BoolVarP(&o.detach, "detach", "d", false, "print the container's ID and return")
	f.BoolVar(&o.remove, "rm", false, "remove the container when it has ended")
	f.BoolVar(&o.readOnly, "read-only", false, "mount the container's root read-only")
	f.StringVar(&o.name, "name", "", "`NAME` of the container (default: the host chooses one)")
	f.StringVar(&o.hostname, "hostname", "", "`NAME` of the machine (default: the container's short ID)")
	f.StringVar(&o.entrypoint, "entrypoint", "", "`PROGRAM` to run in place of the image's entrypoint")
	f.StringArrayVarP(&o.env, "env", "e", nil, "environment `NAME=VALUE`; NAME alone passes on this one's")
	f.StringArrayVarP(&o.label, "label", "l", nil, "label `NAME=VALUE`")
	f.StringArrayVar(&o.dns, "dns", nil, "`ADDRESS` of a name server")
	f.StringVarP(&o.workdir, "workdir", "w", "", "working `DIR`; it is made when it is missing")
	f.StringVarP(&o.user, "user", "u", "", "`USER[:GROUP]`, names or numbers")
	f.StringVarP(&o.memory, "memory", "m", "", "`SIZE` of the machine's memory: 256m, 1g (default: the host's, 512m)")
	f.StringVar(&o.cpus, "cpus", "", "`NUMBER` of CPUs (default: the host's, 1)")
	f.StringVar(&o.runtime, "runtime", "", "how the machine comes up: `fork` from a template, waiting for it, or boot (default: fork when there is a template of the size, boot else)")
	_ = cmd.RegisterFlagCompletionFunc("runtime", cobra.FixedCompletions([]string{"fork", "boot"}, cobra.ShellCompDirectiveNoFileComp)) // the flag is there
	f.StringVar(&o.detachKeys, "detach-keys", defaultDetachKeys, "`KEYS` that detach from the container")
	return cmd
}

// config turns the flags into the API's two structures.
func (o runOptions) config(args []string, size client.ConsoleSize) (*container.Config, *container.HostConfig, error) {
	config := &container.Config{
		Image: args[0], Cmd: args[1:], Env: expandEnv(o.env, os.LookupEnv), Labels: pairs(o.label),
		Hostname: o.hostname, User: o.user, WorkingDir: o.workdir,
		Tty: o.tty, OpenStdin: o.interactive, StdinOnce: o.interactive && !o.detach,
		AttachStdin: o.interactive && !o.detach, AttachStdout: !o.detach, AttachStderr: !o.detach,
	}
	if o.entrypoint != "" {
		config.Entrypoint = []string{o.entrypoint}
	}
	host := &container.HostConfig{NetworkMode: network.NetworkDefault, AutoRemove: o.remove, ReadonlyRootfs: o.readOnly, Runtime: o.runtime}
	if o.tty {
		host.ConsoleSize = [2]uint{size.Height, size.Width}
	}
	var err error
	if host.Memory, err = parseMemory(o.memory); err != nil {
		return nil, nil, err
	}
	if host.NanoCPUs, err = parseCPUs(o.cpus); err != nil {
		return nil, nil, err
	}
	for _, text := range o.dns {
		addr, err := netip.ParseAddr(text)
		if err != nil {
			return nil, nil, fmt.Errorf("cannot use the name server: %w", err)
		}
		host.DNS = append(host.DNS, addr)
	}
	return config, host, nil
}

// parseMemory reads Docker's sizes into bytes; "" is 0, the host's default.
func parseMemory(text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	n, err := units.RAMInBytes(text)
	if err != nil || n <= 0 {
		return 0, fmt.Errorf("cannot use %q as memory: want a size above zero such as 256m or 1g", text)
	}
	return n, nil
}

// parseCPUs reads a decimal number of CPUs into billionths of a CPU, the API's unit; "" is 0, the host's default.
func parseCPUs(text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseFloat(text, 64)
	if err != nil || !(n > 0) || n > 1e6 {
		return 0, fmt.Errorf("cannot use %q as a number of CPUs: want a number above zero such as 2 or 1.5", text)
	}
	return int64(n * 1e9), nil
}

// expandEnv gives a name without a value the value that it has here, and drops it when it has none.
func expandEnv(env []string, lookup func(string) (string, bool)) []string {
	var out []string
	for _, e := range env {
		if strings.Contains(e, "=") {
			out = append(out, e)
		} else if v, ok := lookup(e); ok {
			out = append(out, e+"="+v)
		}
	}
	return out
}

func pairs(texts []string) map[string]string {
	m := make(map[string]string, len(texts))
	for _, t := range texts {
		name, value, _ := strings.Cut(t, "=")
		m[name] = value
	}
	return m
}

func run(ctx context.Context, a *app, api *client.Client, o runOptions, args []string) error {
	if _, terminal := term.GetFdInfo(a.in); o.tty && o.interactive && !o.detach && !terminal {
		return errors.New("cannot give the command a terminal: standard input is not one; leave out -t")
	}
	keys, err := parseDetachKeys(o.detachKeys)
	if err != nil {
		return err
	}
	config, host, err := o.config(args, a.size())
	if err != nil {
		return err
	}
	created, err := api.ContainerCreate(ctx, client.ContainerCreateOptions{Config: config, HostConfig: host, Name: o.name})
	if err != nil {
		return &exitError{exitNotStarted, cannot("create a container of "+args[0], err)}
	}
	for _, w := range created.Warnings {
		fmt.Fprintln(a.err, "cvm: warning:", printable.Text(w))
	}
	r := &running{app: a, api: api, id: created.ID, tty: o.tty, stdin: o.interactive, remove: o.remove, keys: keys}
	if o.detach {
		if err := r.start(ctx); err != nil {
			return err
		}
		fmt.Fprintln(a.out, created.ID)
		return nil
	}
	return r.startAttached(ctx)
}

// Exit statuses of a container that did not run, as Docker's command line has them.
const (
	exitNotStarted    = 125
	exitNotExecutable = 126
	exitNotFound      = 127
)

// running is a container of which this command is the foreground.
type running struct {
	app        *app
	api        *client.Client
	id         string
	tty, stdin bool
	remove     bool // the container goes when it ends, or when it cannot be started
	keys       detachKeys
}

// start starts the container; one that cannot be started, or whose start the user broke off, is removed if it was to be.
func (r *running) start(ctx context.Context) error {
	_, err := r.api.ContainerStart(ctx, r.id, client.ContainerStartOptions{})
	if err == nil {
		return nil
	}
	if r.remove || ctx.Err() != nil {
		cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		_, _ = r.api.ContainerRemove(cleanup, r.id, client.ContainerRemoveOptions{Force: true}) // may be gone already
	}
	return &exitError{startStatus(err), cannot("start the container", err)}
}

// startStatus chooses the exit status from the API's message, as Docker's command line does: the API has no field for it.
func startStatus(err error) int {
	text := err.Error()
	switch {
	case strings.Contains(text, "executable file not found"), strings.Contains(text, syscall.ENOENT.Error()):
		return exitNotFound
	case strings.Contains(text, syscall.EACCES.Error()), strings.Contains(text, syscall.EISDIR.Error()), strings.Contains(text, syscall.ENOEXEC.Error()):
		return exitNotExecutable
	}
	return exitNotStarted
}

// startAttached attaches and waits before it starts, so that no byte and no end is missed.
func (r *running) startAttached(ctx context.Context) error {
	conn, err := r.api.ContainerAttach(ctx, r.id, client.ContainerAttachOptions{
		Stream: true, Stdin: r.stdin, Stdout: true, Stderr: true, DetachKeys: r.keys.text,
	})
	if err != nil {
		return &exitError{exitNotStarted, cannot("attach to the container", err)}
	}
	condition := container.WaitConditionNextExit
	if r.remove {
		condition = container.WaitConditionRemoved
	}
	waitCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	wait := r.api.ContainerWait(waitCtx, r.id, client.ContainerWaitOptions{Condition: condition})
	if err := r.start(ctx); err != nil {
		conn.Close()
		return err
	}
	return r.foreground(context.WithoutCancel(ctx), conn.HijackedResponse, wait)
}

// foreground is the life of an attached container: its streams, the user's signals and terminal, its end.
func (r *running) foreground(ctx context.Context, conn client.HijackedResponse, wait client.ContainerWaitResult) error {
	if r.tty {
		defer r.app.followSize(func(s client.ConsoleSize) {
			_, _ = r.api.ContainerResize(ctx, r.id, client.ContainerResizeOptions(s)) // it may have ended
		})()
	} else {
		defer onSignals(proxied(), func(s os.Signal) {
			_, _ = r.api.ContainerKill(ctx, r.id, client.ContainerKillOptions{Signal: unix.SignalName(s.(syscall.Signal))}) // it may have ended
		}, func() {})()
	}
	s := &stream{app: r.app, conn: conn, tty: r.tty, stdin: r.stdin, detachKeys: r.keys.bytes}
	if err := s.run(ctx); errors.Is(err, errDetached) {
		return nil
	} else if err != nil {
		return err
	}
	return exitStatus(wait)
}

// exitStatus waits for the container's end and makes it the program's own.
func exitStatus(wait client.ContainerWaitResult) error {
	select {
	case res := <-wait.Result:
		if res.Error != nil && res.Error.Message != "" {
			return &exitError{exitNotStarted, fmt.Errorf("cannot run the container: %s", res.Error.Message)}
		}
		if res.StatusCode != 0 {
			return &exitError{code: int(res.StatusCode)}
		}
		return nil
	case err := <-wait.Error:
		return &exitError{exitNotStarted, cannot("wait for the container", err)}
	}
}
