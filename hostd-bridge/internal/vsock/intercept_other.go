//go:build !(linux && amd64)

package vsock

import (
	"errors"
	"log/slog"
)

// Interceptor does not exist here: the userspace device relies on the order in which x86-64 stores become visible.
type Interceptor struct{}

var errUnsupported = errors.New("vsock without /dev/vhost-vsock works on Linux on x86-64 only: load the kernel's vhost_vsock (modprobe vhost_vsock)")

// Intercept fails on this platform.
func Intercept() (*Interceptor, error) { return nil, errUnsupported }

// NewInterceptor fails on this platform.
func NewInterceptor(int, func(int)) (*Interceptor, error) { return nil, errUnsupported }

// Serve fails on this platform.
func (*Interceptor) Serve(int, *Device, *slog.Logger) error { return errUnsupported }

// Close does nothing on this platform.
func (*Interceptor) Close() error { return nil }
