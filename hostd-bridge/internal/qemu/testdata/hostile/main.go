// Command hostile is a process of a container that wants to be more than that: it tries what its argument says, and prints a line that
// begins with BROKEN for each wall that it got through, then "tried N connected M".
package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"

	"github.com/containervm/containervm/tether/link"
)

// patience is how long the host may take to say something that it must not.
const patience = 300 * time.Millisecond

var tried, connected int

func main() {
	switch os.Args[1] {
	case "vsock":
		talk()
		port()
	case "mute":
		hold(60)
	case "tether":
		handles()
		helpers()
		devices()
	case "helper": // what the kernel runs, beside the container, if it runs anything
		out, err := os.OpenFile("/disk/escaped", os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		if err != nil {
			return
		}
		os.Stdout = out
		beside()
		talk()
	case "crash":
		_ = unix.Kill(os.Getpid(), unix.SIGSEGV)
		time.Sleep(time.Second)
	}
	fmt.Println("tried", tried, "connected", connected)
}

func broken(what string, args ...any) { fmt.Printf("BROKEN "+what+"\n", args...) }

func message(text string) []byte {
	var b strings.Builder
	_ = link.WriteMessage(&b, text)
	return []byte(b.String())
}

// talk says to guestinfo and log what a tether says.
func talk() {
	wrong := message(link.CommandToken + " " + strings.Repeat("0", link.TokenLength))
	for _, text := range []string{
		"info-get " + link.KeySpec, "cvm.hello " + link.KeySpec, "cvm.wait " + link.KeySpec, "instantclone.freeze", "cvm.seed", "cvm.time",
		"info-set " + link.KeyStatus + ` {"state":"EXITED","exit":{"code":0}}`, "info-set " + link.KeyReceipt + " {}", "info-set guestinfo.hostile yes",
	} {
		say(link.ServiceGuestinfo, text, message(text))
		say(link.ServiceGuestinfo, "token, "+text, append(append([]byte{}, wrong...), message(text)...))
	}
	record := link.AppendRecord(nil, link.Record{Stream: link.StreamStdout, Payload: []byte("forged\n")})
	say(link.ServiceLog, "record", record)
	say(link.ServiceLog, "token, record", append(append([]byte{}, wrong...), record...))
}

func say(s link.Service, what string, text []byte) {
	tried++
	c, err := connect(s)
	if err != nil {
		return
	}
	defer c.Close()
	connected++
	_, _ = c.Write(text)
	_ = c.SetReadDeadline(time.Now().Add(patience))
	if b, _ := io.ReadAll(io.LimitReader(c, 100)); len(b) > 0 {
		broken("service %d answers %q with %q", s, what, b)
	}
}

func connect(s link.Service) (net.Conn, error) {
	cid, err := vsock.ContextID()
	if err != nil {
		cid = ownCID()
	}
	return vsock.Dial(vsock.Host, link.HostPort(cid, s), nil)
}

// ownCID is the machine's CID where /dev has no vsock.
func ownCID() uint32 {
	if err := unix.Mknod("/tmp/vsock", unix.S_IFCHR|0o600, int(unix.Mkdev(10, vsockMinor()))); err == nil {
		if f, err := os.Open("/tmp/vsock"); err == nil {
			defer f.Close()
			if cid, err := unix.IoctlGetInt(int(f.Fd()), unix.IOCTL_VM_SOCKETS_GET_LOCAL_CID); err == nil {
				return uint32(cid)
			}
		}
	}
	return guess
}

// guess is the CID that the test gives its machines.
const guess = 77

func vsockMinor() uint32 {
	text, _ := os.ReadFile("/proc/misc")
	for line := range strings.Lines(string(text)) {
		var n uint32
		var name string
		if fmt.Sscan(line, &n, &name); name == "vsock" {
			return n
		}
	}
	return 0
}

// hold has many connections that say nothing, until it is killed.
func hold(n int) {
	var held []net.Conn
	for {
		for _, s := range []link.Service{link.ServiceGuestinfo, link.ServiceLog} {
			if c, err := connect(s); err == nil {
				held = append(held, c)
			}
		}
		if len(held) == 2 {
			fmt.Println("holding")
		}
		if len(held) > n {
			for _, c := range held {
				c.Close()
			}
			held = nil
		}
		time.Sleep(time.Millisecond)
	}
}

// port wants to answer the host in the tether's place, and to talk to the tether as the host.
func port() {
	for _, cid := range []uint32{unix.VMADDR_CID_ANY, ownCID()} {
		tried++
		fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0)
		if err == nil {
			err = unix.Bind(fd, &unix.SockaddrVM{CID: cid, Port: link.PortLink})
		}
		if err == nil {
			broken("the link's port can be taken for CID %d", cid)
		}
	}
	for _, cid := range []uint32{ownCID(), 1} {
		tried++
		if c, err := vsock.Dial(cid, link.PortLink, nil); err == nil {
			_ = c.SetReadDeadline(time.Now().Add(patience))
			if n, _ := c.Read(make([]byte, 8)); n > 0 {
				broken("the link answers CID %d", cid)
			}
		}
	}
}

