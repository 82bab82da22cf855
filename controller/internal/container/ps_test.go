package container

import (
	"strings"
	"testing"
	"time"

	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// psOf is what a process looks like in the columns for args.
func psOf(t *testing.T, args string) (titles, line string) {
	t.Helper()
	columns, err := psColumns(args)
	if err != nil {
		t.Fatalf("ps %s: %v", args, err)
	}
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	p := &tetherv1.ProcessInfo{
		Pid: 7, Ppid: 1, User: "ann", Uid: 1000, Group: "staff", Gid: 50, State: "S", CpuTicks: 6150, StartUnixNano: start.UnixNano(), ResidentBytes: 4 << 20,
		VirtualBytes: 8 << 20, Tty: "pts/0", Command: "/bin/sleep 10", Name: "sleep", ProcessGroup: 7, Session: 7, Foreground: 7, Nice: 5, Priority: 25, Threads: 2,
	}
	m := psMachine{now: start.Add(10 * time.Minute), memory: 64 << 20}
	var t1, t2 []string
	for _, c := range columns {
		t1, t2 = append(t1, c.title), append(t2, c.show(p, m))
	}
	return strings.Join(t1, "|"), strings.Join(t2, "|")
}

// TestPs: the columns and titles are those of procps 4.0.
func TestPs(t *testing.T) {
	for _, c := range []struct{ args, titles, line string }{
		{"", "UID|PID|PPID|C|STIME|TTY|TIME|CMD", "ann|7|1|10|03:04|pts/0|00:01:01|/bin/sleep 10"},
		{"-ef", "UID|PID|PPID|C|STIME|TTY|TIME|CMD", "ann|7|1|10|03:04|pts/0|00:01:01|/bin/sleep 10"},
		{"aux", "USER|PID|%CPU|%MEM|VSZ|RSS|TTY|STAT|START|TIME|COMMAND", "ann|7|10.2|6.2|8192|4096|pts/0|SNsl+|03:04|1:01|/bin/sleep 10"},
		{"-aux", "USER|PID|%CPU|%MEM|VSZ|RSS|TTY|STAT|START|TIME|COMMAND", "ann|7|10.2|6.2|8192|4096|pts/0|SNsl+|03:04|1:01|/bin/sleep 10"},
		{"ax", "PID|TTY|STAT|TIME|COMMAND", "7|pts/0|SNsl+|1:01|/bin/sleep 10"},
		{"-e", "PID|TTY|TIME|CMD", "7|pts/0|00:01:01|sleep"},
		{"-o pid,comm", "PID|COMMAND", "7|sleep"},
		{"-eo pid,ppid,user,args", "PID|PPID|USER|COMMAND", "7|1|ann|/bin/sleep 10"},
		{"-e -o pid -o etime=AGE", "PID|AGE", "7|10:00"},
		{"-opid,ni,pri,opri,nlwp,sid,pgid,group,tt,start,etimes", "PID|NI|PRI|PRI|NLWP|SID|PGID|GROUP|TT|STARTED|ELAPSED", "7|5|14|85|2|7|7|staff|pts/0|03:04:05|600"},
		{"--format pid,pmem", "PID|%MEM", "7|6.2"},
		{"-ely", "S|UID|PID|PPID|C|PRI|NI|RSS|SZ|TTY|TIME|CMD", "S|1000|7|1|10|85|5|4096|2048|pts/0|00:01:01|sleep"},
	} {
		if titles, line := psOf(t, c.args); titles != c.titles || line != c.line {
			t.Errorf("ps %s:\n%s\n%s\nwant\n%s\n%s", c.args, titles, line, c.titles, c.line)
		}
	}
}

// TestPsRefuses: what is not known is named.
func TestPsRefuses(t *testing.T) {
	for args, says := range map[string]string{
		"-o comm": "Couldn't find PID", "-o pid=X": "Couldn't find PID", "-o foo,pid": `"foo"`, "-o": "must follow", "--forest": "--forest",
		"-Z": "-Z", "-p 1": "-p", "r": "option r", "-u root": "-u",
	} {
		if _, err := psColumns(args); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("ps %s: %v, want a refusal that says %q", args, err, says)
		}
	}
}

func FuzzPs(f *testing.F) {
	f.Add("-eo pid,%cpu --cols", int64(1), uint64(1), "x")
	f.Fuzz(func(t *testing.T, args string, nano int64, n uint64, text string) {
		columns, err := psColumns(args)
		if err != nil {
			return
		}
		for _, c := range columns {
			c.show(&tetherv1.ProcessInfo{StartUnixNano: nano, CpuTicks: n, ResidentBytes: n, VirtualBytes: n, Command: text}, psMachine{now: time.Unix(0, -nano), memory: n})
		}
	})
}
