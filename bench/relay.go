package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/session"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/soap"

	"github.com/containervm/containervm/bench/internal/measure"
	hostd "github.com/containervm/containervm/hostd-bridge/daemon"
)

// relay opens raw streams to the vsock ports of one container: hostd-bridge's, without link and without the Docker API.
type relay struct {
	client  *http.Client
	address string // of the container's machine
}

func newRelay(ctx context.Context, e hostd.Endpoint, id string) (*relay, error) {
	u, err := url.Parse(e.URL)
	if err != nil {
		return nil, fmt.Errorf("cannot parse address of hostd-bridge: %w", err)
	}
	transport := soap.NewClient(u, false)
	if err := transport.SetRootCAs(e.CAFile); err != nil {
		return nil, fmt.Errorf("cannot read certificate of hostd-bridge: %w", err)
	}
	v, err := vim25.NewClient(ctx, transport)
	if err != nil {
		return nil, fmt.Errorf("cannot reach hostd-bridge: %w", err)
	}
	c := &govmomi.Client{Client: v, SessionManager: session.NewManager(v)}
	if err := c.Login(ctx, url.UserPassword(e.Username, e.Password)); err != nil {
		return nil, fmt.Errorf("cannot log in: %w", err)
	}
	machine, err := find.NewFinder(v).VirtualMachine(ctx, "/ha-datacenter/vm/"+id)
	if err != nil {
		return nil, fmt.Errorf("cannot find machine of container: %w", err)
	}
	return &relay{&transport.Client, fmt.Sprintf("https://%s/cvm/vsock/%s", u.Host, machine.Reference().Value)}, nil
}

// open dials a port.
func (r *relay) open(ctx context.Context, port uint32) (io.ReadWriteCloser, error) {
	req, err := http.NewRequestWithContext(context.WithoutCancel(ctx), http.MethodGet, fmt.Sprintf("%s/%d", r.address, port), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "cvm-vsock")
	res, err := r.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("cannot open relay: %w", err)
	}
	stream, ok := res.Body.(io.ReadWriteCloser)
	if res.StatusCode != http.StatusSwitchingProtocols || !ok {
		res.Body.Close()
		return nil, fmt.Errorf("cannot open relay: %s", res.Status)
	}
	return stream, nil
}

// ask sends one byte of the protocol of bench/guest and waits for the one that answers.
func ask(rw io.ReadWriter, what byte) error {
	if _, err := rw.Write([]byte{what}); err != nil {
		return err
	}
	_, err := io.ReadFull(rw, make([]byte, 1))
	return err
}

// rawRoundTrip returns the milliseconds of one byte there and back.
func rawRoundTrip(rw io.ReadWriter) (float64, error) {
	begin := time.Now()
	err := ask(rw, 'p')
	return measure.Millis(time.Since(begin)), err
}

// rawExec returns the milliseconds of five round trips, in the last of which the guest starts a process and waits for
// its end.
func rawExec(rw io.ReadWriter) (float64, error) {
	begin := time.Now()
	for _, what := range []byte("ppppx") {
		if err := ask(rw, what); err != nil {
			return 0, err
		}
	}
	return measure.Millis(time.Since(begin)), nil
}

// rawThroughput returns MB/s of sourceBytes from the guest.
func rawThroughput(rw io.ReadWriter) (float64, error) {
	begin := time.Now()
	if _, err := rw.Write([]byte("s")); err != nil {
		return 0, err
	}
	n, err := io.CopyN(io.Discard, bufio.NewReaderSize(rw, 256<<10), sourceBytes)
	if err != nil {
		return 0, errors.Join(fmt.Errorf("after %d bytes", n), err)
	}
	return perSecond(n, time.Since(begin)), nil
}

// perSecond is in MB/s (10^6 bytes).
func perSecond(bytes int64, d time.Duration) float64 { return float64(bytes) / 1e6 / d.Seconds() }
