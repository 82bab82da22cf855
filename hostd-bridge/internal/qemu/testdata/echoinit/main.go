// Command echoinit is the init of the guest of this package's tests: it echoes on vsock, sets guestinfo, writes a log
// and does what its command line asks for.
package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"

	"github.com/containervm/containervm/tether/link"
)

func main() {
	if err := run(); err != nil {
		fmt.Println("echoinit:", err)
	}
	unix.IoctlSetInt(1, unix.TCSBRK, 1) // drain the console (tcdrain)
	unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
}

func run() error {
	for fs, dir := range map[string]string{"devtmpfs": "/dev", "proc": "/proc", "sysfs": "/sys"} {
		os.MkdirAll(dir, 0o755)
		if err := unix.Mount(fs, dir, fs, 0, ""); err != nil && err != unix.EBUSY {
			return fmt.Errorf("mount %s: %w", dir, err)
		}
	}
	loadModules()
	if strings.Contains(cmdline(), "test.panic") {
		os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0)
	}
	l, err := listen(link.PortLink)
	if err != nil {
		return err
	}
	sink, err := listenAny(link.PortLink + 1)
	if err != nil {
		return err
	}
	go serve(sink, func(c *vsock.Conn) { io.Copy(io.Discard, c) })
	quit, err := listenAny(link.PortLink + 2)
	if err != nil {
		return err
	}
	disk, err := listenAny(link.PortLink + 3)
	if err != nil {
		return err
	}
	go serve(disk, readDisk)
	source, err := listenAny(link.PortLink + 4)
	if err != nil {
		return err
	}
	go serve(source, pour)
	questions, err := listenAny(link.PortLink + 5)
	if err != nil {
		return err
	}
	go serve(questions, answer)
	go serve(l, func(c *vsock.Conn) {
		if _, err := io.Copy(c, c); err != nil {
			fmt.Println("echo:", err)
		}
		c.CloseWrite()
	})
	if err := announce("up"); err != nil {
		return err
	}
	if strings.Contains(cmdline(), "test.freeze") {
		if err := freezeAgain(); err != nil {
			return err
		}
		go watch()
	}
	c, err := quit.Accept()
	if err != nil {
		return err
	}
	// The peer ends the connection: a machine that ends at once takes its answer to the request with it.
	if _, err := io.Copy(io.Discard, c); err != nil {
		return err
	}
	return c.Close()
}

// freezeAgain freezes the machine, and each child in turn that has the key guestinfo.again.
func freezeAgain() error {
	for generation := 1; ; generation++ {
		if err := freeze(); err != nil {
			return err
		}
		if err := announce(fmt.Sprintf("child %d", generation)); err != nil {
			return err
		}
		if again, err := askHost("info-get guestinfo.again"); err != nil || again == "" {
			return nil
		}
	}
}

