package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

func downCommand(a *app) *cobra.Command {
	var keep bool
	cmd := &cobra.Command{
		Use:   "down",
		Short: "Stop the host of this machine",
		Long: `Stop all running containers, each with its grace period, and then the host.

Templates are ended too, and made anew by the next "cvm up". With --keep the containers' virtual machines and the
templates go on running, as they also do when the host is killed; the next "cvm up" finds them again. Stopped containers and images are kept in any case.`,
		Example: `  cvm down
  cvm down --keep      # for example to upgrade cvm under running containers`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return down(cmd.Context(), a, keep) },
	}
	cmd.Flags().BoolVar(&keep, "keep", false, "leave the containers running")
	return cmd
}

func down(ctx context.Context, a *app, keep bool) error {
	_, err := runningHost(ctx, a.paths)
	if errors.Is(err, errNotRunning) {
		fmt.Fprintln(a.out, "containerVM is not running")
		return nil
	}
	if err != nil {
		return err
	}
	if !keep {
		if err := endMachines(ctx, a); err != nil {
			return fmt.Errorf("%w; the host is still running (use --keep to stop it alone)", err)
		}
	}
	if err := controlCall(ctx, a.paths, http.MethodPost, "/shutdown", nil); err != nil {
		return err
	}
	if err := awaitEnd(ctx, a.paths); err != nil {
		return err
	}
	fmt.Fprintln(a.out, "containerVM stopped")
	return nil
}

// endMachines ends everything that runs on the host. Containers with a restart policy start with the host again.
func endMachines(ctx context.Context, a *app) error {
	if err := quiesce(ctx, a, "?containers=1"); err != nil {
		return cannot("announce the end of the host", err)
	}
	err := stopAll(ctx, a)
	if err == nil {
		err = cannot("end the idle machines", quiesce(ctx, a, ""))
	}
	if err != nil {
		return errors.Join(err, quiesce(context.WithoutCancel(ctx), a, "?containers=0"))
	}
	return nil
}

// stopAll stops every running container of the host, at the same time.
func stopAll(ctx context.Context, a *app) error {
	api, err := newAPI("unix://" + a.paths.dockerSocket())
	if err != nil {
		return err
	}
	defer api.Close()
	list, err := api.ContainerList(ctx, client.ContainerListOptions{})
	if err != nil {
		return cannot("list the running containers", err)
	}
	var g errgroup.Group
	lines := make(chan string)
	for _, c := range list.Items {
		name := containerName(c)
		g.Go(func() error {
			if _, err := api.ContainerStop(ctx, c.ID, client.ContainerStopOptions{}); err != nil {
				return cannot("stop "+name, err)
			}
			lines <- "stopped " + name
			return nil
		})
	}
	done := make(chan error, 1)
	go func() { done <- g.Wait(); close(lines) }()
	for line := range lines {
		fmt.Fprintln(a.out, line)
	}
	return <-done
}

// quiesce has the controller end the machines that no container runs in (templates, those forked ahead of time, those of created
// containers), or what the query says in its place.
func quiesce(ctx context.Context, a *app, query string) error {
	api, err := newAPI("unix://" + a.paths.dockerSocket())
	if err != nil {
		return err
	}
	defer api.Close()
	return extra(ctx, api, http.MethodPost, "/host/quiesce"+query, nil, nil)
}

// awaitEnd returns when the host's process has ended: the kernel then drops its lock.
func awaitEnd(ctx context.Context, p paths) error {
	ended := make(chan error, 1)
	go func() {
		hostLock, err := lock(p.lockFile(), unix.LOCK_EX)
		if err == nil {
			err = hostLock.Close()
		}
		ended <- err
	}()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return fmt.Errorf("cannot wait for the host to end: %w", ctx.Err())
	}
}
