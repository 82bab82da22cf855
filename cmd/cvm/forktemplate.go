package main

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"golang.org/x/sync/errgroup"
)

const (
	// forksAtOnce is how many containers are started at the same time.
	forksAtOnce = 4
	// cleanupTime bounds the removal of what the user broke off.
	cleanupTime = 30 * time.Second
)

// forkTemplate runs an image in children of a template. When the user breaks it off, all that it made is removed.
func forkTemplate(ctx context.Context, a *app, api *client.Client, o forkOptions, args []string) ([]child, error) {
	list, err := listTemplates(ctx, api)
	if err != nil {
		return nil, err
	}
	at := slices.IndexFunc(list, func(t template) bool { return t.Name == args[0] })
	if at < 0 {
		return nil, fmt.Errorf("there is no template %s", args[0])
	}
	line := newStatusLine(a.err)
	defer line.clear()
	children := make([]child, o.count)
	var mu sync.Mutex
	done := 0
	var g errgroup.Group
	g.SetLimit(forksAtOnce)
	for i := range children {
		if o.name != "" {
			children[i].Name = fmt.Sprintf("%s-%d", o.name, i+1)
		}
		g.Go(func() error {
			if err := runChild(ctx, api, &children[i], list[at], o.image, args[1:]); err != nil {
				children[i].Error = cannot("run it", err).Error()
			}
			mu.Lock()
			defer mu.Unlock()
			done++
			line.set(fmt.Sprintf("%d of %d", done, o.count))
			return nil
		})
	}
	_ = g.Wait() // each child has its own error
	if ctx.Err() != nil {
		removeChildren(ctx, api, children)
		return nil, context.Cause(ctx)
	}
	return children, nil
}

// runChild makes and starts one container. One that does not start is removed.
func runChild(ctx context.Context, api *client.Client, c *child, t template, image string, command []string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	created, err := api.ContainerCreate(ctx, client.ContainerCreateOptions{
		Name: c.Name, Config: &container.Config{Image: image, Cmd: command},
		HostConfig: &container.HostConfig{Runtime: "fork", Resources: container.Resources{
			Memory: int64(t.MemoryMiB) << 20, NanoCPUs: int64(t.CPUs) * 1e9,
		}},
	})
	if err != nil {
		c.Name = cmp.Or(c.Name, "a child")
		return err
	}
	c.ID = created.ID
	c.Name = cmp.Or(c.Name, shortID(c.ID))
	if _, err = api.ContainerStart(ctx, c.ID, client.ContainerStartOptions{}); err != nil {
		removeChildren(ctx, api, []child{*c})
		return err
	}
	return describeChild(ctx, api, c)
}

// describeChild fills in what an inspection says of a child.
func describeChild(ctx context.Context, api *client.Client, c *child) error {
	var answer struct {
		Name string
		Fork struct {
			Generation, Index int
			Receipt           []receiptItem
		}
	}
	if err := extra(ctx, api, http.MethodGet, "/containers/"+c.ID+"/json", nil, &answer); err != nil {
		return err
	}
	c.Name, c.Generation, c.Index, c.Receipt = answer.Name[min(1, len(answer.Name)):], answer.Fork.Generation, answer.Fork.Index, answer.Fork.Receipt
	return nil
}

// removeChildren removes containers, also when ctx has ended.
func removeChildren(ctx context.Context, api *client.Client, children []child) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer cancel()
	for _, c := range children {
		if c.ID != "" {
			_, _ = api.ContainerRemove(ctx, c.ID, client.ContainerRemoveOptions{Force: true}) // may be gone already
		}
	}
}
