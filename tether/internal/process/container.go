package process

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

const (
	// maxSessions is how many processes the link may have running at a time, the main one included.
	maxSessions = 512
	// maxEnded and maxEndedMemory bound the sessions that are kept for late readers, in number and in bytes of output.
	maxEnded       = 64
	maxEndedMemory = 8 << 20
	// endWait is how long a PID 1 may take to end once the kernel has refused its namespace a process.
	endWait = 2 * time.Second
	// promiseWait is how long output waits for a reader that was promised and does not come.
	promiseWait = 30 * time.Second
)

var (
	// ErrExists says that a session's name is taken.
	ErrExists = errors.New("a session of this name exists")
	// ErrBusy says that too many sessions run.
	ErrBusy = errors.New("too many sessions run")
)

// Container starts processes in a Space and keeps their sessions.
type Container struct {
	space    *Space
	reaper   *Reaper
	hostname string   // only touched in space
	pts      *os.File // directory of the container's devpts
	cgroup   *os.File // directory of the processes' cgroup; nil: they stay in the tether's
	oom      *oomWatch
	covers   Covers // set before PID 1 is started
	init     bool   // PID 1 is an init
	listener uintptr

	limits   sync.Mutex // guards the cgroup's limits
	ownPids  string     // pids.max as the tether made it; empty: not read yet
	freezing sync.Mutex // held while the processes are stopped or let go on; before mu

	mu        sync.Mutex
	namespace inode // of PIDs; zero: there is none before PID 1
	standing  standing
	first     string              // session of PID 1
	sessions  map[string]*Session // nil: being started
	ended     []*Session          // oldest first
}

// NewContainer takes charge of space, whose root must have a devpts on /dev/pts, and closes it when that fails. Processes
// are started in cgroup, a directory in that root; "" means the tether's own.
func NewContainer(space *Space, reaper *Reaper, hostname, cgroup string) (*Container, error) {
	c := &Container{space: space, reaper: reaper, hostname: hostname, sessions: map[string]*Session{}}
	c.standing.changed = sync.NewCond(&c.mu)
	err := space.Do(func() (err error) {
		const directory = unix.O_PATH | unix.O_DIRECTORY
		if c.pts, err = os.OpenFile("/dev/pts", directory, 0); err == nil && cgroup != "" {
			c.cgroup, err = os.OpenFile(cgroup, directory, 0)
		}
		return err
	})
	if err != nil {
		space.Close()
		return nil, fmt.Errorf("cannot open terminals and cgroup of the container: %w", err)
	}
	c.oom = newOOMWatch()
	return c, nil
}

// Rename changes the name that processes started from now on find in their environment.
func (c *Container) Rename(hostname string) {
	_ = c.space.Do(func() error { // fails when no process can be started any more
		c.hostname = hostname
		return nil
	})
}

// Options say who will read a process's output.
type Options struct {
	// HoldStdout and HoldStderr promise a reader: output waits for it rather than being overwritten.
	HoldStdout, HoldStderr bool
	// Group is which part of the container's processes it belongs to; nil: none.
	Group *Group
}

// Start runs p as the session id. The first process of a Container is PID 1 of its namespace; when that fails or ends,
// no other can start. The error is an *Error where the process's description is at fault, ErrExists, ErrBusy, ErrPaused, ErrForked, or
// ErrEnded without a PID 1.
func (c *Container) Start(id string, p *tetherv1.Process, o Options) (*Session, error) {
	if err := c.beginStart(); err != nil {
		return nil, err
	}
	defer c.endStart()
	if err := c.claim(id); err != nil {
		return nil, err
	}
	session, err := c.launch(id, p, o.Group)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		delete(c.sessions, id)
		return nil, err
	}
	c.sessions[id] = session
	if o.HoldStdout {
		session.promise(promiseWait, session.Stdout)
	}
	if o.HoldStderr {
		session.promise(promiseWait, session.Stderr)
	}
	go func() {
		session.watch()
		c.retire(session)
	}()
	return session, nil
}

// Run runs p beside the sessions, in group g if there is one: nobody finds it by a name, and nothing of it is kept.
func (c *Container) Run(p *tetherv1.Process, g *Group) (*Session, error) {
	if err := c.beginStart(); err != nil {
		return nil, err
	}
	defer c.endStart()
	if first, ok := c.Session(c.first); !ok || first.ended() {
		return nil, ErrEnded
	}
	session, err := c.launch("", p, g)
	if err != nil {
		return nil, err
	}
	go session.watch()
	return session, nil
}

// RunHeld runs p beside processes that stand, in a group from NewGroupBeside.
func (c *Container) RunHeld(p *tetherv1.Process, g *Group) (*Session, error) {
	session, err := c.launch("", p, g)
	if err != nil {
		return nil, err
	}
	go session.watch()
	return session, nil
}

func (c *Container) claim(id string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, taken := c.sessions[id]; taken {
		return ErrExists
	}
	if c.first == "" {
		c.first = id
	} else if s := c.sessions[c.first]; s == nil || s.ended() {
		return ErrEnded
	}
	if len(c.sessions)-len(c.ended) >= maxSessions {
		return ErrBusy
	}
	c.sessions[id] = nil
	return nil
}