// handles wants a handle of the tether's process: who has it, and all capabilities, has its descriptors, its memory and its namespaces.
func handles() {
	tried++
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err == nil {
		err = unix.Connect(fd, &unix.SockaddrUnix{Name: "/dev/cvm/fork.sock"})
	}
	if err != nil {
		broken("the fork point cannot be reached, so nothing was tried: %v", err)
		return
	}
	const peerPIDFD = 77 // SO_PEERPIDFD, asm-generic/socket.h
	if pidfd, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, peerPIDFD); err == nil {
		for n := range 64 {
			if _, err := unix.PidfdGetfd(pidfd, n, 0); err == nil {
				broken("descriptor %d of the tether can be taken", n)
			}
		}
		if err := unix.Setns(pidfd, unix.CLONE_NEWNS); err == nil {
			broken("the tether's mount namespace can be entered")
		}
	}
	tried++
	if ns, err := os.Open("/proc/self/ns/pid"); err == nil {
		if parent, err := unix.IoctlRetInt(int(ns.Fd()), unix.NS_GET_PARENT); err == nil {
			broken("the parent of the PID namespace is descriptor %d", parent)
		}
	}
}

// helpers has the kernel run a program of the container's beside it.
func helpers() {
	script := "#!/disk/bin/hostile helper\n"
	_ = os.WriteFile("/escape", []byte(script), 0o755)
	tried++
	_ = os.WriteFile("/proc/sys/kernel/usermodehelper/bset", []byte("4294967295 4294967295"), 0)
	if text, err := os.ReadFile("/proc/sys/kernel/usermodehelper/bset"); err == nil && strings.TrimSpace(string(text)) != "0\t0" {
		broken("the kernel's own programs have capabilities: %s", text)
	}
	tried++
	_ = os.WriteFile("/proc/sys/kernel/core_pattern", []byte("|/disk/bin/hostile helper"), 0)
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY})
	_ = exec.Command("/bin/hostile", "crash").Run()
	for _, name := range []string{"modprobe", "hotplug", "poweroff_cmd"} {
		tried++
		_ = os.WriteFile("/proc/sys/kernel/"+name, []byte("/disk/escape"), 0)
	}
	_, _ = unix.Socket(44, unix.SOCK_STREAM, 0) // a family that would want a module
	tried++
	_ = os.WriteFile("/sys/kernel/uevent_helper", []byte("/disk/escape"), 0)
	_ = os.WriteFile("/sys/class/net/lo/uevent", []byte("change"), 0)
	tried++
	_ = os.Mkdir("/v1", 0o755)
	if unix.Mount("none", "/v1", "cgroup", 0, "none,name=hostile") == nil {
		_ = os.Mkdir("/v1/x", 0o755)
		_ = os.WriteFile("/v1/release_agent", []byte("/disk/escape"), 0)
		_ = os.WriteFile("/v1/x/notify_on_release", []byte("1"), 0)
		_ = exec.Command("/bin/sh", "-c", "echo $$ >/v1/x/cgroup.procs").Run()
		time.Sleep(patience)
	}
	tried++
	name, kind := []byte("hostile\x00"), []byte("user\x00")
	_, _, _ = syscall.Syscall6(unix.SYS_REQUEST_KEY, uintptr(unsafe.Pointer(&kind[0])), uintptr(unsafe.Pointer(&name[0])), uintptr(unsafe.Pointer(&name[0])), 0, 0, 0)
	time.Sleep(2 * patience)
	if text, err := os.ReadFile("/escaped"); err == nil {
		fmt.Printf("a helper ran:\n%s", text)
	}
}

// beside is what a program in the machine's first namespaces tries on the tether.
func beside() {
	for _, path := range []string{"/proc/1/mem", "/proc/1/environ", "/proc/1/root/init", "/proc/1/maps"} {
		tried++
		if f, err := os.OpenFile(path, os.O_RDONLY, 0); err == nil {
			if n, err := f.Read(make([]byte, 1)); n > 0 || err == nil {
				broken("%s of the tether can be read", path)
			}
		}
	}
	tried++
	if pidfd, err := unix.PidfdOpen(1, 0); err == nil {
		for n := range 64 {
			if _, err := unix.PidfdGetfd(pidfd, n, 0); err == nil {
				broken("descriptor %d of the tether can be taken", n)
			}
		}
	}
	tried++
	if unix.PtraceAttach(1) == nil {
		broken("the tether can be traced")
	}
	tried++
	if unix.Mount("tmpfs", "/mnt", "tmpfs", 0, "") == nil {
		broken("a helper mounts")
	}
}

// devices wants the machine's memory and ports.
func devices() {
	for name, minor := range map[string]uint32{"mem": 1, "kmem": 2, "port": 4} {
		tried++
		path := "/tmp/" + name
		_ = unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(1, minor)))
		if f, err := os.Open(path); err == nil {
			broken("/dev/%s can be opened", f.Name())
		}
	}
	tried++
	if _, err := os.Stat("/proc/kcore"); err == nil {
		broken("/proc/kcore is there")
	}
	tried++
	if _, _, err := syscall.Syscall(unix.SYS_IOPL, 3, 0, 0); err == 0 {
		broken("ports can be used")
	}
	tried++
	if entries, _ := os.ReadDir("/sys/bus/pci/devices"); len(entries) > 0 {
		fmt.Println("the machine has PCI: its devices can be told to write anywhere")
	}
}
