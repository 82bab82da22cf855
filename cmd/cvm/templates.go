package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/docker/go-units"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

func templatesCommand(a *app) *cobra.Command {
	var quiet, asJSON bool
	cmd := &cobra.Command{
		Use:   "templates [flags]",
		Short: "List the templates that containers are forked from",
		Long: `List the templates: machines that have booted, got ready to be any container, and stand still for ever.

There is one for each kernel, initramfs, memory size and number of CPUs, made when it is first wanted. Above the limit
(cvm up --templates) the one used longest ago goes. SHARED is the memory that its children have in common with it,
PRIVATE what they all together have of their own, in MiB; "-" is not known. --json also tells what their emulators take
beside the guests' memory (OverheadMiB).`,
		Example: `  cvm templates
  cvm templates --json | jq '.[].Name'
  cvm templates rm cvm-template-0123456789ab`,
		Args: cobra.NoArgs,
		RunE: a.withAPI(func(ctx context.Context, api *client.Client, _ []string) error {
			list := measureTemplates
			if quiet && !asJSON {
				list = listTemplates
			}
			all, err := list(ctx, api)
			if err != nil {
				return cannot("list the templates", err)
			}
			if asJSON {
				return a.printJSON(all)
			}
			return printTemplates(a.out, all, quiet, time.Now())
		}),
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print only the names")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON array")
	cmd.AddCommand(templatesRmCommand(a))
	return cmd
}

func templatesRmCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "rm TEMPLATE...",
		Short: "Remove templates",
		Long: `Remove templates. Containers that were forked from one go on; the next container of its size boots, and has the template
made anew.`,
		Example:           "  cvm templates rm cvm-template-0123456789ab",
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: a.complete(templateNames),
		RunE: a.withAPI(func(ctx context.Context, api *client.Client, args []string) error {
			return forEach(a, "remove", args, func(name string) error {
				return extra(ctx, api, http.MethodDelete, "/templates/"+url.PathEscape(name), nil, nil)
			})
		}),
	}
}

func printTemplates(w io.Writer, list []template, quiet bool, now time.Time) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	if !quiet {
		fmt.Fprintln(t, "TEMPLATE\tMEMORY\tCPUS\tKERNEL\tTETHER\tSTATE\tCHILDREN\tWARM\tREADY\tSHARED\tPRIVATE\tAGE")
	}
	for _, x := range list {
		if quiet {
			fmt.Fprintln(t, x.Name)
			continue
		}
		fmt.Fprintln(t, strings.Join([]string{
			clip(x.Name, 40), fmt.Sprint(x.MemoryMiB), fmt.Sprint(x.CPUs), clip(path.Base(x.Kernel), 30), dash(clip(x.Version, 20)), x.State,
			fmt.Sprint(x.Children), fmt.Sprint(x.Warm), number(x.Prestarted), number(x.SharedMiB), number(x.PrivateMiB), age(now, x.Created),
		}, "\t"))
	}
	return t.Flush()
}

// number is a figure that may not be known.
func number(n *int) string {
	if n == nil {
		return "-"
	}
	return fmt.Sprint(*n)
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func age(now, since time.Time) string {
	if since.IsZero() {
		return "-"
	}
	return units.HumanDuration(now.Sub(since))
}
