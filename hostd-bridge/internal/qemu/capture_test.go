package qemu

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"testing"

	"github.com/containervm/containervm/hostd-bridge/internal/frames/framestest"
	"github.com/containervm/containervm/hostd-bridge/internal/supervisor"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// capturing has the machines that are made from here on write down their frames.
func (g *guest) capturing() {
	g.t.Helper()
	c := g.h.config
	c.Capture = true
	h, err := New(g.t.Context(), c)
	must(g.t, err)
	g.h = h
}

// frame is an Ethernet frame: destination, source, type, and what it carries.
type frame []byte

func (f frame) source() net.HardwareAddr { return net.HardwareAddr(f[6:12]) }

// Sizes of pcap-savefile(5), in bytes, and the number that begins a file of this machine's byte order with microseconds.
const (
	pcapHeader = 24
	pcapRecord = 16
	pcapMagic  = 0xa1b2c3d4
)

// sent are the frames that the machine's network card has sent, whether or not they reached its network: all that are not another's
// of this package's children.
func (g *guest) sent() (frames []frame) {
	g.t.Helper()
	b, err := os.ReadFile(supervisor.CapturePath(g.spec.RunDir, cardID(0)))
	must(g.t, err)
	if len(b) < pcapHeader || binary.NativeEndian.Uint32(b) != pcapMagic {
		g.t.Fatalf("no capture: %d bytes, %.4x", len(b), b)
	}
	for b = b[pcapHeader:]; len(b) > pcapRecord; {
		end := pcapRecord + int(binary.NativeEndian.Uint32(b[8:]))
		if end < pcapRecord+14 || end > len(b) {
			g.t.Fatalf("a frame of %d bytes with %d left", end-pcapRecord, len(b)-pcapRecord)
		}
		f := frame(b[pcapRecord:end])
		if s := f.source(); !bytes.HasPrefix(s, macOf(0)[:4]) || s.String() == g.spec.NICs[0].MAC {
			frames = append(frames, f)
		}
		b = b[end:]
	}
	return frames
}

// stamp is the time stamp of the first segment of the first TCP connection, RFC 7323, which begins at a secret number for each peer.
func stamp(frames []frame) (uint32, error) {
	const ethernet, tcp, syn = 14, 6, 2
	for _, f := range frames {
		ip := f[ethernet:]
		if !bytes.Equal(f[12:14], []byte{8, 0}) || len(ip) < 20 || ip[9] != tcp {
			continue
		}
		segment := ip[4*(ip[0]&15):]
		if len(segment) < 20 || segment[13] != syn {
			continue
		}
		for o := segment[20:min(len(segment), 4*int(segment[12]>>4))]; len(o) > 1; {
			switch {
			case o[0] == 8 && len(o) >= 10:
				return binary.BigEndian.Uint32(o[2:]), nil
			case o[0] == 1:
				o = o[1:]
			case o[1] < 2 || int(o[1]) > len(o):
				return 0, fmt.Errorf("malformed options %x", o)
			default:
				o = o[o[1]:]
			}
		}
	}
	return 0, fmt.Errorf("no connection is begun in %d frames", len(frames))
}

// joined has a child's first card be in a network.
func joined(hub *framestest.Hub) func(*vm.MachineSpec) {
	return func(s *vm.MachineSpec) { s.NICs[0].Frames = hub.Socket }
}

// addressed is a Spec with the n-th address of a network. None ends as an address of nobody begins, which ARP has behind it.
func addressed(n int, script string) *tetherv1.Spec {
	spec := tetherSpec(script)
	spec.Interfaces[0].Addresses = []string{fmt.Sprintf("10.9.8.%d/24", 10+n)}
	return spec
}

// TestTetherForkOnTheWire has two children reach each other. What they send, to the switch and at all, has their own addresses, not
// their template's.
func TestTetherForkOnTheWire(t *testing.T) {
	disk := busyboxDisk(t)
	g := tetherTemplate(t)
	g.capturing()
	hub := framestest.New(t)
	template, err := net.ParseMAC(g.spec.NICs[0].MAC)
	must(t, err)
	placeholder, err := net.ParseMAC(placeholderMAC(0))
	must(t, err)
	tpl := g.template()
	const script = `until ping -c 1 -W 1 10.9.8.1%[1]d >/dev/null; do :; done; nc -w 60 10.9.8.1%[1]d 9 </dev/null; echo met; exec sleep 1000`
	var children []*guest
	for n := 1; n <= 2; n++ {
		children = append(children, g.container(tpl, n, addressed(n, fmt.Sprintf(script, 3-n)), disk, joined(hub)))
	}
	var stamps []uint32
	for n, c := range children {
		c.awaitStatus(tetherv1.State_RUNNING)
		c.awaitOutput(c.client(), "met")
		n++
		var frames []frame
		for _, f := range hub.Heard(macOf(n).String()) {
			frames = append(frames, f)
		}
		if len(frames) == 0 {
			t.Errorf("child %d has sent nothing", n)
		}
		for _, f := range append(c.sent(), frames...) {
			if !bytes.Equal(f.source(), macOf(n)) {
				t.Errorf("child %d has sent as %v: %x", n, f.source(), f)
			}
			for whose, mac := range map[string]net.HardwareAddr{"its template": template, "nobody": placeholder} {
				if bytes.Contains(f, mac) || bytes.Contains(f, interfaceID(mac)) {
					t.Errorf("child %d has sent the address of %s: %x", n, whose, f)
				}
			}
		}
		s, err := stamp(frames)
		if err != nil {
			t.Errorf("child %d: %v", n, err)
		}
		stamps = append(stamps, s)
	}
	// The clocks that time stamps count are that of the template, in milliseconds: with the same secret they would be near.
	if near := int32(stamps[0] - stamps[1]); max(near, -near) < 1000_000 {
		t.Errorf("two children count their segments from the same secret: %d and %d", stamps[0], stamps[1])
	}
}

// interfaceID is what a MAC address becomes in an IPv6 address: RFC 4291, appendix A.
func interfaceID(mac net.HardwareAddr) []byte {
	return []byte{mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]}
}

// silent fails the test if a frame has come from a machine, or the machine has written one.
func (g *guest) silent(hub *framestest.Hub) {
	g.t.Helper()
	if heard := hub.Heard(g.spec.NICs[0].MAC); len(heard) > 0 {
		g.t.Errorf("%d frames have come: %x", len(heard), heard[0])
	}
	for _, f := range g.sent() {
		g.t.Errorf("a frame was sent: %x", f)
	}
}
