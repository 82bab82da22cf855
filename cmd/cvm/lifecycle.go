package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	gotemplate "text/template"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

// forEach does the same to several containers or images: it prints each name when it is done, tries them all and
// returns all that went wrong.
func forEach(a *app, verb string, names []string, do func(name string) error) error {
	var errs []error
	for _, name := range names {
		if err := do(name); err != nil {
			errs = append(errs, cannot(verb+" "+name, err))
			continue
		}
		fmt.Fprintln(a.out, name)
	}
	return errors.Join(errs...)
}

func startCommand(a *app) *cobra.Command {
	var attached, interactive bool
	cmd := &cobra.Command{
		Use:     "start [flags] CONTAINER...",
		Short:   "Start stopped containers",
		Example: "  cvm start r\n  cvm start -ai r",
		Args:    cobra.MinimumNArgs(1),
		RunE: a.withAPI(func(ctx context.Context, api *client.Client, args []string) error {
			if attached || interactive {
				if len(args) > 1 {
					return errors.New("cannot attach to more than one container")
				}
				return startAttached(ctx, a, api, args[0], interactive)
			}
			return forEach(a, "start", args, func(name string) error {
				_, err := api.ContainerStart(ctx, name, client.ContainerStartOptions{})
				return err
			})
		}),
	}
	cmd.Flags().BoolVarP(&attached, "attach", "a", false, "attach to its output and pass on signals")
	cmd.Flags().BoolVarP(&interactive, "interactive", "i", false, "attach standard input too")
	return cmd
}

func startAttached(ctx context.Context, a *app, api *client.Client, name string, interactive bool) error {
	c, err := api.ContainerInspect(ctx, name, client.ContainerInspectOptions{})
	if err != nil {
		return cannot("start "+name, err)
	}
	keys, err := parseDetachKeys("")
	if err != nil {
		return err
	}
	r := &running{app: a, api: api, id: c.Container.ID, tty: c.Container.Config.Tty, stdin: interactive && c.Container.Config.OpenStdin, keys: keys}
	return r.startAttached(ctx)
}

func stopCommand(a *app) *cobra.Command {
	var grace int
	var signal string
	var cmd *cobra.Command
	cmd = &cobra.Command{
		Use:   "stop [flags] CONTAINER...",
		Short: "Stop running containers in order",
		Long: `Send the main process its stop signal (SIGTERM, unless the image says otherwise), wait for the grace period, then end it
with SIGKILL and power the machine off.`,
		Example: "  cvm stop r\n  cvm stop -t 60 db",
		Args:    cobra.MinimumNArgs(1),
		RunE: a.withAPI(func(ctx context.Context, api *client.Client, args []string) error {
			o := client.ContainerStopOptions{Signal: signal}
			if cmd.Flags().Changed("time") {
				o.Timeout = &grace
			}
			return forEach(a, "stop", args, func(name string) error {
				_, err := api.ContainerStop(ctx, name, o)
				return err
			})
		}),
	}
	cmd.Flags().IntVarP(&grace, "time", "t", 10, "grace period in `SECONDS`; -1 waits for ever")
	cmd.Flags().StringVarP(&signal, "signal", "s", "", "`SIGNAL` to send in place of the stop signal")
	return cmd
}

func killCommand(a *app) *cobra.Command {
	var signal string
	cmd := &cobra.Command{
		Use:     "kill [flags] CONTAINER...",
		Short:   "Send a signal to the main process of containers",
		Example: "  cvm kill r\n  cvm kill -s HUP r",
		Args:    cobra.MinimumNArgs(1),
		RunE: a.withAPI(func(ctx context.Context, api *client.Client, args []string) error {
			return forEach(a, "kill", args, func(name string) error {
				_, err := api.ContainerKill(ctx, name, client.ContainerKillOptions{Signal: signal})
				return err
			})
		}),
	}
	cmd.Flags().StringVarP(&signal, "signal", "s", "KILL", "`SIGNAL`: a name or number")
	return cmd
}

func rmCommand(a *app) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "rm [flags] CONTAINER...",
		Short: "Remove containers with their disks and logs",
		Args:  cobra.MinimumNArgs(1),
		RunE: a.withAPI(func(ctx context.Context, api *client.Client, args []string) error {
			return forEach(a, "remove", args, func(name string) error {
				_, err := api.ContainerRemove(ctx, name, client.ContainerRemoveOptions{Force: force, RemoveVolumes: true})
				return err
			})
		}),
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "end a running container first")
	return cmd
}

func waitCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "wait CONTAINER...",
		Short: "Wait until containers have ended and print their exit statuses",
		Args:  cobra.MinimumNArgs(1),
		RunE: a.withAPI(func(ctx context.Context, api *client.Client, args []string) error {
			for _, name := range args {
				w := api.ContainerWait(ctx, name, client.ContainerWaitOptions{Condition: container.WaitConditionNotRunning})
				select {
				case res := <-w.Result:
					fmt.Fprintln(a.out, res.StatusCode)
				case err := <-w.Error:
					return cannot("wait for "+name, err)
				}
			}
			return nil
		}),
	}
}

func inspectCommand(a *app) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "inspect [flags] NAME...",
		Short: "Print all that is known of containers or images, as JSON",
		Example: `  cvm inspect r
  cvm inspect -f '{{.State.Pid}}' r
  cvm inspect -f '{{range .Fork.Receipt}}{{.name}} {{.micros}}{{"\n"}}{{end}}' r`,
		Args: cobra.MinimumNArgs(1),
		RunE: a.withAPI(func(ctx context.Context, api *client.Client, args []string) error {
			line, err := gotemplate.New("format").Option("missingkey=error").Parse(format)
			if err != nil {
				return fmt.Errorf("cannot read the format: %w", err)
			}
			var found []any
			for _, name := range args {
				v, err := inspect(ctx, api, name)
				if err != nil {
					return cannot("inspect "+name, err)
				}
				found = append(found, v)
			}
			if format == "" {
				return a.printJSON(found)
			}
			return a.printFormat(line, found)
		}),
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", "print this Go `TEMPLATE` of each, by the names of the JSON")
	return cmd
}

// printFormat prints each value by a template, which sees it as its JSON has it, and ends each with a new line.
func (a *app) printFormat(line *gotemplate.Template, values []any) error {
	for _, v := range values {
		text, err := json.Marshal(v)
		if err != nil {
			return err
		}
		var plain any
		dec := json.NewDecoder(bytes.NewReader(text))
		dec.UseNumber() // large numbers are printed as they are
		if err := dec.Decode(&plain); err != nil {
			return err
		}
		if err := line.Execute(a.out, plain); err != nil {
			return fmt.Errorf("cannot use the format: %w", err)
		}
		fmt.Fprintln(a.out)
	}
	return nil
}

// inspect looks for a container and then for an image of that name.
func inspect(ctx context.Context, api *client.Client, name string) (any, error) {
	c, err := api.ContainerInspect(ctx, name, client.ContainerInspectOptions{})
	if err == nil {
		return c.Raw, nil
	}
	if !isNotFound(err) {
		return nil, err
	}
	img, err := api.ImageInspect(ctx, name)
	if isNotFound(err) {
		return nil, errors.New("no container and no image has this name")
	}
	return img, err
}

// containerName is the name without the slash that the API puts before it.
func containerName(c container.Summary) string {
	if len(c.Names) == 0 {
		return shortID(c.ID)
	}
	return strings.TrimPrefix(c.Names[0], "/")
}
