package process

import (
	"bytes"
	"errors"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// tick is the unit of times in /proc/PID/stat: USER_HZ is 100 on every Linux of this architecture.
const tick = 10 * time.Millisecond

// List tells of the container's processes as the tether's /proc shows them: no tool of the image is needed.
func (c *Container) List() ([]*tetherv1.ProcessInfo, error) {
	var known accounts
	if err := c.space.Do(func() (err error) { known, err = readAccounts(); return err }); err != nil {
		known = accounts{} // numbers then
	}
	booted := bootTime()
	inside := map[int32]int32{} // PID here to PID in the container
	var list []*tetherv1.ProcessInfo
	err := c.eachInside(func(outer, inner int32, status string) {
		p, err := readProcess(outer)
		if err != nil {
			return // it has ended
		}
		inside[outer] = inner
		p.Pid = inner
		addStatus(p, status, known)
		p.StartUnixNano += booted.UnixNano()
		list = append(list, p)
	})
	for _, p := range list {
		p.Ppid, p.Foreground = inside[p.Ppid], inside[p.Foreground]
	}
	return list, err
}

// addStatus adds what /proc/PID/status says of a process, proc_pid_status(5): a line of a process's own has its value in each PID
// namespace, the container's being the second.
func addStatus(p *tetherv1.ProcessInfo, status string, known accounts) {
	const effective = 1
	p.Uid, p.Gid = parseID(field(statusLine(status, "Uid"), effective)), parseID(field(statusLine(status, "Gid"), effective))
	p.User, p.Group = known.userName(p.Uid), known.groupName(p.Gid)
	p.ProcessGroup, p.Session = int32(parseID(field(statusLine(status, "NSpgid"), 1))), int32(parseID(field(statusLine(status, "NSsid"), 1)))
	p.LockedBytes = uint64(parseID(field(statusLine(status, "VmLck"), 0))) << 10
}

// SignalAll sends sig to every process of the container.
func (c *Container) SignalAll(sig unix.Signal) error {
	var failed error
	err := c.eachInside(func(outer, _ int32, _ string) {
		if err := unix.Kill(int(outer), sig); err != nil && !errors.Is(err, unix.ESRCH) {
			failed = err
		}
	})
	return errors.Join(err, failed)
}

// SignalHandlers sends sig to the processes of the container that handle it or have it wait for them (signal(7)), and says how many those
// are; without all to the main process alone. The others, which it would end at best, are counted in deaf.
func (c *Container) SignalHandlers(sig unix.Signal, all bool) (told, deaf int, err error) {
	const main = 1 // PID of the main process, or of its init
	err = c.eachInside(func(outer, inner int32, status string) {
		if !all && inner != main {
			return
		}
		if !handles(status, sig) || unix.Kill(int(outer), sig) != nil {
			deaf++
			return
		}
		told++
	})
	return told, deaf, err
}

// handles reports whether a process with a status catches or blocks a signal: bit n-1 of the masks is signal n, proc_pid_status(5).
func handles(status string, sig unix.Signal) bool {
	for _, mask := range []string{"SigCgt", "SigBlk"} {
		if bits, err := strconv.ParseUint(statusLine(status, mask), 16, 64); err == nil && bits>>(uint(sig)-1)&1 != 0 {
			return true
		}
	}
	return false
}

// eachInside calls f with the processes that live in the container's PID namespace, or in one below it: their PIDs in the tether's
// namespace and in the container's, and their /proc/PID/status. Where the tether is not alone, in a test, those of others are none of them.
func (c *Container) eachInside(f func(outer, inner int32, status string)) error {
	own, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	depth := len(strings.Fields(statusLine(string(own), "NSpid")))
	dir, err := os.Open("/proc")
	if err != nil {
		return err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		pid, err := strconv.ParseInt(name, 10, 32)
		if err != nil {
			continue
		}
		status, err := os.ReadFile("/proc/" + name + "/status")
		if err != nil {
			continue // it has ended
		}
		if pids := strings.Fields(statusLine(string(status), "NSpid")); len(pids) > depth {
			if !c.holds("/proc/"+name+"/ns/pid", len(pids)-depth-1) {
				continue
			}
			inner, _ := strconv.ParseInt(pids[depth], 10, 32)
			f(int32(pid), int32(inner), string(status))
		}
	}
	return nil
}

// holds reports whether a PID namespace is the container's, or so many levels below it.
func (c *Container) holds(path string, below int) bool {
	ns, err := os.Open(path)
	if err != nil {
		return false // its process has ended
	}
	defer func() { ns.Close() }()
	for range below {
		fd, err := unix.IoctlRetInt(int(ns.Fd()), unix.NS_GET_PARENT)
		if err != nil {
			return false
		}
		ns.Close()
		ns = os.NewFile(uintptr(fd), path)
	}
	id, err := fileID(int(ns.Fd()))
	c.mu.Lock()
	defer c.mu.Unlock()
	return err == nil && id == c.namespace
}

// inode is what no two files have in common at a time.
type inode struct{ dev, ino uint64 }

func fileID(fd int) (inode, error) {
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	return inode{st.Dev, st.Ino}, err
}

// statusLine is the value of a line of /proc/PID/status.
func statusLine(status, key string) string {
	_, after, _ := strings.Cut("\n"+status, "\n"+key+":")
	value, _, _ := strings.Cut(after, "\n")
	return strings.TrimSpace(value)
}

// field is the n-th field of a line, empty when there are fewer.
func field(s string, n int) string {
	if f := strings.Fields(s); n < len(f) {
		return f[n]
	}
	return ""
}

func readProcess(pid int32) (*tetherv1.ProcessInfo, error) {
	dir := "/proc/" + strconv.Itoa(int(pid))
	stat, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return nil, err
	}
	p, err := parseStat(string(stat))
	if err != nil {
		return nil, err
	}
	args, err := os.ReadFile(dir + "/cmdline")
	if err == nil && len(args) > 0 {
		p.Command = string(bytes.TrimSpace(bytes.ReplaceAll(args, []byte{0}, []byte{' '})))
	}
	return p, nil
}

