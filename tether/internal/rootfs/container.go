package rootfs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// File is a file that the container's root gets from the tether.
type File struct {
	Path string // absolute, in the container's root
	Text string
}

// Root says what a container's root is made of.
type Root struct {
	Dir      string // where its disk is mounted
	Staging  string // a directory of the machine's own, for what is mounted before there is a disk
	Files    []File
	Covers   *Covers // for the paths of Files
	ReadOnly bool
	// Dev are directories that are made in /dev, and Programs are files of the calling root that are mounted, read-only, at the
	// names given. Those are in /dev, too.
	Dev      []string
	Programs map[string]string
	// ShmBytes is the size of /dev/shm; 0: DefaultShm.
	ShmBytes uint64
	// MaxProcesses limits the processes and threads of Cgroup, which is made; 0: there is none.
	MaxProcesses int
}

// Cgroup is where the container's processes belong, in its root. There they share the processor with the tether and the
// kernel's threads as one, and leave them processes to make: so a container that forks without end does not bring down
// the machine, and can be stopped.
const Cgroup = "/sys/fs/cgroup/container"

// DefaultShm is the size of /dev/shm when nothing else was asked for, in bytes: Docker's.
const DefaultShm = 64 << 20

// mount is a file system of the container.
type mount struct {
	target, kind string
	flags        uintptr
	data         string
}

const (
	noExec = unix.MS_NOSUID | unix.MS_NOEXEC
	noDev  = noExec | unix.MS_NODEV
)

// mounts are those of a privileged Docker container (moby, oci/defaults.go): nothing is masked, nothing is read-only. The
// order counts. /proc comes later: it is the PID namespace's, which has no process yet. The container has the machine's
// whole cgroup tree, in which it is Cgroup.
func mounts() []mount {
	return []mount{
		{"/dev", "tmpfs", unix.MS_NOSUID | unix.MS_STRICTATIME, "mode=755,size=65536k"},
		{"/dev/pts", "devpts", noExec, "newinstance,ptmxmode=0666,mode=0620,gid=5"},
		{"/dev/shm", "tmpfs", noDev, "mode=1777,size=65536k"},
		{"/dev/mqueue", "mqueue", noDev, ""},
		{"/sys", "sysfs", noDev, ""},
		{"/sys/fs/cgroup", "cgroup2", noDev, ""},
	}
}

// optional file systems are absent from a kernel built without them.
func optional(kind string) bool { return kind == "mqueue" || kind == "cgroup2" }

// node is a device file; numbers from Linux, Documentation/admin-guide/devices.txt.
type node struct {
	name         string
	major, minor uint32
}

func nodes() []node {
	return []node{
		{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0},
	}
}

func links() map[string]string {
	return map[string]string{
		"/dev/fd": "/proc/self/fd", "/dev/stdin": "/proc/self/fd/0", "/dev/stdout": "/proc/self/fd/1",
		"/dev/stderr": "/proc/self/fd/2", "/dev/core": "/proc/kcore", "/dev/ptmx": "pts/ptmx",
		"/dev/sysgenid": "cvm/generation", // of package forkpoint
	}
}

// Stage mounts the container's file systems, all but its root and /proc, in the calling thread's mount namespace, which must be the
// container's own. It needs nothing of the container, so a template does it for its children. What a former container
// left in Staging is mounted over.
func (r Root) Stage() error {
	programs, err := r.openPrograms()
	if err != nil {
		return err
	}
	defer programs.close()
	for _, m := range mounts() {
		if err := m.create(r.Staging); err != nil {
			return fmt.Errorf("cannot mount %s of the container: %w", m.target, err)
		}
	}
	if err := r.makeCgroup(); err != nil {
		return fmt.Errorf("cannot make cgroup of the container: %w", err)
	}
	if err := populateDev(r.Staging); err != nil {
		return fmt.Errorf("cannot make devices of the container: %w", err)
	}
	if err := programs.mount(r.Staging, r.Dev); err != nil {
		return fmt.Errorf("cannot mount programs for the container: %w", err)
	}
	return nil
}

// staged are the trees of Staging, each with all that is mounted below it.
func staged() []string { return []string{"/dev", "/sys"} }

// Enter makes r the root of the calling thread's mount namespace and moves what Stage has mounted into it. Names are looked up after
// the change of root, so no link of the image leads out of it.
func (r Root) Enter() error {
	trees := map[string]int{}
	defer func() {
		for _, fd := range trees {
			_ = unix.Close(fd)
		}
	}()
	for _, name := range staged() {
		fd, err := unix.OpenTree(unix.AT_FDCWD, r.Staging+name, unix.OPEN_TREE_CLOEXEC)
		if err != nil {
			return fmt.Errorf("cannot find %s of the container: %w", name, err)
		}
		trees[name] = fd
	}
	if err := moveRoot(r.Dir); err != nil {
		return fmt.Errorf("cannot enter root of the container: %w", err)
	}
	if err := os.MkdirAll("/proc", 0o755); err != nil {
		return fmt.Errorf("cannot make /proc of the container: %w", err)
	}
	for _, name := range staged() {
		err := os.MkdirAll(name, 0o755)
		if err == nil {
			err = unix.MoveMount(trees[name], "", unix.AT_FDCWD, name, unix.MOVE_MOUNT_F_EMPTY_PATH)
		}
		if err != nil {
			return fmt.Errorf("cannot mount %s of the container: %w", name, err)
		}
	}
	if err := r.resizeShm(); err != nil {
		return err
	}
	if err := r.writeFiles(); err != nil {
		return err
	}
	if !r.ReadOnly {
		return nil
	}
	return remount(unix.MS_RDONLY)
}

