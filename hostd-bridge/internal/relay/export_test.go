package relay

import (
	"bytes"
	"context"
	"io"

	"github.com/containervm/containervm/hostd-bridge/internal/vm"
)

// Open reads the log of a VM that was seen as v.
func Open(r *Relay, ctx context.Context, v *vm.VM, from int64, follow, wait bool) (io.ReadCloser, error) {
	var all bytes.Buffer
	err := r.stream(ctx, &all, v, logRequest{from, follow, wait}, nil)
	return io.NopCloser(&all), err
}
