package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/containervm/containervm/tether/link"
)

const (
	hostCID = 2  // vsock(7): VMADDR_CID_HOST
	mostCID = 32 // of the machines that a test's host may have
)

// ownCID asks the kernel for the machine's CID, by a device of its own making if there is none. Who may not do that guesses: its own port is the
// one that answers. 0: none does.
func ownCID() uint32 {
	if cid := askCID(); cid != 0 {
		return cid
	}
	for cid := uint32(3); cid < mostCID; cid++ {
		if c, err := vsock(hostCID, link.HostPort(cid, link.ServiceGuestinfo)); err == nil {
			c.Close()
			return cid
		}
	}
	return 0
}

func askCID() uint32 {
	if _, err := os.Stat("/dev/vsock"); err != nil {
		misc, _ := os.ReadFile("/proc/misc")
		for line := range strings.Lines(string(misc)) {
			if minor, ok := strings.CutSuffix(strings.TrimSpace(line), " vsock"); ok {
				n, _ := strconv.Atoi(strings.TrimSpace(minor))
				_ = unix.Mknod("/dev/vsock", unix.S_IFCHR|0o666, int(unix.Mkdev(10, uint32(n)))) // the open below tells
			}
		}
	}
	f, err := os.Open("/dev/vsock")
	if err != nil {
		say("cid", err)
		return 0
	}
	defer f.Close()
	cid, err := unix.IoctlGetInt(int(f.Fd()), unix.IOCTL_VM_SOCKETS_GET_LOCAL_CID)
	if err != nil {
		say("cid", err)
		return 0
	}
	return uint32(cid)
}

// vsock connects to a port of a CID, or gives up after 2 s: the least for a machine that is emulated beside others.
func vsock(cid, port uint32) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	wait := unix.Timeval{Sec: 2}
	_ = unix.SetsockoptTimeval(fd, unix.AF_VSOCK, unix.SO_VM_SOCKETS_CONNECT_TIMEOUT, &wait)
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait)
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &wait)
	if err := unix.Connect(fd, &unix.SockaddrVM{CID: cid, Port: port}); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), fmt.Sprintf("vsock %d:%d", cid, port)), nil
}

// connectVsock makes 400 connections to each service of the host, each with the beginning of a long message, and tries the tethers of all
// machines that may be beside it.
func connectVsock([]string) {
	cid := ownCID()
	beginning := append(binary.BigEndian.AppendUint32(nil, 1<<20), bytes.Repeat([]byte("x"), 900<<10)...)
	var held []*os.File
	own := func(s link.Service) uint32 { return link.HostPort(cid, s) }
	for _, port := range []uint32{own(link.ServiceGuestinfo), own(link.ServiceLog), own(0), own(3), own(15), link.PortLink, 0, 1} {
		made := 0
		for n := range 400 {
			c, err := vsock(hostCID, port)
			if err != nil {
				if n == 0 || made > 0 {
					say(fmt.Sprintf("port %#x", port), err)
				}
				break
			}
			made++
			_ = unix.SetNonblock(int(c.Fd()), true)
			_, _ = unix.Write(int(c.Fd()), beginning)
			held = append(held, c)
		}
		say(fmt.Sprintf("connections to port %#x", port), made)
	}
	var reached atomic.Int32
	var group sync.WaitGroup
	for other := uint32(1); other < mostCID; other++ {
		if other == hostCID || other == cid {
			continue
		}
		group.Go(func() {
			for _, at := range []unix.SockaddrVM{{CID: other, Port: link.PortLink}, {CID: hostCID, Port: link.HostPort(other, link.ServiceGuestinfo)}} {
				if _, err := vsock(at.CID, at.Port); err == nil {
					reached.Add(1)
				}
			}
		})
	}
	group.Wait()
	say("others reached", reached.Load())
	say("held", len(held))
}

// ask sends one guestinfo command.
func ask(c *os.File, command string) (string, error) {
	if err := link.WriteMessage(c, command); err != nil {
		return "", err
	}
	return link.ReadMessage(c)
}

// setGuestinfo says what only a tether may say: it reads its Spec, sets values of bytes that a record must escape, in many keys and in a
// loop, says that it has ended well, and with the argument "freeze" it stops at a fork point that nobody asked for.
func setGuestinfo(args []string) {
	cid := ownCID()
	once := func(command string) string {
		c, err := vsock(hostCID, link.HostPort(cid, link.ServiceGuestinfo))
		if err != nil {
			return "refused: " + err.Error()
		}
		defer c.Close()
		reply, err := ask(c, command)
		if err != nil {
			return "cut: " + err.Error()
		}
		return reply[:min(len(reply), 40)]
	}
	set := func(key, value string) string { return once(link.CommandInfoSet + " " + key + " " + value) }
	say("spec", once(link.CommandInfoGet+" "+link.KeySpec))
	for n := range 12 {
		say("escaped bytes", set(fmt.Sprintf("guestinfo.k%d", n), strings.Repeat("\x01", link.MaxValue)))
	}
	say("names", set(link.KeyHealth, escapes))
	say("ip", set(link.KeyIP, escapes))
	say("phase", set(link.KeyPhase, escapes))
	if c, err := vsock(hostCID, link.HostPort(cid, link.ServiceGuestinfo)); err == nil {
		answered := 0
		for n := range 300 {
			if _, err := ask(c, fmt.Sprintf("%s guestinfo.loop %d", link.CommandInfoSet, n)); err != nil {
				break
			}
			answered++
		}
		say("answered in a loop", answered)
		c.Close()
	}
	say("forged", set(link.KeyStatus, `{"state":"EXITED","exitCode":0}`))
	if len(args) == 0 {
		return
	}
	go func() { say("freeze", once(link.CommandFreeze)) }()
	time.Sleep(2 * time.Second) // whoever is frozen says no more
	say("ended", "guestinfo")
	os.Exit(7) // not as was said before
}

// sendRecords makes 200 log connections, each with what is no record, or one that only the host may write.
func sendRecords([]string) {
	cid := ownCID()
	header := func(stream byte, length uint32) []byte {
		return append([]byte{stream, 0, 0, 0}, append(binary.BigEndian.AppendUint32(nil, length), make([]byte, 8)...)...)
	}
	junk := [][]byte{
		bytes.Repeat([]byte{0xff}, 4096), header(3, 8), header(4, 8), header(1, 0xffffffff), header(9, 1), header(1, 65536), nil,
		append(header(3, 64), bytes.Repeat([]byte(escapes), 8)...),
	}
	made := 0
	for n := range 200 {
		c, err := vsock(hostCID, link.HostPort(cid, link.ServiceLog))
		if err != nil {
			break
		}
		made++
		_, _ = c.Write(junk[n%len(junk)])
		if n%3 == 0 {
			_, _ = c.Write(bytes.Repeat([]byte{1}, 64<<10))
		}
		_ = syscall.Shutdown(int(c.Fd()), syscall.SHUT_WR)
		c.Close()
	}
	say("connections", made)
}
