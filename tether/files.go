package main

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/containervm/containervm/tether/internal/agent"
	"github.com/containervm/containervm/tether/internal/archive"
	"github.com/containervm/containervm/tether/internal/process"
	"github.com/containervm/containervm/tether/internal/rootfs"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// files are those of the container. durable: an import that has ended is on the disk.
func (t *tether) files(durable bool) *archive.Files {
	c := t.instance.container
	var own []string
	for _, f := range t.instance.root(t.base).Files {
		own = append(own, f.Path)
	}
	return archive.New(archive.Options{
		Root: func() (fd int, err error) {
			err = c.Do(func() (err error) {
				fd, err = archive.Within("/")
				return err
			})
			return fd, err
		},
		Disk: diskDir, Base: openBase, Own: own, User: c.User, Durable: durable,
	})
}

// openBase opens the root of the disk with a serial number, which the host has attached read-only for the time of a call.
func openBase(ctx context.Context, serial string) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, rootfs.DiskWait)
	defer cancel()
	disk, err := rootfs.WaitSerial(ctx, serial)
	if err != nil {
		return -1, err
	}
	return disk.Open()
}

// mountFiles mounts what the Spec wants over the root of a container that is not to run.
func (t *tether) mountFiles(ctx context.Context) error {
	spec := t.instance.spec
	if len(spec.Mounts)+len(spec.Files) == 0 {
		return nil
	}
	base, err := t.rootBase()
	if err != nil {
		return err
	}
	return t.instance.mountAll(ctx, base)
}

// serveFiles reads and writes the container's files until the host ends the machine.
func (t *tether) serveFiles(ctx context.Context) error {
	asked := make(chan struct{}, 1)
	a, stopServing, err := t.serve(ctx, agent.Config{
		Files: t.files(true), // the machine may be ended at any time
		Stop: func(context.Context, unix.Signal, time.Duration) error {
			select {
			case asked <- struct{}{}:
			default:
			}
			return nil
		},
	})
	if err != nil {
		return &process.Error{Reason: tetherv1.Failure_INTERNAL, Err: fmt.Errorf("cannot serve files: %w", err)}
	}
	defer stopServing()
	t.setStatus(&tetherv1.Status{State: tetherv1.State_RUNNING, StartedUnixNano: time.Now().UnixNano(), Pid: 1})
	t.listenForSignals()
	select {
	case <-asked:
	case <-t.signals:
	}
	t.end(ctx, a, &tetherv1.Status{State: tetherv1.State_EXITED, Exit: &tetherv1.Exit{UnixNano: time.Now().UnixNano()}})
	return nil
}
