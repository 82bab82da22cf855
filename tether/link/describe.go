package link

import (
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// The messages of guestinfo, field by field as v1/tether.proto has them. A field that is missing here fails
// TestDescriptionsAreWhole.

func describeSpec(c *codec, s *tetherv1.Spec) {
	enum(c, "mode", &s.Mode, tetherv1.Mode_name, tetherv1.Mode_value)
	c.text("id", &s.Id)
	c.text("hostname", &s.Hostname)
	c.text("domainname", &s.Domainname)
	messages(c, "hosts", &s.Hosts, describeHostEntry)
	message(c, "resolver", &s.Resolver, describeResolver)
	messages(c, "interfaces", &s.Interfaces, describeInterface)
	c.flag("readOnlyRoot", &s.ReadOnlyRoot)
	message(c, "process", &s.Process, describeProcess)
	number(c, "stopGraceSeconds", &s.StopGraceSeconds)
	number(c, "stopSignal", &s.StopSignal)
	c.flag("forkPoint", &s.ForkPoint)
	messages(c, "mounts", &s.Mounts, describeMount)
	messages(c, "files", &s.Files, describeFile)
	messages(c, "sysctls", &s.Sysctls, describeSysctl)
	number(c, "shmBytes", &s.ShmBytes)
	number(c, "pidsLimit", &s.PidsLimit)
	c.flag("init", &s.Init)
	c.texts("maskedPaths", &s.MaskedPaths)
	c.texts("readOnlyPaths", &s.ReadOnlyPaths)
	c.text("cpus", &s.Cpus)
	number(c, "memoryReservationBytes", &s.MemoryReservationBytes)
	number(c, "swapBytes", &s.SwapBytes)
	number(c, "cpuWeight", &s.CpuWeight)
	message(c, "health", &s.Health, describeHealth)
	c.flag("allDevices", &s.AllDevices)
}

func describeSysctl(c *codec, s *tetherv1.Sysctl) {
	c.text("name", &s.Name)
	c.text("value", &s.Value)
}

func describeHealth(c *codec, h *tetherv1.Health) {
	message(c, "process", &h.Process, describeProcess)
	number(c, "interval", &h.Interval)
	number(c, "timeout", &h.Timeout)
	number(c, "startPeriod", &h.StartPeriod)
	number(c, "startInterval", &h.StartInterval)
	number(c, "retries", &h.Retries)
}

// describeMount knows that a mount has one source: of several the last counts.
func describeMount(c *codec, m *tetherv1.Mount) {
	c.text("target", &m.Target)
	c.flag("readOnly", &m.ReadOnly)
	volume, tmpfs, nfs := m.GetVolume(), m.GetTmpfs(), m.GetNfs()
	if member(c, "volume", &volume, describeVolume) {
		m.Source = &tetherv1.Mount_Volume{Volume: volume}
	}
	if member(c, "tmpfs", &tmpfs, describeTmpfs) {
		m.Source = &tetherv1.Mount_Tmpfs{Tmpfs: tmpfs}
	}
	if member(c, "nfs", &nfs, describeNfs) {
		m.Source = &tetherv1.Mount_Nfs{Nfs: nfs}
	}
}

func describeVolume(c *codec, v *tetherv1.Volume) {
	c.text("serial", &v.Serial)
	c.flag("copyUp", &v.CopyUp)
	c.text("subpath", &v.Subpath)
}

func describeTmpfs(c *codec, t *tetherv1.Tmpfs) {
	number(c, "sizeBytes", &t.SizeBytes)
	number(c, "mode", &t.Mode)
	c.text("options", &t.Options)
}

func describeNfs(c *codec, n *tetherv1.Nfs) {
	c.text("address", &n.Address)
	c.text("path", &n.Path)
	c.text("options", &n.Options)
}

func describeFile(c *codec, f *tetherv1.File) {
	c.text("path", &f.Path)
	number(c, "mode", &f.Mode)
	number(c, "uid", &f.Uid)
	number(c, "gid", &f.Gid)
	c.bytes("content", &f.Content)
}

func describeHostEntry(c *codec, h *tetherv1.HostEntry) {
	c.text("address", &h.Address)
	c.texts("names", &h.Names)
}

func describeResolver(c *codec, r *tetherv1.Resolver) {
	c.texts("nameservers", &r.Nameservers)
	c.texts("search", &r.Search)
	c.texts("options", &r.Options)
}

func describeInterface(c *codec, i *tetherv1.Interface) {
	c.text("mac", &i.Mac)
	c.text("name", &i.Name)
	c.texts("addresses", &i.Addresses)
	c.text("gateway", &i.Gateway)
	number(c, "mtu", &i.Mtu)
	c.text("gateway6", &i.Gateway6)
	number(c, "slot", &i.Slot)
}

func describeProcess(c *codec, p *tetherv1.Process) {
	c.texts("args", &p.Args)
	c.texts("env", &p.Env)
	c.text("user", &p.User)
	c.texts("groups", &p.Groups)
	c.text("cwd", &p.Cwd)
	c.flag("tty", &p.Tty)
	c.flag("stdin", &p.Stdin)
	message(c, "window", &p.Window, describeWindow)
	messages(c, "rlimits", &p.Rlimits, describeRlimit)
	message(c, "capabilities", &p.Capabilities, describeCapabilities)
	c.flag("noNewPrivileges", &p.NoNewPrivileges)
	number(c, "oomScoreAdj", &p.OomScoreAdj)
	message(c, "umask", &p.Umask, describeUmask)
}

func describeCapabilities(c *codec, p *tetherv1.Capabilities) { c.texts("names", &p.Names) }

func describeUmask(c *codec, u *tetherv1.Umask) { number(c, "mask", &u.Mask) }

func describeWindow(c *codec, w *tetherv1.Window) {
	number(c, "rows", &w.Rows)
	number(c, "columns", &w.Columns)
}

func describeRlimit(c *codec, r *tetherv1.Rlimit) {
	c.text("name", &r.Name)
	number(c, "soft", &r.Soft)
	number(c, "hard", &r.Hard)
}

func describeStatus(c *codec, s *tetherv1.Status) {
	enum(c, "state", &s.State, tetherv1.State_name, tetherv1.State_value)
	number(c, "startedUnixNano", &s.StartedUnixNano)
	message(c, "exit", &s.Exit, describeExit)
	message(c, "failure", &s.Failure, describeFailure)
	number(c, "pid", &s.Pid)
	messages(c, "marks", &s.Marks, describeMark)
	c.flag("paused", &s.Paused)
}

func describeHealthStatus(c *codec, s *tetherv1.HealthStatus) {
	enum(c, "state", &s.State, tetherv1.HealthStatus_State_name, tetherv1.HealthStatus_State_value)
	number(c, "failingStreak", &s.FailingStreak)
	messages(c, "results", &s.Results, describeHealthResult)
}

func describeClockStatus(c *codec, s *tetherv1.ClockStatus) {
	number(c, "behindNanos", &s.BehindNanos)
	number(c, "doubtNanos", &s.DoubtNanos)
	number(c, "driftPpb", &s.DriftPpb)
	number(c, "atUnixNano", &s.AtUnixNano)
	c.flag("foreign", &s.Foreign)
}

func describeHealthResult(c *codec, r *tetherv1.HealthResult) {
	number(c, "startUnixNano", &r.StartUnixNano)
	number(c, "endUnixNano", &r.EndUnixNano)
	number(c, "exitCode", &r.ExitCode)
	c.text("output", &r.Output)
}

func describeMark(c *codec, m *tetherv1.Mark) {
	c.text("name", &m.Name)
	number(c, "unixNano", &m.UnixNano)
}

func describeFork(c *codec, f *tetherv1.Fork) {
	number(c, "generation", &f.Generation)
	number(c, "index", &f.Index)
	c.text("source", &f.Source)
	message(c, "notify", &f.Notify, describeNotify)
}

func describeNotify(c *codec, n *tetherv1.Notify) {
	number(c, "signal", &n.Signal)
	c.flag("all", &n.All)
	c.texts("command", &n.Command)
}

func describeReceipt(c *codec, r *tetherv1.Receipt) {
	messages(c, "items", &r.Items, describeReceiptItem)
	number(c, "micros", &r.Micros)
	number(c, "generation", &r.Generation)
	number(c, "index", &r.Index)
}

func describeReceiptItem(c *codec, i *tetherv1.ReceiptItem) {
	c.text("name", &i.Name)
	enum(c, "outcome", &i.Outcome, tetherv1.ReceiptItem_Outcome_name, tetherv1.ReceiptItem_Outcome_value)
	number(c, "micros", &i.Micros)
	c.text("detail", &i.Detail)
}

func describeExit(c *codec, e *tetherv1.Exit) {
	number(c, "code", &e.Code)
	number(c, "signal", &e.Signal)
	c.flag("oomKilled", &e.OomKilled)
	number(c, "unixNano", &e.UnixNano)
}

func describeFailure(c *codec, f *tetherv1.Failure) {
	enum(c, "reason", &f.Reason, tetherv1.Failure_Reason_name, tetherv1.Failure_Reason_value)
	c.text("message", &f.Message)
}