// listen waits for the transport, which a module may bring up a little later.
func listen(port uint32) (l *vsock.Listener, err error) {
	for range 100 {
		if l, err = listenAny(port); err == nil {
			return l, nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil, err
}

// listenAny listens whatever the machine's CID is: a fork changes it.
func listenAny(port uint32) (*vsock.Listener, error) {
	return vsock.ListenContextID(unix.VMADDR_CID_ANY, port, nil)
}

func cmdline() string {
	b, _ := os.ReadFile("/proc/cmdline")
	return string(b)
}

// loadModules loads /modules/*.ko, in the order of their names; a kernel with everything built in has none.
func loadModules() {
	files, _ := filepath.Glob("/modules/*.ko")
	for _, name := range files {
		f, err := os.Open(name)
		if err == nil {
			err = unix.FinitModule(int(f.Fd()), "", 0)
			f.Close()
		}
		if err != nil {
			fmt.Println("echoinit:", name, err)
		}
	}
}

func serve(l *vsock.Listener, handle func(*vsock.Conn)) {
	for {
		c, err := l.Accept()
		if err != nil {
			fmt.Println("echoinit: accept:", err)
			return
		}
		go func() {
			defer c.Close()
			handle(c.(*vsock.Conn))
		}()
	}
}

// pour sends as many bytes as the peer asks for, in decimal before the end of its input.
func pour(c *vsock.Conn) {
	var n int64
	text, _ := io.ReadAll(c)
	fmt.Sscan(string(text), &n)
	b := make([]byte, 256<<10)
	for n > 0 {
		k, err := c.Write(b[:min(n, int64(len(b)))])
		if err != nil {
			fmt.Println("pour:", err)
			return
		}
		n -= int64(k)
	}
}

// readDisk answers with the first bytes of the root disk.
func readDisk(c *vsock.Conn) {
	f, err := os.Open("/dev/vda")
	if err != nil {
		fmt.Fprint(c, err)
		return
	}
	defer f.Close()
	unix.IoctlSetInt(int(f.Fd()), unix.BLKFLSBUF, 0)
	io.CopyN(c, f, 4096)
}

// watch says after each fork of the running machine that it is there, from then on under its new CID.
func watch() {
	for n := 0; ; n++ {
		_, _ = askHost(fmt.Sprintf("info-set guestinfo.settled %d", n))
		_, _ = askHost("cvm.wait guestinfo.never")
	}
}

// freeze returns in a child of the machine: there the connection is reset.
func freeze() error {
	_, info, err := dialHost()
	if err != nil {
		return err
	}
	defer info.Close()
	if err := link.WriteMessage(info, link.CommandFreeze); err != nil {
		return err
	}
	if reply, err := link.ReadMessage(info); err == nil {
		return fmt.Errorf("the host answers a freeze: %s", reply)
	}
	return nil
}

func dialHost() (cid uint32, c net.Conn, err error) {
	return dialService(link.ServiceGuestinfo)
}

// dialService connects with the host and shows the machine's token, which the first connection gets.
func dialService(s link.Service) (cid uint32, c net.Conn, err error) {
	if cid, err = vsock.ContextID(); err != nil {
		return 0, nil, err
	}
	if c, err = vsock.Dial(vsock.Host, link.HostPort(cid, s), nil); err != nil {
		return 0, nil, fmt.Errorf("dial service %d: %w", s, err)
	}
	if err := greet(c); err != nil {
		c.Close()
		return 0, nil, err
	}
	return cid, c, nil
}

func greet(c net.Conn) error {
	token.Lock()
	defer token.Unlock()
	if token.text != "" {
		return link.WriteMessage(c, link.Command{Name: link.CommandToken, Value: token.text}.String())
	}
	answer, err := ask(c, link.CommandHello+" guestinfo.greeting")
	if err == nil {
		token.text, _, _ = strings.Cut(answer, " ")
	}
	return err
}

var token struct {
	sync.Mutex
	text string
}

func askHost(text string) (string, error) {
	_, c, err := dialHost()
	if err != nil {
		return "", err
	}
	defer c.Close()
	return ask(c, text)
}

// announce says by guestinfo and by log in which phase the guest is.
func announce(phase string) error {
	_, info, err := dialHost()
	if err != nil {
		return err
	}
	defer info.Close()
	greeting, err := ask(info, "info-get guestinfo.greeting")
	if err != nil {
		return err
	}
	if err := writeLog(greeting); err != nil {
		return err
	}
	_, err = ask(info, "info-set "+link.KeyPhase+" "+phase)
	return err
}

func ask(c net.Conn, text string) (string, error) {
	if err := link.WriteMessage(c, text); err != nil {
		return "", err
	}
	reply, err := link.ReadMessage(c)
	if err != nil {
		return "", err
	}
	return link.ParseReply(reply)
}

// writeLog sends a record and waits until the host has it.
func writeLog(text string) error {
	_, conn, err := dialService(link.ServiceLog)
	if err != nil {
		return err
	}
	c := conn.(*vsock.Conn)
	defer c.Close()
	if _, err := c.Write(link.AppendRecord(nil, link.Record{Stream: link.StreamStdout, Payload: []byte(text)})); err != nil {
		return err
	}
	if err := c.CloseWrite(); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, c)
	return err
}
