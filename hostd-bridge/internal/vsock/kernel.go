package vsock

import (
	"context"
	"fmt"
	"net"
	"os"
	"sync"

	kernel "github.com/mdlayher/vsock"
)

// KernelDevice is what the kernel's vhost-vsock offers to QEMU.
const KernelDevice = "/dev/vhost-vsock"

// KernelUsable says why the kernel's vhost-vsock cannot be used, or nil.
func KernelUsable() error {
	f, err := os.OpenFile(KernelDevice, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("cannot use the kernel's vhost-vsock (try: modprobe vhost_vsock): %w", err)
	}
	return f.Close()
}

// Kernel is the Transport of a guest whose QEMU uses the kernel's vhost-vsock. Its ports are shared by all guests of
// the host, so connections from another guest are dropped.
//
// Unproven: no machine with /dev/vhost-vsock has run it yet.
type Kernel struct {
	cid uint32

	mu        sync.Mutex
	listeners []net.Listener
}

var _ Transport = (*Kernel)(nil)

// NewKernel returns the transport of the guest with the given CID.
func NewKernel(cid uint32) *Kernel { return &Kernel{cid: cid} }

// Listen implements Transport.
func (k *Kernel) Listen(port uint32) (net.Listener, error) {
	l, err := kernel.ListenContextID(kernel.Host, port, nil)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on vsock port %d: %w", port, err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.listeners = append(k.listeners, l)
	return &guestListener{Listener: l, cid: k.cid}, nil
}

// Dial implements Transport.
func (k *Kernel) Dial(ctx context.Context, port uint32) (Conn, error) {
	c, err := kernel.DialContext(ctx, k.cid, port, nil)
	if err != nil {
		return nil, fmt.Errorf("cannot dial vsock port %d: %w", port, err)
	}
	return c, nil
}

// Close implements Transport.
func (k *Kernel) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, l := range k.listeners {
		l.Close()
	}
	return nil
}

// guestListener accepts one guest's connections only.
type guestListener struct {
	net.Listener
	cid uint32
}

func (l *guestListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if a, ok := c.RemoteAddr().(*kernel.Addr); ok && a.ContextID == l.cid {
			return c, nil
		}
		c.Close()
	}
}
