package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/containervm/containervm/internal/version"
)

// api is a client of the Docker Engine API at the address that the user chose.
func (a *app) api() (*client.Client, error) {
	return newAPI(firstSet(a.host, "unix://"+a.paths.dockerSocket()))
}

// withAPI makes a command of a function that needs a client.
func (a *app) withAPI(do func(ctx context.Context, api *client.Client, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		api, err := a.api()
		if err != nil {
			return err
		}
		defer api.Close()
		return do(cmd.Context(), api, args)
	}
}

func newAPI(host string) (*client.Client, error) {
	c, err := client.New(client.WithHost(host), client.WithUserAgent("cvm/"+version.String()))
	if err != nil {
		return nil, fmt.Errorf("cannot use the address %q: %w", host, err)
	}
	return c, nil
}

// daemonPrefix begins every error that the client library made of the API's answer.
const daemonPrefix = "Error response from daemon: "

// apiError is an error of the API in the words of the API alone.
type apiError struct{ err error }

func (e apiError) Error() string { return strings.TrimPrefix(e.err.Error(), daemonPrefix) }
func (e apiError) Unwrap() error { return e.err }

// cannot says what failed and why. A connection that nobody answers has one cause worth naming.
func cannot(what string, err error) error {
	switch {
	case err == nil:
		return nil
	case client.IsErrConnectionFailed(err):
		return fmt.Errorf("cannot %s: %w", what, errNotRunning)
	}
	return fmt.Errorf("cannot %s: %w", what, apiError{err})
}

func (a *app) printJSON(v any) error {
	enc := json.NewEncoder(a.out)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// shortID is the length in which people read a 64-digit ID.
func shortID(id string) string {
	_, hex, found := strings.Cut(id, ":")
	if !found {
		hex = id
	}
	return hex[:min(12, len(hex))]
}
