package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
)

// create makes a container of the benchmark's image.
func (h *host) create(ctx context.Context, args ...string) (string, error) {
	res, err := h.docker.ContainerCreate(ctx, client.ContainerCreateOptions{
		Config: &container.Config{Image: imageName, Cmd: args, AttachStdout: true, AttachStderr: true},
	})
	if err != nil {
		return "", fmt.Errorf("cannot create container: %w", err)
	}
	return res.ID, nil
}

// remove ends and removes a container, also when ctx has ended.
func (h *host) remove(ctx context.Context, id string) error {
	_, err := h.docker.ContainerRemove(context.WithoutCancel(ctx), id, client.ContainerRemoveOptions{Force: true})
	return err
}

// startUntil attaches to a container, starts it and returns the milliseconds from the start to the given line.
func (h *host) startUntil(ctx context.Context, id, line string) (float64, error) {
	attached, err := h.docker.ContainerAttach(ctx, id, client.ContainerAttachOptions{Stream: true, Stdout: true, Stderr: true})
	if err != nil {
		return 0, fmt.Errorf("cannot attach: %w", err)
	}
	defer attached.Close()
	begin := time.Now()
	if _, err := h.docker.ContainerStart(ctx, id, client.ContainerStartOptions{}); err != nil {
		return 0, fmt.Errorf("cannot start: %w", err)
	}
	// The API may answer the start after the first byte has come: the reader below finds it in the connection's buffer,
	// so the time counted is at most too long, never too short.
	out := demultiplex(attached.Reader)
	defer out.Close()
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if lines.Text() == line {
			return millis(time.Since(begin)), nil
		}
	}
	return 0, errors.New("the container ended without a word")
}

// boot returns the milliseconds from the start of a fresh container to its process's first byte.
func (h *host) boot(ctx context.Context) (float64, error) {
	id, err := h.create(ctx, "/busybox", "echo", greeting)
	if err != nil {
		return 0, err
	}
	ms, err := h.startUntil(ctx, id, greeting)
	return ms, errors.Join(err, h.remove(ctx, id))
}

// exec runs a command in a container to its end and returns the bytes of its output.
func (h *host) exec(ctx context.Context, id string, args ...string) (int64, error) {
	made, err := h.docker.ExecCreate(ctx, id, client.ExecCreateOptions{Cmd: args, AttachStdout: true, AttachStderr: true})
	if err != nil {
		return 0, fmt.Errorf("cannot create exec: %w", err)
	}
	attached, err := h.docker.ExecAttach(ctx, made.ID, client.ExecAttachOptions{})
	if err != nil {
		return 0, fmt.Errorf("cannot start exec: %w", err)
	}
	defer attached.Close()
	var n count
	if _, err := stdcopy.StdCopy(&n, io.Discard, attached.Reader); err != nil {
		return 0, fmt.Errorf("cannot read exec: %w", err)
	}
	return int64(n), nil
}

// demultiplex returns the standard output of an attach. Closing it ends the copy.
func demultiplex(r io.Reader) io.ReadCloser {
	out, in := io.Pipe()
	go func() {
		_, err := stdcopy.StdCopy(in, io.Discard, r)
		in.CloseWithError(err)
	}()
	return out
}

// count counts what is written to it.
type count int64

func (c *count) Write(b []byte) (int, error) {
	*c += count(len(b))
	return len(b), nil
}
