package main

import (
	"fmt"
	"net"
	"os"

	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"

	"github.com/containervm/containervm/tether/link"
)

// takePort takes the link's port, whatever the machine's CID is: a fork changes it. It is taken before anything of the container's runs,
// and kept, so that no other process of the machine answers the host there. Nobody can connect before listen.
func (t *tether) takePort() error {
	if t.port != nil {
		return nil
	}
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		t.port = os.NewFile(uintptr(fd), "link")
		err = unix.Bind(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: link.PortLink})
	}
	if err != nil {
		return fmt.Errorf("cannot take the link's port: %w", err)
	}
	return nil
}

// listen serves the port from now on. It is called once.
func (t *tether) listen() (net.Listener, error) {
	err := t.takePort()
	if err == nil {
		err = unix.Listen(int(t.port.Fd()), unix.SOMAXCONN)
	}
	var l net.Listener
	if err == nil {
		l, err = vsock.FileListener(t.port) // of a copy
		_ = t.port.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("cannot listen for the host: %w", err)
	}
	return hostOnly{l}, nil
}

// hostOnly accepts the host's connections alone.
type hostOnly struct{ net.Listener }

// Accept implements net.Listener.
func (l hostOnly) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if a, ok := conn.RemoteAddr().(*vsock.Addr); ok && a.ContextID == vsock.Host {
			return conn, nil
		}
		_ = conn.Close() // nothing was said
	}
}
