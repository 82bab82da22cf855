// Package vsock is the host's side of a virtual machine's vsock: how the host listens for its guest and dials it.
//
// There are two ways, behind one interface. Where /dev/vhost-vsock is usable the kernel does the work (kernel.go).
// Elsewhere Device plays the kernel's part for QEMU's stock vhost-vsock device from user space: the ioctls that QEMU
// sends to its vhost descriptor are answered by seccomp user notification (intercept_linux_amd64.go, vhost.go), the
// virtqueues are read and written at QEMU's own addresses (process_linux_amd64.go, ring.go), and the stream protocol of
// virtio-vsock runs on top (device.go, inbound.go, outbound.go; of a connection: stream.go for the user, protocol.go for the
// guest's packets, state.go). QEMU needs no patch, no privilege and no other device, and guest memory may be shared or
// private.
//
// The guest is not trusted: whatever it writes into its rings costs it its own vsock at most.
package vsock

import (
	"context"
	"errors"
	"fmt"
	"net"
)

// HostCID is the context ID of the host (VMADDR_CID_HOST, include/uapi/linux/vm_sockets.h).
const HostCID = 2

// MinCID and MaxCID bound the context ID of a guest: 0 to 2 are reserved, and link.HostPort needs CIDs below 1<<28.
const (
	MinCID = 3
	MaxCID = 1<<28 - 1
)

// Transport reaches one guest.
type Transport interface {
	// Listen accepts the guest's connections to a port of the host, any but 0 and 1<<32-1.
	Listen(port uint32) (net.Listener, error)
	// Dial connects to a port of the guest. While the guest's driver is not up it waits for it until ctx ends.
	Dial(ctx context.Context, port uint32) (Conn, error)
	// Close ends all connections and listeners.
	Close() error
}

// Conn is a stream with the guest. Both halves close apart, as with TCP.
type Conn interface {
	net.Conn
	CloseRead() error
	CloseWrite() error
}

// Addr is an end of a connection.
type Addr struct{ CID, Port uint32 }

// Network returns "vsock".
func (Addr) Network() string { return "vsock" }

// String returns "cid:port".
func (a Addr) String() string { return fmt.Sprintf("%d:%d", a.CID, a.Port) }

// Errors of Transport beside those of package net (net.ErrClosed, os.ErrDeadlineExceeded) and syscall
// (ECONNREFUSED, ECONNRESET, EPIPE).
var (
	// ErrPortInUse: another listener has the port.
	ErrPortInUse = errors.New("port is in use")
	// ErrTooManyConns: the guest has MaxConns connections.
	ErrTooManyConns = errors.New("too many connections with this guest")
)

// CheckCID says why a context ID cannot be a guest's.
func CheckCID(cid uint32) error {
	if cid < MinCID || cid > MaxCID {
		return fmt.Errorf("cannot use CID %d: a guest's is %d to %d", cid, MinCID, MaxCID)
	}
	return nil
}
