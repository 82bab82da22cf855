package main

import (
	"context"
	"time"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

// completeTime bounds how long the Tab key may wait for the host.
const completeTime = 2 * time.Second

// complete makes a completion of sources of names. Without a host there are none.
func (a *app) complete(sources ...func(context.Context, *client.Client) []string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		api, err := a.api()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer api.Close()
		parent := cmd.Context()
		if parent == nil {
			parent = context.Background()
		}
		ctx, cancel := context.WithTimeout(parent, completeTime)
		defer cancel()
		var names []string
		for _, source := range sources {
			names = append(names, source(ctx, api)...)
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// templateNames are the names of all templates.
func templateNames(ctx context.Context, api *client.Client) []string {
	list, err := listTemplates(ctx, api)
	if err != nil {
		return nil
	}
	var names []string
	for _, t := range list {
		names = append(names, t.Name)
	}
	return names
}

// runningNames are the names of all containers that run.
func runningNames(ctx context.Context, api *client.Client) []string {
	list, err := api.ContainerList(ctx, client.ContainerListOptions{})
	if err != nil {
		return nil
	}
	var names []string
	for _, c := range list.Items {
		names = append(names, containerName(c))
	}
	return names
}