// parseStat decodes /proc/PID/stat, proc_pid_stat(5). Ppid and Foreground are PIDs here; StartUnixNano counts from boot; Command is
// the name in brackets, as for a process that shows no arguments.
func parseStat(text string) (*tetherv1.ProcessInfo, error) {
	open, shut := strings.IndexByte(text, '('), strings.LastIndexByte(text, ')')
	if open < 0 || shut < open {
		return nil, errors.New("malformed /proc/PID/stat")
	}
	f := strings.Fields(text[shut+1:]) // f[i] is field i+3 of the manual
	if len(f) < 22 {
		return nil, errors.New("short /proc/PID/stat")
	}
	number := func(i int) uint64 { n, _ := strconv.ParseUint(f[i-3], 10, 64); return n }
	signed := func(i int) int32 { n, _ := strconv.ParseInt(f[i-3], 10, 32); return int32(n) }
	return &tetherv1.ProcessInfo{
		Name:          text[open+1 : shut],
		Foreground:    signed(8),
		Priority:      signed(18),
		Nice:          signed(19),
		Threads:       uint32(number(20)),
		VirtualBytes:  number(23),
		Ppid:          int32(number(4)),
		State:         f[0],
		Tty:           terminalName(number(7)),
		CpuTicks:      number(14) + number(15),
		StartUnixNano: int64(number(22)) * int64(tick),
		ResidentBytes: number(24) * uint64(os.Getpagesize()),
		Command:       "[" + text[open+1:shut] + "]",
	}, nil
}

// terminalName names the device of tty_nr: pseudo-terminals have the major numbers 136 to 143 (Linux, devices.txt).
func terminalName(nr uint64) string {
	major, minor := nr>>8&0xfff, nr&0xff|nr>>12&0xfff00
	if major < 136 || major > 143 {
		return ""
	}
	return "pts/" + strconv.FormatUint((major-136)<<8|minor, 10)
}

// bootTime is when the machine's boot clock began, by today's wall clock.
func bootTime() time.Time {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return time.Time{}
	}
	return time.Now().Add(-time.Duration(ts.Nano()))
}