// resizeShm gives /dev/shm, which Stage mounted before anyone knew, the size that was asked for.
func (r Root) resizeShm() error {
	if r.ShmBytes == 0 || r.ShmBytes == DefaultShm {
		return nil
	}
	if err := unix.Mount("", "/dev/shm", "", unix.MS_REMOUNT|noDev, "size="+strconv.FormatUint(r.ShmBytes, 10)); err != nil {
		return fmt.Errorf("cannot make /dev/shm %d bytes large: %w", r.ShmBytes, err)
	}
	return nil
}

// Rewrite writes Files anew in the root of the calling thread, which Enter has made, before anything of the container runs there.
func (r Root) Rewrite() error { return r.Writable(r.writeFiles) }

// Renew gives Files their new texts in the root of the calling thread, in which the container may run. It writes in the machine's own
// memory alone; a file that the container has put something else in the place of is left, and named in left.
func (r Root) Renew() (left []string, err error) {
	for _, f := range r.Files {
		switch err := r.Covers.Put(f.Path, f.Text); {
		case errors.Is(err, ErrLeft):
			left = append(left, f.Path)
		case err != nil:
			return left, fmt.Errorf("cannot write %s of the container: %w", f.Path, err)
		}
	}
	return left, nil
}

// Writable calls f while the root of the calling thread, which Enter has made, can be written to.
func (r Root) Writable(f func() error) (err error) {
	if r.ReadOnly {
		if err := remount(0); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, remount(unix.MS_RDONLY)) }()
	}
	return f()
}

func (r Root) writeFiles() error {
	for _, f := range r.Files {
		if err := f.put(r.Covers); err != nil {
			return fmt.Errorf("cannot write %s of the container: %w", f.Path, err)
		}
	}
	return nil
}

func remount(flags uintptr) error {
	if err := unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND|flags, ""); err != nil {
		return fmt.Errorf("cannot remount root of the container: %w", err)
	}
	return nil
}

// moveRoot puts the mount dir over "/". pivot_root(2) is not for an initramfs, whose root cannot be unmounted.
func moveRoot(dir string) error {
	err := unix.Chdir(dir)
	if err == nil {
		err = unix.Mount(".", "/", "", unix.MS_MOVE, "")
	}
	if err == nil {
		err = unix.Chroot(".")
	}
	if err == nil {
		err = unix.Chdir("/")
	}
	if err == nil {
		err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	}
	return err
}

func (m mount) create(staging string) error {
	target := staging + m.target
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	err := unix.Mount(m.kind, target, m.kind, m.flags, m.data)
	if errors.Is(err, unix.ENODEV) && optional(m.kind) {
		return nil
	}
	return err
}

func (r Root) makeCgroup() error {
	if r.MaxProcesses == 0 {
		return nil
	}
	own := r.Staging + Cgroup
	err := os.WriteFile(filepath.Dir(own)+"/cgroup.subtree_control", []byte("+cpu +memory +pids"), 0)
	if err == nil {
		err = os.Mkdir(own, 0o755)
	}
	if errors.Is(err, os.ErrExist) { // of a rehearsal
		err = nil
	}
	if err == nil {
		err = os.WriteFile(own+"/pids.max", strconv.AppendInt(nil, int64(r.MaxProcesses), 10), 0)
	}
	return err
}

func populateDev(staging string) error {
	for _, n := range nodes() {
		path := staging + "/dev/" + n.name
		if err := unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(n.major, n.minor))); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if err := unix.Chmod(path, 0o666); err != nil { // past the umask
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	for name, target := range links() {
		if err := os.Symlink(target, staging+name); err != nil {
			return err
		}
	}
	return nil
}

// put makes the file what the container sees at its path, before anything of the container runs. Over a regular file it is mounted, as by
// Docker: the disk is not written to, so it may be full, and a start costs no transaction of its journal. What else is there is replaced on
// the disk.
func (f File) put(over *Covers) error {
	var there unix.Stat_t
	if err := unix.Lstat(f.Path, &there); err == nil && there.Mode&unix.S_IFMT == unix.S_IFREG {
		return over.Put(f.Path, f.Text)
	}
	err := f.replace()
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) { // a link can be covered, too
		return over.Put(f.Path, f.Text)
	}
	return err
}

// replace never opens for writing what is there, which may be a link or a pipe.
func (f File) replace() error {
	fresh := f.Path + ".cvm"
	if err := os.RemoveAll(fresh); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(f.Path), 0o755); err != nil {
		return err
	}
	if err := writeNew(fresh, f.Text); err != nil {
		return errors.Join(err, os.RemoveAll(fresh))
	}
	if os.Rename(fresh, f.Path) == nil {
		return nil
	}
	if err := os.RemoveAll(f.Path); err != nil { // a directory stood there
		return err
	}
	return os.Rename(fresh, f.Path)
}

// writeNew makes a file that must not exist.
func writeNew(path, text string) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = file.WriteString(text)
	return errors.Join(err, file.Close())
}
