package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/containervm/containervm/bench/internal/measure"
)

// create makes a container of the benchmark's image that comes up by a runtime.
func (h *host) create(ctx context.Context, runtime string, args ...string) (string, error) {
	return h.createOf(ctx, imageName, runtime, args...)
}

func (h *host) createOf(ctx context.Context, image, runtime string, args ...string) (string, error) {
	res, err := h.docker.ContainerCreate(ctx, client.ContainerCreateOptions{
		Config:     &container.Config{Image: image, Cmd: args, AttachStdout: true, AttachStderr: true},
		HostConfig: &container.HostConfig{Runtime: runtime},
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

// ended waits until a container does not run.
func (h *host) ended(ctx context.Context, id string) error {
	res := h.docker.ContainerWait(ctx, id, client.ContainerWaitOptions{Condition: container.WaitConditionNotRunning})
	select {
	case <-res.Result:
		return nil
	case err := <-res.Error:
		return fmt.Errorf("cannot wait for container: %w", err)
	}
}

// started is how the start of a container went.
type started struct {
	begin    time.Time // of the request
	first    float64   // ms until the word was there
	answered float64   // ms until the request was answered
}

// startUntil attaches to a container, starts it and waits for the answer and for word in its output.
func (h *host) startUntil(ctx context.Context, id, word string) (started, error) {
	attached, err := h.docker.ContainerAttach(ctx, id, client.ContainerAttachOptions{Stream: true, Stdout: true, Stderr: true})
	if err != nil {
		return started{}, fmt.Errorf("cannot attach: %w", err)
	}
	defer attached.Close()
	stop := context.AfterFunc(ctx, attached.Close) // the stream itself does not know of ctx
	defer stop()
	s := started{begin: time.Now()}
	seen := make(chan error, 1)
	go func() { // as a client does: output may come before the answer
		err := readUntil(attached.Reader, word)
		s.first = measure.Millis(time.Since(s.begin))
		seen <- err
	}()
	_, err = h.docker.ContainerStart(ctx, id, client.ContainerStartOptions{})
	s.answered = measure.Millis(time.Since(s.begin))
	if err != nil {
		attached.Close()
		return started{}, errors.Join(fmt.Errorf("cannot start: %w", err), <-seen)
	}
	if err := <-seen; err != nil {
		return started{}, errors.Join(err, ctx.Err())
	}
	return s, nil
}

// errSeen ends a copy that has brought what was waited for.
var errSeen = errors.New("seen")

// readUntil reads an attach until word has come on its standard output.
func readUntil(r io.Reader, word string) error {
	var out []byte
	_, err := stdcopy.StdCopy(writer(func(b []byte) (int, error) {
		if out = append(out, b...); bytes.Contains(out, []byte(word)) {
			return 0, errSeen
		}
		return len(b), nil
	}), io.Discard, r)
	if errors.Is(err, errSeen) {
		return nil
	}
	return errors.Join(errors.New("the container ended without a word"), err)
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
	var n int64
	count := writer(func(b []byte) (int, error) { n += int64(len(b)); return len(b), nil })
	if _, err := stdcopy.StdCopy(count, io.Discard, attached.Reader); err != nil {
		return 0, fmt.Errorf("cannot read exec: %w", err)
	}
	return n, nil
}

// writer is a function as an io.Writer.
type writer func(b []byte) (int, error)

func (w writer) Write(b []byte) (int, error) { return w(b) }
