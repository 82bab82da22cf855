package qemu

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"

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

// sent are the frames that the machine's network card has sent. Those of QEMU's own network are from addresses that begin with 52:55
// (IPv4) or 52:56 (IPv6).
func (g *guest) sent() (frames []frame) {
	g.t.Helper()
	b, err := os.ReadFile(filepath.Join(g.spec.RunDir, captureFile(0)))
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
		if s := f.source(); s[0] != 0x52 || s[1] != 0x55 && s[1] != 0x56 {
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

// TestTetherForkOnTheWire captures what children send: all of it has their own addresses, not their template's.
func TestTetherForkOnTheWire(t *testing.T) {
	disk := busyboxDisk(t)
	g := tetherTemplate(t)
	g.capturing()
	template, err := net.ParseMAC(g.spec.NICs[0].MAC)
	must(t, err)
	placeholder, err := net.ParseMAC(placeholderMAC(0))
	must(t, err)
	tpl := g.template()
	var stamps []uint32
	for n := 1; n <= 2; n++ {
		c := g.container(tpl, n, tetherSpec("ping -c 1 -W 60 10.0.2.2 && { nc -w 60 10.0.2.2 9 </dev/null; exit 0; }"), disk)
		if status, out := c.ending(); status.Exit.GetCode() != 0 || status.State != tetherv1.State_EXITED {
			t.Errorf("child %d reaches nobody: %v, %q", n, status, out)
		}
		frames := c.sent()
		if len(frames) == 0 {
			t.Errorf("child %d has sent nothing", n)
		}
		for _, f := range frames {
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

// silent fails the test if the machine has sent a frame.
func (g *guest) silent() {
	g.t.Helper()
	for _, f := range g.sent() {
		g.t.Errorf("a frame was sent: %x", f)
	}
}
