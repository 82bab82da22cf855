package container

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"

	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// userHZ is the kernel's unit of CPU time towards user space (include/asm-generic/param.h).
const userHZ = 100

// psMachine is what a column needs to know of the machine.
type psMachine struct {
	now    time.Time // when the processes were read
	memory uint64    // bytes; 0: not said
}

// psColumn is a column of ps(1).
type psColumn struct {
	title string
	show  func(*tetherv1.ProcessInfo, psMachine) string
}

// psKinds are the columns by the names that -o takes, as procps has them, but for those of which /proc says nothing to who is not the
// process: ps(1), "STANDARD FORMAT SPECIFIERS".
func psKinds() map[string]psColumn {
	number := func(title string, n func(*tetherv1.ProcessInfo) int64) psColumn {
		return psColumn{title, func(p *tetherv1.ProcessInfo, _ psMachine) string { return strconv.FormatInt(n(p), 10) }}
	}
	text := func(title string, t func(*tetherv1.ProcessInfo) string) psColumn {
		return psColumn{title, func(p *tetherv1.ProcessInfo, _ psMachine) string { return t(p) }}
	}
	kinds := map[string]psColumn{
		"pid":   number("PID", func(p *tetherv1.ProcessInfo) int64 { return int64(p.GetPid()) }),
		"ppid":  number("PPID", func(p *tetherv1.ProcessInfo) int64 { return int64(p.GetPpid()) }),
		"pgid":  number("PGID", func(p *tetherv1.ProcessInfo) int64 { return int64(p.GetProcessGroup()) }),
		"sid":   number("SID", func(p *tetherv1.ProcessInfo) int64 { return int64(p.GetSession()) }),
		"tpgid": number("TPGID", func(p *tetherv1.ProcessInfo) int64 { return int64(cmp.Or(p.GetForeground(), -1)) }),
		"uid":   number("UID", func(p *tetherv1.ProcessInfo) int64 { return int64(p.GetUid()) }),
		"gid":   number("GID", func(p *tetherv1.ProcessInfo) int64 { return int64(p.GetGid()) }),
		"ni":    number("NI", func(p *tetherv1.ProcessInfo) int64 { return int64(p.GetNice()) }),
		// The two scales of priorities are procps's own: 19 and 80 are those of a process of the usual nice value.
		"pri":   number("PRI", func(p *tetherv1.ProcessInfo) int64 { return 39 - int64(p.GetPriority()) }),
		"opri":  number("PRI", func(p *tetherv1.ProcessInfo) int64 { return 60 + int64(p.GetPriority()) }),
		"nlwp":  number("NLWP", func(p *tetherv1.ProcessInfo) int64 { return int64(p.GetThreads()) }),
		"vsz":   number("VSZ", func(p *tetherv1.ProcessInfo) int64 { return int64(p.GetVirtualBytes() >> 10) }),
		"rss":   number("RSS", func(p *tetherv1.ProcessInfo) int64 { return int64(p.GetResidentBytes() >> 10) }),
		"sz":    number("SZ", func(p *tetherv1.ProcessInfo) int64 { return int64(p.GetVirtualBytes() >> 12) }), // pages
		"user":  text("USER", (*tetherv1.ProcessInfo).GetUser),
		"group": text("GROUP", (*tetherv1.ProcessInfo).GetGroup),
		"s":     text("S", (*tetherv1.ProcessInfo).GetState),
		"stat":  text("STAT", psStat),
		"tty":   text("TTY", psTTY),
		"tt":    text("TT", psTTY),
		"comm":  text("COMMAND", psName),
		"ucmd":  text("CMD", psName),
		"args":  text("COMMAND", (*tetherv1.ProcessInfo).GetCommand),
		"cmd":   text("CMD", (*tetherv1.ProcessInfo).GetCommand),
		"c":     {"C", func(p *tetherv1.ProcessInfo, m psMachine) string { return strconv.FormatInt(psShare(p, m)/10, 10) }},
		"%cpu":  {"%CPU", func(p *tetherv1.ProcessInfo, m psMachine) string { return psTenths(psShare(p, m)) }},
		"%mem":  {"%MEM", psMemory},
		"time":  {"TIME", func(p *tetherv1.ProcessInfo, _ psMachine) string { return psClock(psCPU(p)) }},
		"bsdtime": {"TIME", func(p *tetherv1.ProcessInfo, _ psMachine) string {
			seconds := int64(psCPU(p).Seconds())
			return fmt.Sprintf("%d:%02d", seconds/60, seconds%60)
		}},
		"cputimes": {"TIME", func(p *tetherv1.ProcessInfo, _ psMachine) string { return strconv.Itoa(int(psCPU(p).Seconds())) }},
		"etime":    {"ELAPSED", func(p *tetherv1.ProcessInfo, m psMachine) string { return psElapsed(psAge(p, m)) }},
		"etimes":   {"ELAPSED", func(p *tetherv1.ProcessInfo, m psMachine) string { return strconv.Itoa(int(psAge(p, m).Seconds())) }},
		"stime":    {"STIME", psBegun},
		"bsdstart": {"START", psBegun},
		"start": {"STARTED", func(p *tetherv1.ProcessInfo, m psMachine) string {
			if psAge(p, m) > 24*time.Hour {
				return psStart(p).Format("Jan 02")
			}
			return psStart(p).Format(time.TimeOnly)
		}},
		"lstart": {"STARTED", func(p *tetherv1.ProcessInfo, _ psMachine) string { return psStart(p).Format(time.ANSIC) }},
	}
	for alias, name := range map[string]string{
		"pgrp": "pgid", "sess": "sid", "session": "sid", "euid": "uid", "egid": "gid", "nice": "ni", "thcount": "nlwp", "vsize": "vsz",
		"rssize": "rss", "rsz": "rss", "euser": "user", "uname": "user", "egroup": "group", "state": "s", "tname": "tty",
		"ucomm": "comm", "command": "args", "pcpu": "%cpu", "pmem": "%mem", "cputime": "time", "start_time": "stime",
	} {
		kinds[alias] = kinds[name]
	}
	for alias, title := range map[string]string{
		"euid": "EUID", "egid": "EGID", "euser": "EUSER", "egroup": "EGROUP", "sess": "SESS", "session": "SESS", "pgrp": "PGRP", "thcount": "THCNT", "tname": "TTY",
		"start_time": "START", "rsz": "RSZ",
	} {
		kinds[alias] = psColumn{title, kinds[alias].show}
	}
	return kinds
}

