package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/containervm/containervm/bench/internal/measure"
	hostd "github.com/containervm/containervm/hostd-bridge/daemon"
)

// relay opens raw streams to the vsock ports of one container: hostd-bridge's, without link and without the Docker API.
type relay struct{ machine }

func newRelay(ctx context.Context, e hostd.Endpoint, id string) (*relay, error) {
	m, err := findMachine(ctx, e, id)
	return &relay{m}, err
}

// open dials a port.
func (r *relay) open(ctx context.Context, port uint32) (io.ReadWriteCloser, error) {
	return r.host.DialVsock(ctx, r.ref, port)
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
