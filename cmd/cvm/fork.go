package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

// forkOptions are the flags of `cvm fork`.
type forkOptions struct {
	count   int
	name    string // prefix of the children's names
	image   string // what children of a template run
	atPoint bool
	notify  string // how the children's processes are told
	asJSON  bool
}

// templatePrefix begins the names of templates.
const templatePrefix = "cvm-template-"

func forkCommand(a *app) *cobra.Command {
	var o forkOptions
	cmd := &cobra.Command{
		Use:   "fork [flags] CONTAINER | TEMPLATE --image IMAGE [COMMAND [ARGUMENT...]]",
		Short: "Fork a running container, or containers from a template",
		Long: `Fork a running container into children that go on where it stands: its processes, memory and disk as they are, each child
with a name, addresses, random numbers and a clock of its own, and a copy of each volume. Its published ports are those of
the container at ports that the host chooses: see docker port. The container itself is held for a moment and goes on.
Connections that it had to the outside are reset in the children.

With --notify the children's processes are told of the fork while they stand, so that they can forget what they share with
others: keys, tokens, and what random generators in their memory would say next. SIGNAL goes to the main process, all:SIGNAL
to all processes, in each case to those alone that handle it; exec:COMMAND runs a program in the child, as the main process's
user, without network and for 10 seconds at most; its words are separated by spaces. A child that nobody of was told is not made.
See also /dev/cvm/generation (docs/forks-and-secrets.md).

With --at-point the fork waits until a process of the container asks for it.

A template has no process. Its children run IMAGE, detached, as "cvm run -d --runtime fork" would, with the template's
memory and CPUs. Flags of the command stand behind "--".

The receipt says what a child did to become someone else, and how long that took. The exit status is 1 when a child could
not be made; the others go on.`,
		Example: `  cvm fork db                          # one child, db-1
  cvm fork db -n 10 --name shard       # shard-1 to shard-10
  cvm fork db --notify all:USR1
  cvm fork db --at-point --json | jq '.[].Id'
  cvm fork cvm-template-0123456789ab -n 10 --image busybox:demo sleep 60`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: a.complete(runningNames, templateNames),
		RunE: a.withAPI(func(ctx context.Context, api *client.Client, args []string) error {
			return fork(ctx, a, api, o, args)
		}),
	}
	f := cmd.Flags()
	f.IntVarP(&o.count, "count", "n", 1, "`NUMBER` of children, at most 256")
	f.StringVar(&o.name, "name", "", "`PREFIX` of the children's names, before -1, -2 and so on (default: the container's name)")
	f.StringVar(&o.image, "image", "", "`IMAGE` that children of a template run")
	f.BoolVar(&o.atPoint, "at-point", false, "wait until a process of the container asks to be forked")
	f.StringVar(&o.notify, "notify", "", "tell the children's processes before they go on: `SIGNAL` to the main process, all:SIGNAL, or exec:COMMAND")
	f.BoolVar(&o.asJSON, "json", false, "print a JSON array")
	return cmd
}

func fork(ctx context.Context, a *app, api *client.Client, o forkOptions, args []string) error {
	name := args[0]
	template, err := isTemplate(ctx, api, name)
	var children []child
	switch {
	case err != nil:
	case o.count < 1 || o.count > 256:
		err = fmt.Errorf("want a number of children from 1 to 256, not %d", o.count)
	case template && o.image == "":
		err = errors.New("a template runs nothing by itself: name what its children run with --image IMAGE [COMMAND]")
	case template && o.notify != "":
		err = errors.New("a template has no process that could be told: leave out --notify")
	case template && o.atPoint:
		err = errors.New("a template has no process that could ask for a fork: leave out --at-point")
	case template:
		children, err = forkTemplate(ctx, a, api, o, args)
	case o.image != "" || len(args) > 1:
		err = errors.New("the children of a container go on with what it runs: leave out --image and the command")
	default:
		children, err = forkContainer(ctx, a, api, o, name)
	}
	if err != nil {
		return cannot("fork "+name, err)
	}
	if o.asJSON {
		err = a.printJSON(children)
	} else {
		err = printChildren(a.out, children)
	}
	return errors.Join(err, failedChildren(children))
}

// isTemplate reports whether a name means a template. A container may have a name that looks like one; then it is meant.
func isTemplate(ctx context.Context, api *client.Client, name string) (bool, error) {
	if !strings.HasPrefix(name, templatePrefix) {
		return false, nil
	}
	_, err := api.ContainerInspect(ctx, name, client.ContainerInspectOptions{})
	if isNotFound(err) {
		return true, nil
	}
	return false, err
}

// forkContainer asks for children of a running container. When the user breaks it off, the host undoes it.
func forkContainer(ctx context.Context, a *app, api *client.Client, o forkOptions, name string) ([]child, error) {
	body := struct {
		Count   int
		Names   []string `json:",omitempty"`
		AtPoint bool
		Notify  *notify `json:",omitempty"`
	}{Count: o.count, AtPoint: o.atPoint, Notify: parseNotify(o.notify)}
	if o.name != "" {
		body.Names = childNames(o.name, o.count)
	}
	line := newStatusLine(a.err)
	line.set(fmt.Sprintf("forking %s into %d", clip(name, 40), o.count))
	defer line.clear()
	var answer struct{ Children []child }
	err := extra(ctx, api, http.MethodPost, "/containers/"+url.PathEscape(name)+"/fork", body, &answer)
	return answer.Children, err
}

// notify is how processes are told, as the API takes it.
type notify struct {
	Signal  string   `json:",omitempty"`
	All     bool     `json:",omitempty"`
	Command []string `json:",omitempty"`
}

// parseNotify reads the value of --notify, which the host checks. nil: there is none.
func parseNotify(text string) *notify {
	if text == "" {
		return nil
	}
	if command, ok := strings.CutPrefix(text, "exec:"); ok {
		return &notify{Command: strings.Fields(command)}
	}
	sig, all := strings.CutPrefix(text, "all:")
	return &notify{Signal: sig, All: all}
}

func childNames(prefix string, n int) []string {
	var names []string
	for i := range n {
		names = append(names, fmt.Sprintf("%s-%d", prefix, i+1))
	}
	return names
}

// printChildren prints the children with the time that each took to become itself.
func printChildren(w io.Writer, children []child) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, "ID\tNAME\tGENERATION\tINDEX\tRECEIPT\tSLOWEST")
	for _, c := range children {
		if c.Error != "" {
			continue // said as an error
		}
		total, slowest := receiptTimes(c.Receipt)
		fmt.Fprintf(t, "%s\t%s\t%d\t%d\t%s\t%s\n", shortID(c.ID), clip(c.Name, 40), c.Generation, c.Index, total, slowest)
	}
	return t.Flush()
}

// receiptTimes are the sum of a receipt's times, and its item that took longest.
func receiptTimes(items []receiptItem) (total, slowest string) {
	sum, most := 0, -1
	for i, item := range items {
		sum += item.Micros
		if most < 0 || item.Micros > items[most].Micros {
			most = i
		}
	}
	if most < 0 {
		return "-", "-"
	}
	return micros(sum), clip(items[most].Name, 20) + " " + micros(items[most].Micros)
}

func micros(n int) string { return (time.Duration(n) * time.Microsecond).String() }

// failedChildren is an error that names the children that could not be made.
func failedChildren(children []child) error {
	var errs []error
	for _, c := range children {
		if c.Error != "" {
			errs = append(errs, fmt.Errorf("cannot make %s: %s", c.Name, c.Error))
		}
	}
	return errors.Join(errs...)
}
