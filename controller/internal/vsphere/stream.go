package vsphere

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// upgradeVsock names the protocol that a stream to a vsock port switches to.
const upgradeVsock = "cvm-vsock"

// headerLogOffset carries the offset of the first byte of a log answer.
const headerLogOffset = "Cvm-Log-Offset"

// maxAnswer bounds how much of an error's text is read, in bytes.
const maxAnswer = 4 << 10

// DialVsock connects to a vsock port of a running VM through the host's relay. The connection has CloseWrite. ctx
// bounds the dial alone.
func (c *Client) DialVsock(ctx context.Context, vm Ref, port uint32) (net.Conn, error) {
	conn, err := c.dialVsock(ctx, vm, port)
	if err != nil {
		return nil, fmt.Errorf("cannot connect to vsock port %d of VM %s: %w", port, vm.Value, err)
	}
	return conn, nil
}

func (c *Client) dialVsock(ctx context.Context, vm Ref, port uint32) (net.Conn, error) {
	before := c.session.generation()
	conn, res, err := c.upgrade(ctx, c.extension("vsock", vm.Value, strconv.FormatUint(uint64(port), 10)))
	if err != nil || res.StatusCode != http.StatusUnauthorized {
		return conn, extensionError(res, err, http.StatusSwitchingProtocols)
	}
	if err := c.session.renew(ctx, before); err != nil {
		return nil, err
	}
	conn, res, err = c.upgrade(ctx, c.extension("vsock", vm.Value, strconv.FormatUint(uint64(port), 10)))
	return conn, extensionError(res, err, http.StatusSwitchingProtocols)
}

// upgrade sends an upgrade request on a connection of its own. With any answer but 101 the connection is closed and the
// response's body is what the host said.
func (c *Client) upgrade(ctx context.Context, u *url.URL) (net.Conn, *http.Response, error) {
	raw, err := c.dialHost(ctx, u)
	if err != nil {
		return nil, nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = raw.SetDeadline(time.Unix(1, 0)) })
	conn, res, err := c.switchProtocol(raw, u)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil || conn == nil {
		raw.Close()
		return nil, res, err
	}
	return conn, res, nil
}

func (c *Client) switchProtocol(raw net.Conn, u *url.URL) (net.Conn, *http.Response, error) {
	req := &http.Request{Method: http.MethodGet, URL: u, Host: u.Host, Header: http.Header{
		"Connection": {"Upgrade"}, "Upgrade": {upgradeVsock},
	}}
	for _, cookie := range c.soap.Jar.Cookies(u) {
		req.AddCookie(cookie)
	}
	if err := req.Write(raw); err != nil {
		return nil, nil, err
	}
	r := bufio.NewReader(raw)
	res, err := http.ReadResponse(r, req)
	if err != nil {
		return nil, nil, err
	}
	if res.StatusCode == http.StatusSwitchingProtocols {
		return &stream{Conn: raw, r: r}, res, nil
	}
	text, _ := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	res.Body = io.NopCloser(strings.NewReader(string(text)))
	return nil, res, nil
}

// dialHost opens a connection to the host as SOAP calls do, with the same trust.
func (c *Client) dialHost(ctx context.Context, u *url.URL) (net.Conn, error) {
	t := c.soap.DefaultTransport()
	if u.Scheme == "http" {
		return t.DialContext(ctx, "tcp", hostPort(u, "80"))
	}
	conf := t.TLSClientConfig.Clone()
	conf.NextProtos = []string{"http/1.1"}
	return (&tls.Dialer{Config: conf}).DialContext(ctx, "tcp", hostPort(u, "443"))
}

func hostPort(u *url.URL, port string) string {
	if u.Port() != "" {
		port = u.Port()
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// stream is an upgraded connection: what was read ahead comes first.
type stream struct {
	net.Conn
	r *bufio.Reader
}

func (s *stream) Read(p []byte) (int, error) {
	if s.r.Buffered() > 0 {
		return s.r.Read(p)
	}
	return s.Conn.Read(p)
}

// CloseWrite ends the stream towards the guest; the other direction goes on.
func (s *stream) CloseWrite() error {
	if half, ok := s.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return fmt.Errorf("cannot half-close a connection of type %T", s.Conn)
}

// OpenLog reads the log of a VM's main process as records (package link) from a byte offset; -1 is the present end. With
// follow it goes on as the log grows and ends with the machine; with wait it first waits for the next power-on when the
// VM is off. It returns once the host has taken the request, so no byte after that is missed, and the offset of the
// first byte. ctx bounds the whole read.
func (c *Client) OpenLog(ctx context.Context, vm Ref, from int64, follow, wait bool) (io.ReadCloser, int64, error) {
	u := c.extension("log", vm.Value)
	start := "end"
	if from >= 0 {
		start = strconv.FormatInt(from, 10)
	}
	u.RawQuery = url.Values{"from": {start}, "follow": {flag(follow)}, "wait": {flag(wait)}}.Encode()
	res, err := c.do(ctx, &http.Request{Method: http.MethodGet, URL: u, Header: http.Header{}})
	if err := extensionError(res, err, http.StatusOK); err != nil {
		return nil, 0, fmt.Errorf("cannot read the log of VM %s: %w", vm.Value, err)
	}
	offset, err := strconv.ParseInt(res.Header.Get(headerLogOffset), 10, 64)
	if err != nil {
		res.Body.Close()
		return nil, 0, fmt.Errorf("cannot read the log of VM %s: header %s: %w", vm.Value, headerLogOffset, err)
	}
	return res.Body, offset, nil
}

func flag(b bool) string {
	if b {
		return "1"
	}
	return "0"
}

// extension is the URL of a feature beside the vSphere API.
func (c *Client) extension(parts ...string) *url.URL {
	u := c.soap.URL()
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: "/"}).JoinPath(append([]string{"cvm"}, parts...)...)
}

// extensionError is answerError for a feature beside the vSphere API. Its own errors are JSON; a 404 that is not comes from
// a host that does not have the feature.
func extensionError(res *http.Response, err error, want int) error {
	if err != nil || res.StatusCode == want {
		return err
	}
	defer res.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	var own struct{ Message string }
	switch {
	case json.Unmarshal(text, &own) == nil && own.Message != "":
		text = []byte(own.Message)
	case res.StatusCode == http.StatusNotFound:
		return &failure{text: "the host has no such extension of the vSphere API", class: errdefs.ErrNotImplemented, cause: errors.New(res.Status)}
	}
	answer := *res
	answer.Body = io.NopCloser(bytes.NewReader(text))
	return answerError(&answer, nil, want)
}

// answerError turns an unexpected answer into an error with its class and closes its body.
func answerError(res *http.Response, err error, want int) error {
	if err != nil || res.StatusCode == want {
		return err
	}
	defer res.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	what := strings.TrimSpace(string(text))
	if what == "" {
		what = res.Status
	}
	class, ok := map[int]error{
		http.StatusUnauthorized:   errdefs.ErrUnauthenticated,
		http.StatusForbidden:      errdefs.ErrPermissionDenied,
		http.StatusNotFound:       errdefs.ErrNotFound,
		http.StatusConflict:       errdefs.ErrFailedPrecondition,
		http.StatusNotImplemented: errdefs.ErrNotImplemented,
		http.StatusBadGateway:     errdefs.ErrUnavailable,
	}[res.StatusCode]
	if !ok {
		return fmt.Errorf("the host answers %s: %s", res.Status, what)
	}
	return &failure{text: what, class: class, cause: fmt.Errorf("the host answers %s", res.Status)}
}
