package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/client"
	"github.com/moby/term"
	"github.com/spf13/cobra"
)

func isNotFound(err error) bool { return errdefs.IsNotFound(err) }

func imagesCommand(a *app) *cobra.Command {
	var quiet, asJSON bool
	cmd := &cobra.Command{
		Use:   "images [flags]",
		Short: "List images",
		Args:  cobra.NoArgs,
		RunE: a.withAPI(func(ctx context.Context, api *client.Client, _ []string) error {
			list, err := api.ImageList(ctx, client.ImageListOptions{})
			if err != nil {
				return cannot("list the images", err)
			}
			if asJSON {
				return a.printJSON(list.Items)
			}
			return printImages(a.out, list.Items, quiet, time.Now())
		}),
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print only the IDs")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON array")
	return cmd
}

func printImages(w io.Writer, items []image.Summary, quiet bool, now time.Time) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	if !quiet {
		fmt.Fprintln(t, "IMAGE\tID\tCREATED\tSIZE")
	}
	for _, i := range items {
		if quiet {
			fmt.Fprintln(t, shortID(i.ID))
			continue
		}
		tags := i.RepoTags
		if len(tags) == 0 {
			tags = []string{"<none>"}
		}
		for _, tag := range tags {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", clip(tag, 80), shortID(i.ID), ago(now, i.Created), units.HumanSize(float64(i.Size)))
		}
	}
	return t.Flush()
}

func loadCommand(a *app) *cobra.Command {
	var input string
	cmd := &cobra.Command{
		Use:   "load [-i FILE]",
		Short: "Load images from a docker-archive or OCI layout tar",
		Example: `  cvm load -i image.tar
  skopeo copy docker://busybox oci-archive:/dev/stdout | cvm load`,
		Args: cobra.NoArgs,
		RunE: a.withAPI(func(ctx context.Context, api *client.Client, _ []string) error {
			in, err := a.input(input)
			if err != nil {
				return err
			}
			defer in.Close()
			res, err := api.ImageLoad(ctx, in)
			if err != nil {
				return cannot("load the image", err)
			}
			defer res.Close()
			return cannot("load the image", a.showProgress(res))
		}),
	}
	cmd.Flags().StringVarP(&input, "input", "i", "", "`FILE` to read (default: standard input)")
	return cmd
}

// input opens a file; no name or "-" is standard input, which must not be a terminal.
func (a *app) input(name string) (io.ReadCloser, error) {
	if name != "" && name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("cannot read the archive: %w", err)
		}
		return f, nil
	}
	if _, terminal := term.GetFdInfo(a.in); terminal {
		return nil, errors.New("cannot read an archive from the terminal: name a file, or redirect standard input")
	}
	return io.NopCloser(a.in), nil
}

func importCommand(a *app) *cobra.Command {
	var o client.ImageImportOptions
	cmd := &cobra.Command{
		Use:   "import [flags] FILE|- [NAME[:TAG]]",
		Short: "Make an image from a tar of a root directory",
		Example: `  mmdebstrap --variant=minbase bookworm root.tar
  cvm import -c 'CMD ["/bin/bash"]' root.tar debian:bookworm`,
		Args: cobra.RangeArgs(1, 2),
		RunE: a.withAPI(func(ctx context.Context, api *client.Client, args []string) error {
			in, err := a.input(args[0])
			if err != nil {
				return err
			}
			defer in.Close()
			name := strings.Join(args[1:], "")
			res, err := api.ImageImport(ctx, client.ImageImportSource{Source: in, SourceName: "-"}, name, o)
			if err != nil {
				return cannot("import the image", err)
			}
			defer res.Close()
			return cannot("import the image", a.showProgress(res))
		}),
	}
	cmd.Flags().StringArrayVarP(&o.Changes, "change", "c", nil, "Dockerfile `INSTRUCTION` for the image's configuration (CMD, ENV, USER, ...)")
	cmd.Flags().StringVarP(&o.Message, "message", "m", "", "`TEXT` for the image's history")
	return cmd
}

func pullCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "pull NAME[:TAG|@DIGEST]",
		Short:   "Pull an image from a registry",
		Example: "  cvm pull busybox:1.37",
		Args:    cobra.ExactArgs(1),
		RunE: a.withAPI(func(ctx context.Context, api *client.Client, args []string) error {
			res, err := api.ImagePull(ctx, args[0], client.ImagePullOptions{})
			if err != nil {
				return cannot("pull "+args[0], err)
			}
			defer res.Close()
			return cannot("pull "+args[0], a.showProgress(res))
		}),
	}
}

func tagCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "tag IMAGE NAME[:TAG]",
		Short: "Give an image a further name",
		Args:  cobra.ExactArgs(2),
		RunE: a.withAPI(func(ctx context.Context, api *client.Client, args []string) error {
			_, err := api.ImageTag(ctx, client.ImageTagOptions{Source: args[0], Target: args[1]})
			return cannot("tag "+args[0], err)
		}),
	}
}

func rmiCommand(a *app) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "rmi [flags] IMAGE...",
		Short: "Remove images and the layers that no other image needs",
		Args:  cobra.MinimumNArgs(1),
		RunE: a.withAPI(func(ctx context.Context, api *client.Client, args []string) error {
			return forEach(a, "remove", args, func(name string) error {
				_, err := api.ImageRemove(ctx, name, client.ImageRemoveOptions{Force: force, PruneChildren: true})
				return err
			})
		}),
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "remove it although stopped containers use it")
	return cmd
}
