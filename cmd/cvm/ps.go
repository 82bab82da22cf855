package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/containervm/containervm/internal/printable"
)

func psCommand(a *app) *cobra.Command {
	var all, quiet, asJSON bool
	cmd := &cobra.Command{
		Use:     "ps [flags]",
		Short:   "List containers",
		Example: "  cvm ps -a\n  cvm ps --json | jq '.[].Id'",
		Args:    cobra.NoArgs,
		RunE: a.withAPI(func(ctx context.Context, api *client.Client, _ []string) error {
			list, err := api.ContainerList(ctx, client.ContainerListOptions{All: all})
			if err != nil {
				return cannot("list the containers", err)
			}
			if asJSON {
				return a.printJSON(list.Items)
			}
			return printContainers(a.out, list.Items, quiet, time.Now())
		}),
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "list stopped containers too")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print only the IDs")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON array")
	return cmd
}

func printContainers(w io.Writer, items []container.Summary, quiet bool, now time.Time) error {
	if quiet {
		for _, c := range items {
			fmt.Fprintln(w, shortID(c.ID))
		}
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, "ID\tIMAGE\tCOMMAND\tCREATED\tSTATUS\tADDRESS\tNAME")
	for _, c := range items {
		fmt.Fprintln(t, strings.Join([]string{
			shortID(c.ID), printable.Line(c.Image), clip(c.Command, 30), ago(now, c.Created), printable.Line(c.Status), address(c), printable.Line(containerName(c)),
		}, "\t"))
	}
	return t.Flush()
}

// address is the container's address in its first network that has one.
func address(c container.Summary) string {
	if c.NetworkSettings != nil {
		for _, n := range c.NetworkSettings.Networks {
			if n != nil && n.IPAddress.IsValid() {
				return n.IPAddress.String()
			}
		}
	}
	return "-"
}

func ago(now time.Time, unix int64) string {
	return units.HumanDuration(now.Sub(time.Unix(unix, 0))) + " ago"
}

// clip shortens text to at most n characters, the last of them an ellipsis.
func clip(text string, n int) string {
	runes := []rune(printable.Line(text))
	if len(runes) <= n {
		return string(runes)
	}
	return string(runes[:n-1]) + "…"
}