// psName is a program's name; of one whose tether does not say it, that of its command.
func psName(p *tetherv1.ProcessInfo) string {
	first, _, _ := strings.Cut(p.GetCommand(), " ")
	return cmp.Or(p.GetName(), first[strings.LastIndexByte(first, '/')+1:])
}

func psTTY(p *tetherv1.ProcessInfo) string { return cmp.Or(p.GetTty(), "?") }

func psStart(p *tetherv1.ProcessInfo) time.Time { return time.Unix(0, p.GetStartUnixNano()).UTC() }

func psAge(p *tetherv1.ProcessInfo, m psMachine) time.Duration { return max(0, m.now.Sub(psStart(p))) }

// psCPU is bounded as a guest may send any number.
func psCPU(p *tetherv1.ProcessInfo) time.Duration {
	const most = 1 << 40 // ticks; 300 years
	return time.Duration(min(p.GetCpuTicks(), most)) * (time.Second / userHZ)
}

// psShare is the share of one CPU that a process has taken since its start, in thousandths.
func psShare(p *tetherv1.ProcessInfo, m psMachine) int64 {
	age := psAge(p, m)
	if age <= 0 {
		return 0
	}
	return int64(1000 * psCPU(p).Seconds() / age.Seconds())
}

func psTenths(n int64) string { return fmt.Sprintf("%d.%d", n/10, n%10) }

func psMemory(p *tetherv1.ProcessInfo, m psMachine) string {
	if m.memory == 0 {
		return "-"
	}
	return psTenths(int64(1000 * float64(p.GetResidentBytes()) / float64(m.memory)))
}

// psClock is "[dd-]hh:mm:ss".
func psClock(d time.Duration) string {
	s := int64(d.Seconds())
	clock := fmt.Sprintf("%02d:%02d:%02d", s/3600%24, s/60%60, s%60)
	if days := s / 86400; days > 0 {
		return fmt.Sprintf("%02d-%s", days, clock)
	}
	return clock
}

// psElapsed is "[[dd-]hh:]mm:ss".
func psElapsed(d time.Duration) string {
	if d >= time.Hour {
		return psClock(d)
	}
	s := int64(d.Seconds())
	return fmt.Sprintf("%02d:%02d", s/60, s%60)
}

// psBegun is the time of day of a process's start, or the day.
func psBegun(p *tetherv1.ProcessInfo, m psMachine) string {
	if psAge(p, m) > 24*time.Hour {
		return psStart(p).Format("Jan02")
	}
	return psStart(p).Format("15:04")
}

// psStat is the state with what BSD's ps adds to it: ps(1), "PROCESS STATE CODES".
func psStat(p *tetherv1.ProcessInfo) string {
	s := p.GetState()
	for _, sign := range []struct {
		on   bool
		text string
	}{
		{p.GetNice() < 0, "<"}, {p.GetNice() > 0, "N"}, {p.GetLockedBytes() > 0, "L"},
		{p.GetSession() != 0 && p.GetSession() == p.GetPid(), "s"}, {p.GetThreads() > 1, "l"},
		{p.GetForeground() != 0 && p.GetForeground() == p.GetProcessGroup(), "+"},
	} {
		if sign.on {
			s += sign.text
		}
	}
	return s
}
