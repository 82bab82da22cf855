package publish

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/tether/link"
	"github.com/containervm/containervm/tether/link/linktest"
)

// oneVM is the only VM.
type oneVM struct{ client *link.Client }

func (v oneVM) Link(context.Context, vsphere.Ref) (*link.Client, error) { return v.client, nil }

var (
	ref     = vsphere.Ref{Type: "VirtualMachine", Value: "vm-1"}
	address = netip.MustParseAddr("172.17.0.2")
	local   = netip.MustParseAddr("127.0.0.1")
)

func inside() netip.Addr { return address }

// guest are ports of a guest whose connections real does; it counts those that are open.
func guest(t *testing.T, real string) *Ports {
	t.Helper()
	tether := linktest.NewTether(t)
	tether.OnConnect(func(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
		if to != netip.AddrPortFrom(address, 80) {
			return nil, link.Refuse(errors.New("refused"), "connection refused")
		}
		var d net.Dialer
		return d.DialContext(ctx, network, real)
	})
	p := New(oneVM{tether.Client()}, slog.New(slog.DiscardHandler))
	t.Cleanup(p.Close)
	return p
}

func tcp(port, hostPort, end uint16) hostapi.Publication {
	return hostapi.Publication{Protocol: hostapi.TCP, HostIP: local, HostPort: hostPort, HostPortEnd: end, Port: port}
}

func listen(t *testing.T) *net.TCPListener {
	t.Helper()
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func at(p hostapi.Publication) string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(int(p.HostPort)))
}

// TestTCP: bytes go both ways, each direction has an end of its own, and a port where nobody listens resets.
func TestTCP(t *testing.T) {
	server := listen(t)
	go func() {
		for {
			conn, err := server.AcceptTCP()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				all, _ := io.ReadAll(conn) // up to the end of what is sent
				_, _ = conn.Write(all)
			}()
		}
	}()
	p := guest(t, server.Addr().String())
	bound, err := p.Bind(ref, 1, inside, []hostapi.Publication{tcp(80, 0, 0), tcp(81, 0, 0)})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", at(bound[0]))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	go func() {
		_, _ = conn.Write(sent)
		_ = conn.(*net.TCPConn).CloseWrite()
	}()
	if got, err := io.ReadAll(conn); err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d bytes of %d came back, %v", len(got), len(sent), err)
	}
	refused, err := net.Dial("tcp", at(bound[1]))
	if err == nil {
		defer refused.Close()
		_, err = refused.Read(make([]byte, 1))
	}
	if !errors.Is(err, unix.ECONNRESET) { // already as it connects, or later
		t.Errorf("a port that nobody serves: %v; want a reset", err)
	}
}

// TestUDP: each peer has its answers.
func TestUDP(t *testing.T) {
	server, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go func() {
		buf := make([]byte, 100)
		for {
			n, from, err := server.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			_, _ = server.WriteToUDPAddrPort(append([]byte("re: "), buf[:n]...), from)
		}
	}()
	p := guest(t, server.LocalAddr().String())
	bound, err := p.Bind(ref, 1, inside, []hostapi.Publication{{Protocol: hostapi.UDP, HostIP: local, Port: 80}})
	if err != nil {
		t.Fatal(err)
	}
	var peers []net.Conn
	for i := range 3 {
		conn, err := net.Dial("udp", at(bound[0]))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := conn.Write([]byte{byte('a' + i)}); err != nil {
			t.Fatal(err)
		}
		peers = append(peers, conn)
	}
	for i, conn := range peers {
		_ = conn.SetReadDeadline(time.Now().Add(time.Minute))
		buf := make([]byte, 100)
		if n, err := conn.Read(buf); err != nil || string(buf[:n]) != "re: "+string(rune('a'+i)) {
			t.Errorf("peer %d got %q, %v", i, buf[:n], err)
		}
	}
}

// TestTaken: all ports or none are bound, a range yields what is free in it, both families have one port, and a port is free after its
// run and not before.
func TestTaken(t *testing.T) {
	other := listen(t)
	taken := uint16(other.Addr().(*net.TCPAddr).Port)
	p := guest(t, "")
	if _, err := p.Bind(ref, 1, inside, []hostapi.Publication{tcp(80, 0, 0), tcp(81, taken, 0)}); !errors.As(err, new(*TakenError)) {
		t.Errorf("a port that is taken: %v", err)
	}
	both := []hostapi.Publication{tcp(80, taken, taken+20), tcp(81, 0, 0), tcp(81, 0, 0)}
	both[1].HostIP, both[2].HostIP = netip.IPv4Unspecified(), netip.IPv6Unspecified()
	bound, err := p.Bind(ref, 2, inside, both)
	if err != nil {
		t.Fatal(err)
	}
	if n := bound[0].HostPort; n <= taken || n > taken+20 || bound[0].HostPortEnd != 0 {
		t.Errorf("of the ports from %d the bound one is %d", taken, n)
	}
	if len(bound) == 3 && bound[1].HostPort != bound[2].HostPort {
		t.Errorf("the families have the ports %d and %d", bound[1].HostPort, bound[2].HostPort)
	}
	p.Release(ref, 1)
	if !isBound(bound[0]) {
		t.Error("the end of an earlier run has freed the port")
	}
	p.Release(ref, 2)
	if isBound(bound[0]) {
		t.Error("the port is bound after its run")
	}
}

func isBound(p hostapi.Publication) bool {
	conn, err := net.Dial("tcp", at(p))
	if err == nil {
		conn.Close()
	}
	return !errors.Is(err, unix.ECONNREFUSED)
}

// TestReleaseEndsConnections: nothing of a run is left after it.
func TestReleaseEndsConnections(t *testing.T) {
	server := listen(t)
	p := guest(t, server.Addr().String())
	bound, err := p.Bind(ref, 1, inside, []hostapi.Publication{tcp(80, 0, 0)})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", at(bound[0]))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	far, err := server.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	p.ReleaseAll(ref)
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("a connection outlives its port")
	}
	if _, err := far.Read(make([]byte, 1)); err == nil {
		t.Error("a connection in the guest outlives its port")
	}
}
