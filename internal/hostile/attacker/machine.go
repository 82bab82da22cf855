package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// fillTmpfs writes to /dev/shm and to a file system in memory of its own without a limit, as long as the machine lets it.
func fillTmpfs([]string) {
	if err := os.WriteFile("/before", []byte("written"), 0o600); err != nil {
		say("before", err)
	}
	unix.Sync()
	_ = os.MkdirAll("/all", 0o755)
	say("mount", unix.Mount("tmpfs", "/all", "tmpfs", 0, "size=90%"))
	for _, name := range []string{"/dev/shm/fill", "/all/fill"} {
		say(name, fill(name, 1<<30))
	}
}

// fill writes at most so many bytes to a file, and says how many went and why no more.
func fill(name string, most int) string {
	f, err := os.Create(name)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	chunk := bytes.Repeat([]byte("fill"), 256<<10)
	written := 0
	for written < most {
		n, err := f.Write(chunk)
		if written += n; err != nil {
			return fmt.Sprintf("%d, %v", written, err)
		}
	}
	return fmt.Sprint(written)
}

// fillDisk writes 192 MiB to its root, and takes them back: the host's files do not get smaller by that.
func fillDisk([]string) {
	say("root", fill("/fill", 192<<20))
	unix.Sync()
	say("removed", os.Remove("/fill"))
	unix.Sync()
}

// takeMemory allocates until the kernel kills it.
func takeMemory([]string) {
	var all [][]byte
	for len(all) < 4096 {
		all = append(all, bytes.Repeat([]byte{1}, 1<<20))
	}
	say("MiB", len(all))
}

// forkBomb starts itself as often as it can, and so do those that it starts.
func forkBomb([]string) {
	self, err := os.Executable()
	if err != nil {
		say("self", err)
		return
	}
	for {
		if exec.Command(self, "forks", "child").Start() != nil {
			time.Sleep(10 * time.Millisecond)
		}
	}
}

// rebindDevices takes each virtio device of the machine from its driver and gives it back, again and again: each time the device is reset, and
// what plays it begins anew. The one that the root disk is on goes too.
func rebindDevices([]string) {
	rebound := 0
	for range 20 {
		drivers, _ := filepath.Glob("/sys/bus/virtio/drivers/*")
		for _, driver := range drivers {
			devices, _ := filepath.Glob(driver + "/virtio*")
			for _, device := range devices {
				if strings.HasSuffix(driver, "virtio_blk") {
					continue // the program itself is on it: the last thing that this attack does
				}
				name := []byte(filepath.Base(device))
				if os.WriteFile(driver+"/unbind", name, 0) == nil {
					rebound++
				}
				_ = os.WriteFile(driver+"/bind", name, 0)
			}
		}
	}
	say("rebound", rebound)
	transports, _ := filepath.Glob("/sys/bus/platform/drivers/virtio-mmio/*.virtio_mmio")
	for _, device := range transports {
		name := []byte(filepath.Base(device))
		_ = os.WriteFile(filepath.Dir(device)+"/unbind", name, 0)
		_ = os.WriteFile(filepath.Dir(device)+"/bind", name, 0)
	}
	say("transports", len(transports))
}

// hangMachine has threads of the highest priority run on every processor, for ever, with the kernel's guard against that switched off.
func hangMachine([]string) {
	_ = os.WriteFile("/proc/sys/kernel/sched_rt_runtime_us", []byte("-1"), 0) // where the kernel has it
	for range 2*runtime.NumCPU() + 2 {
		go func() {
			runtime.LockOSThread()
			attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 99}
			say("priority", unix.SchedSetAttr(0, &attr, 0))
			for { //nolint:staticcheck,revive // it is meant to spin
			}
		}()
	}
	forever()
}

// panicMachine has the kernel panic with a text of its own on the console.
func panicMachine([]string) {
	if kmsg, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0); err == nil {
		for range 50 {
			_, _ = kmsg.WriteString(escapes + " mine\n")
		}
	}
	console := filepath.Join("/", "attack-console")
	_ = unix.Mknod(console, unix.S_IFCHR|0o600, int(unix.Mkdev(5, 1)))
	if c, err := os.OpenFile(console, os.O_WRONLY|unix.O_NOCTTY, 0); err == nil {
		for range 50 {
			_, _ = c.WriteString(escapes + " mine\r\n")
		}
	}
	say("sysrq", os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0))
}

// attackKernel tries ways of root into what is below and beside it. What works says so by its name.
func attackKernel([]string) {
	try := func(what string, err error) {
		if err == nil {
			say("works", what)
		}
	}
	try("kexec", unix.KexecFileLoad(0, 0, "", 0))
	for _, name := range []string{"mem", "kmem", "port"} {
		minor := map[string]uint32{"mem": 1, "kmem": 2, "port": 4}[name]
		_ = unix.Mknod("/attack-"+name, unix.S_IFCHR|0o600, int(unix.Mkdev(1, minor)))
		f, err := os.OpenFile("/attack-"+name, os.O_RDWR, 0)
		if err == nil {
			_, err = f.ReadAt(make([]byte, 1), 0x1000)
			f.Close()
		}
		try("/dev/"+name, err)
	}
	try("iopl", ioPrivilege())
	try("suspend to memory", os.WriteFile("/sys/power/state", []byte("mem"), 0))
	try("suspend", os.WriteFile("/sys/power/state", []byte("freeze"), 0))
	try("init_module", unix.InitModule([]byte("x"), ""))
	for _, text := range []string{"h", "t", "m", "w"} { // the kernel's state to the console, whose end a person reads
		_ = os.WriteFile("/proc/sysrq-trigger", []byte(text), 0)
	}
}
