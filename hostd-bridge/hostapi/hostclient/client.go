// Package hostclient asks a host for what it offers beside vSphere (package hostapi). It knows nothing of logins: whoever makes a
// client gives it a way to send requests in a session.
//
// Errors have their class of package errdefs. Its ErrNotImplemented says that the host is another one: it offers nothing here.
package hostclient

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
)

// Client asks one host. Its methods may be called by several goroutines.
type Client struct {
	host *url.URL
	do   func(*http.Request) (*http.Response, error)
}

// New returns a client of the host at a URL, of which scheme and host are used. do sends a request in a session of the
// vSphere API, as http.Client.Do does; it must not follow HTTP/2, in which no connection can be taken over.
func New(host *url.URL, do func(*http.Request) (*http.Response, error)) *Client {
	return &Client{host: &url.URL{Scheme: host.Scheme, Host: host.Host}, do: do}
}

// Extensions returns the names of the host's extensions of the vSphere API.
func (c *Client) Extensions(ctx context.Context) ([]string, error) {
	var answer hostapi.Extensions
	err := c.ask(ctx, hostapi.RouteExtensions, &answer)
	return answer.Extensions, err
}

// Pools returns how many machines the host keeps prestarted for each frozen VM in use.
func (c *Client) Pools(ctx context.Context) ([]hostapi.Pool, error) {
	var answer hostapi.Pools
	err := c.ask(ctx, hostapi.RoutePools, &answer)
	return answer.Pools, err
}

// Memory has the host measure all machines that are on; one that cannot be measured is left out.
func (c *Client) Memory(ctx context.Context) ([]hostapi.MachineMemory, error) {
	var answer hostapi.Machines
	err := c.ask(ctx, hostapi.RouteMemory, &answer)
	return answer.Machines, err
}

// Networks returns how the host's networks are.
func (c *Client) Networks(ctx context.Context) (hostapi.Networks, error) {
	var answer hostapi.Networks
	err := c.ask(ctx, hostapi.RouteNetworks, &answer)
	return answer, err
}

// SetNetwork says what the switch of the network with a name does; it is in force when it returns, also for VMs that are on, or will be
// within moments. ErrNotFound: there is no such network; ErrInvalidArgument: such settings cannot be.
func (c *Client) SetNetwork(ctx context.Context, name string, s hostapi.NetworkSettings) error {
	body, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("cannot encode the settings of network %q: %w", name, err)
	}
	res, err := c.send(ctx, http.MethodPut, bytes.NewReader(body), http.StatusNoContent, nil, nil, hostapi.RouteNetworks, url.PathEscape(name))
	if err != nil {
		return err
	}
	return res.Body.Close()
}

// ask gets a JSON document.
func (c *Client) ask(ctx context.Context, route string, answer any) error {
	res, err := c.get(ctx, http.StatusOK, nil, nil, route)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	return decode(res.Body, answer)
}

func decode(r io.Reader, answer any) error {
	data, err := io.ReadAll(io.LimitReader(r, hostapi.MaxAnswer+1))
	if err != nil {
		return fmt.Errorf("cannot read the host's answer: %w", err)
	}
	if len(data) > hostapi.MaxAnswer {
		return fmt.Errorf("cannot read the host's answer: it is longer than %d bytes", hostapi.MaxAnswer)
	}
	if err := json.Unmarshal(data, answer); err != nil {
		return fmt.Errorf("cannot decode the host's answer: %w", err)
	}
	return nil
}

// get sends a GET and returns the answer if it has the status want; the caller closes its body.
func (c *Client) get(ctx context.Context, want int, header http.Header, query url.Values, path ...string) (*http.Response, error) {
	return c.send(ctx, http.MethodGet, nil, want, header, query, path...)
}

// send sends a request and returns the answer if it has the status want; the caller closes its body.
func (c *Client) send(
	ctx context.Context, method string, body io.Reader, want int, header http.Header, query url.Values, path ...string,
) (*http.Response, error) {
	u := c.host.JoinPath(path...)
	u.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, err
	}
	for key, values := range header {
		req.Header[key] = values
	}
	res, err := c.do(req)
	if err != nil || res.StatusCode == want {
		return res, err
	}
	return nil, extensionRefused(res)
}

// maxRefusal bounds how much of a refusal's text is read, in bytes.
const maxRefusal = 4 << 10

// extensionRefused is Refused for a route of hostapi. Its refusals are JSON; a 404 that is not comes from a host without such a
// route.
func extensionRefused(res *http.Response) error {
	defer res.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(res.Body, maxRefusal)) // what there is of it
	var own hostapi.Error
	switch {
	case json.Unmarshal(text, &own) == nil && own.Message != "":
		text = []byte(own.Message)
	case res.StatusCode == http.StatusNotFound:
		return &refusal{text: "the host has no such extension of the vSphere API", class: errdefs.ErrNotImplemented, cause: errors.New(res.Status)}
	}
	return refused(res, string(text))
}

// Refused returns the error that an answer is in the place of the one that was wanted, and closes its body: its text, with the
// class of its status.
func Refused(res *http.Response) error {
	defer res.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(res.Body, maxRefusal)) // what there is of it
	return refused(res, string(text))
}

func refused(res *http.Response, text string) error {
	if text = strings.TrimSpace(text); text == "" {
		text = res.Status
	}
	class := classOf(res.StatusCode)
	if class == nil {
		return fmt.Errorf("the host answers %s: %s", res.Status, text)
	}
	return &refusal{text: text, class: class, cause: fmt.Errorf("the host answers %s", res.Status)}
}

func classOf(status int) error {
	switch status {
	case http.StatusBadRequest:
		return errdefs.ErrInvalidArgument
	case http.StatusUnauthorized:
		return errdefs.ErrUnauthenticated
	case http.StatusForbidden:
		return errdefs.ErrPermissionDenied
	case http.StatusNotFound:
		return errdefs.ErrNotFound
	case http.StatusConflict:
		return errdefs.ErrFailedPrecondition
	case http.StatusNotImplemented:
		return errdefs.ErrNotImplemented
	case http.StatusBadGateway:
		return errdefs.ErrUnavailable
	}
	return nil
}

// refusal is what a host has answered, in its own words and with its class.
type refusal struct {
	text         string
	class, cause error
}

func (r *refusal) Error() string   { return r.text }
func (r *refusal) Unwrap() []error { return []error{r.class, r.cause} }
