package hostclient

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
)

// DialVsock connects to a vsock port of a VM that is on; vm is its moref value. The connection has CloseWrite. ctx bounds the
// dial alone.
func (c *Client) DialVsock(ctx context.Context, vm string, port uint32) (net.Conn, error) {
	var conn net.Conn
	trace := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(got httptrace.GotConnInfo) { conn = got.Conn }, // the last one, when a dead one was tried before
	})
	header := http.Header{"Connection": {"Upgrade"}, "Upgrade": {hostapi.UpgradeVsock}}
	res, err := c.get(trace, http.StatusSwitchingProtocols, header, nil, hostapi.RouteVsock, vm, strconv.FormatUint(uint64(port), 10))
	if err != nil {
		return nil, fmt.Errorf("cannot connect to vsock port %d of VM %s: %w", port, vm, err)
	}
	return &stream{Conn: conn, body: res.Body}, nil
}

// stream is a connection that was taken over from HTTP. What was read ahead is in the answer's body and comes first.
type stream struct {
	net.Conn
	body io.ReadCloser
}

func (s *stream) Read(p []byte) (int, error) { return s.body.Read(p) }

// CloseWrite ends the stream towards the guest; the other direction goes on.
func (s *stream) CloseWrite() error {
	half, ok := s.Conn.(interface{ CloseWrite() error })
	if !ok {
		return fmt.Errorf("cannot half-close a connection of type %T", s.Conn)
	}
	return half.CloseWrite()
}

// End is the offset that stands for the present end of a log.
const End = -1

// Log is a part of a VM's log, as records of package tether/link. It ends with an error when the host cannot give all of it.
type Log struct {
	io.ReadCloser
	Offset int64       // of its first byte
	Run    hostapi.Run // the one that was on when the host took the request; 0: the VM was off
	Over   hostapi.Run // the last one that was over then; 0: none, or a host that does not say
}

// OpenLog reads the log of a VM from an offset in bytes, or from End; vm is its moref value. With follow it goes on as the log
// grows, and ends with the run. With wait it goes on with the next run when the VM is off. It returns once the host has taken the
// request: no byte after that is missed. ctx bounds the whole read.
func (c *Client) OpenLog(ctx context.Context, vm string, from int64, follow, wait bool) (*Log, error) {
	log, err := c.openLog(ctx, vm, from, follow, wait)
	if err != nil {
		return nil, fmt.Errorf("cannot read the log of VM %s: %w", vm, err)
	}
	return log, nil
}

func (c *Client) openLog(ctx context.Context, vm string, from int64, follow, wait bool) (*Log, error) {
	query := url.Values{hostapi.ParamFrom: {hostapi.FromEnd}}
	if from != End {
		query.Set(hostapi.ParamFrom, strconv.FormatInt(from, 10))
	}
	if follow {
		query.Set(hostapi.ParamFollow, hostapi.Yes)
	}
	if wait {
		query.Set(hostapi.ParamWait, hostapi.Yes)
	}
	res, err := c.get(ctx, http.StatusOK, nil, query, hostapi.RouteLog, vm)
	if err != nil {
		return nil, err
	}
	log := &Log{ReadCloser: res.Body}
	log.Offset, err = number(res.Header, hostapi.HeaderLogOffset)
	for key, run := range map[string]*hostapi.Run{hostapi.HeaderLogRun: &log.Run, hostapi.HeaderLogOver: &log.Over} {
		if err == nil && res.Header.Get(key) != "" { // a host of an earlier version says none
			var n int64
			n, err = number(res.Header, key)
			*run = hostapi.Run(n)
		}
	}
	if err != nil {
		res.Body.Close()
		return nil, err
	}
	return log, nil
}

// number reads a header that holds a number that is not negative.
func number(header http.Header, key string) (int64, error) {
	n, err := strconv.ParseUint(header.Get(key), 10, 63)
	if err != nil {
		return 0, fmt.Errorf("cannot read header %s: %w", key, err)
	}
	return int64(n), nil
}