// ending reports whether PID 1 is about to end, which makes the kernel refuse its namespace new processes for want of
// memory, as it says (Linux, kernel/pid.c, alloc_pid).
func (c *Container) ending() bool {
	first, ok := c.Session(c.first)
	if !ok {
		return true
	}
	select {
	case <-first.done:
		return true
	case <-time.After(endWait):
		return false
	}
}

func (c *Container) launch(id string, p *tetherv1.Process, g *Group) (*Session, error) {
	var session *Session
	do := c.space.Do
	if restricted(p) {
		do = c.space.DoOnce
	}
	err := do(func() (err error) {
		session, err = c.start(id, p, g)
		return err
	})
	if err != nil && session != nil { // nothing could be started after it
		_ = session.Signal(unix.SIGKILL)
		go session.watch() // until its end, which is near
	}
	if errors.Is(err, unix.ENOMEM) && id != c.first && c.ending() {
		err = ErrEnded
	}
	return session, err
}

// start runs in the Space.
func (c *Container) start(id string, p *tetherv1.Process, g *Group) (*Session, error) {
	defer unix.Chdir("/")
	first := id == c.first
	l, err := prepare(p, c.hostname, first)
	if err != nil {
		return nil, err
	}
	streams, err := c.open(p, l.account)
	if err != nil {
		return nil, err
	}
	l.cgroup, l.init = c.cgroup, first && c.init
	if g != nil {
		l.cgroup = g.dir
	}
	l.traced = first || len(l.limits) > 0 || l.oom != 0
	child, err := c.reaper.start(func() (int, error) { return l.fork(streams.child) })
	streams.closeChild()
	if err == nil {
		err = l.release(child, c.space.proc, func() error {
			if !first {
				return nil
			}
			return errors.Join(c.learnNamespace(child.pid), c.complete(p.Tty, streams))
		})
	}
	if err != nil {
		streams.closeOurs()
		return nil, err
	}
	return newSession(id, child, c.reaper, streams, c.oom, first), nil
}

// learnNamespace remembers the PID namespace of the container's PID 1.
func (c *Container) learnNamespace(pid int) error {
	fd, err := unix.Openat(c.space.proc, strconv.Itoa(pid)+"/ns/pid", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot find the PID namespace of the container: %w", err)
	}
	defer unix.Close(fd)
	id, err := fileID(fd)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.namespace = id
	return err
}

// complete mounts what has to wait for the container's PID 1, which does not run yet: the proc of its namespace, what covers paths
// of it, and its terminal as the console.
func (c *Container) complete(tty bool, streams *stdio) error {
	if err := mountProc(c.reaper, c.listener); err != nil {
		return err
	}
	if err := c.covers.mount(); err != nil {
		return err
	}
	if !tty {
		return nil
	}
	return mountConsole(streams.output)
}

// Configure says what the container's PID 1 finds that is not of its own description. It is called before PID 1 is started.
// init: PID 1 is an init that reaps, at InitProgram, and the process its child.
func (c *Container) Configure(covers Covers, init bool) {
	c.covers, c.init = covers, init
}

// Listen has a unix socket, by its descriptor, listen when PID 1 is there, and before it runs. It is called before PID 1 is started. Nobody
// learns from the socket that it is the tether's.
func (c *Container) Listen(fd uintptr) { c.listener = fd }

func (c *Container) open(p *tetherv1.Process, owner account) (*stdio, error) {
	if p.Tty {
		return openTerminal(int(c.pts.Fd()), p.Window, p.Stdin, owner)
	}
	return openPipes(p.Stdin, owner)
}

// retire keeps an ended session for a while; the newest always.
func (c *Container) retire(s *Session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.ID == c.first {
		return // it stays as long as the machine
	}
	c.ended = append(c.ended, s)
	memory := 0
	for i, old := range slices.Backward(c.ended) {
		memory += old.memory()
		if kept := len(c.ended) - i; kept > 1 && (kept > maxEnded || memory > maxEndedMemory) {
			for _, gone := range c.ended[:i+1] {
				delete(c.sessions, gone.ID)
			}
			c.ended = slices.Delete(c.ended, 0, i+1)
			return
		}
	}
}

// Session finds a session, also one that ended lately.
func (c *Container) Session(id string) (*Session, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.sessions[id]
	return s, s != nil
}

// Sessions tells of the sessions that exist, sorted by name.
func (c *Container) Sessions() []*tetherv1.SessionInfo {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []*tetherv1.SessionInfo
	for _, s := range c.sessions {
		if s != nil {
			all = append(all, s.info())
		}
	}
	slices.SortFunc(all, func(a, b *tetherv1.SessionInfo) int { return cmp.Compare(a.Session, b.Session) })
	return all
}

// Close leaves the container's namespaces. Nothing can be started any more.
func (c *Container) Close() {
	c.space.Close()
	_ = c.pts.Close()
	if c.cgroup != nil {
		_ = c.cgroup.Close()
	}
	c.oom.close()
}
