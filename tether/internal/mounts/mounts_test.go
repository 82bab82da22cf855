package mounts

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/containervm/containervm/tether/internal/rootfs"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// own gives the calling thread a mount namespace of its own, in which the test may mount.
func own(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root for mounts; try: sudo go test")
	}
	runtime.LockOSThread() // never unlocked: the thread, with its namespace, ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
		t.Skipf("cannot make a mount namespace: %v", err)
	}
	must(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
}

// set is a Set whose container's root is a directory; the thread enters it for each call.
func set(t *testing.T) (s *Set, root string) {
	t.Helper()
	own(t)
	root = t.TempDir()
	s = &Set{Dir: filepath.Join(t.TempDir(), "mounts"), Image: root}
	s.InRoot = func(f func() error) error {
		outside, err := unix.Open("/", unix.O_PATH|unix.O_CLOEXEC, 0)
		must(t, err)
		defer unix.Close(outside)
		must(t, unix.Chroot(root))
		must(t, unix.Chdir("/"))
		err = f()
		must(t, unix.Fchdir(outside))
		must(t, unix.Chroot("."))
		return err
	}
	t.Cleanup(func() {
		table, err := os.ReadFile("/proc/thread-self/mounts")
		must(t, err)
		lines := strings.Split(string(table), "\n")
		for _, line := range slices.Backward(lines) {
			if words := strings.Fields(line); len(words) > 1 && below(words[1], root) {
				must(t, unix.Unmount(words[1], unix.MNT_DETACH))
			}
		}
		must(t, s.Close())
	})
	return s, root
}

func TestTargets(t *testing.T) {
	for _, bad := range []string{"", "data", "/", "//", "/a/..", "/proc", "/proc/1", "/sys", "/sys/fs", "/dev", "/dev/", "/x\x00"} {
		if checkTarget(bad) == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	for _, good := range []string{"/data", "/dev/shm", "/procs", "/var/lib/../x"} {
		if err := checkTarget(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
}

func TestTmpfsOptions(t *testing.T) {
	for _, c := range []struct {
		tmpfs *tetherv1.Tmpfs
		flags uintptr
		data  string
		err   string
	}{
		{&tetherv1.Tmpfs{}, unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "", ""},
		{&tetherv1.Tmpfs{SizeBytes: 1 << 20, Mode: 0o1770}, unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "size=1048576,mode=1770", ""},
		{&tetherv1.Tmpfs{Options: "rw,exec,size=64m,uid=5"}, unix.MS_NOSUID | unix.MS_NODEV, "size=64m,uid=5", ""},
		{&tetherv1.Tmpfs{Options: "ro,noatime"}, unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_RDONLY | unix.MS_NOATIME, "", ""},
		{&tetherv1.Tmpfs{Options: "swap"}, 0, "", `"swap" is not known`},
		{&tetherv1.Tmpfs{Options: "mpol=bind"}, 0, "", "not known"},
		{&tetherv1.Tmpfs{Options: "size="}, 0, "", "not known"},
	} {
		flags, data, err := tmpfsOptions(c.tmpfs)
		if flags != c.flags || data != c.data || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%v: %x, %q, %v", c.tmpfs, flags, data, err)
		}
	}
}

func TestNFSOptions(t *testing.T) {
	for _, c := range []struct {
		nfs *tetherv1.Nfs
		got string // server, path, flags, data of each version
	}{
		{&tetherv1.Nfs{Address: "10.0.0.1", Path: "/x"}, "10.0.0.1 /x 0 addr=1.2.3.4,vers=4.2 addr=1.2.3.4,vers=4.1 addr=1.2.3.4,vers=4.0 addr=1.2.3.4,vers=3,nolock"},
		{&tetherv1.Nfs{Path: ":/x", Options: "addr=srv,rw,nfsvers=4,soft,_netdev"}, "srv /x 0 addr=1.2.3.4,vers=4.2,soft addr=1.2.3.4,vers=4.1,soft addr=1.2.3.4,vers=4.0,soft"},
		{&tetherv1.Nfs{Address: "[fd00::1]", Path: "/x", Options: "ro,v3,lock"}, "fd00::1 /x 1 addr=1.2.3.4,vers=3"},
		{&tetherv1.Nfs{Address: "a", Path: "/x", Options: "sec=krb5"}, "option"},
		{&tetherv1.Nfs{Address: "a", Path: "/x", Options: "vers=2"}, "version"},
		{&tetherv1.Nfs{Address: "a", Path: "x"}, "absolute"},
		{&tetherv1.Nfs{Path: "/x"}, "addr="},
	} {
		o, err := nfsOptions(c.nfs)
		got := fmt.Sprint(o.server, " ", o.path, " ", o.flags)
		for _, v := range o.versions {
			got += " " + o.data(netip.MustParseAddr("1.2.3.4"), v)
		}
		if err != nil {
			if !strings.Contains(err.Error(), c.got) {
				t.Errorf("%v: %v", c.nfs, err)
			}
		} else if got != c.got {
			t.Errorf("%v: %s, want %s", c.nfs, got, c.got)
		}
	}
}

// FuzzOptions: no words become options that were not looked at.
func FuzzOptions(f *testing.F) {
	f.Add("rw,size=1,nosuid", "10.0.0.1", ":/x")
	f.Fuzz(func(t *testing.T, options, address, path string) {
		if _, data, err := tmpfsOptions(&tetherv1.Tmpfs{Options: options}); err == nil && strings.Contains(data, "mpol") {
			t.Errorf("%q gave %q", options, data)
		}
		o, err := nfsOptions(&tetherv1.Nfs{Address: address, Path: path, Options: options})
		if err == nil && (o.server == "" || !strings.HasPrefix(o.path, "/") || len(o.versions) == 0) {
			t.Errorf("%q, %q, %q gave %+v", address, path, options, o)
		}
	})
}

func statOf(t *testing.T, name string) syscall.Stat_t {
	t.Helper()
	var is syscall.Stat_t
	must(t, syscall.Lstat(name, &is))
	return is
}

// Mounts lie over each other by depth, whatever their order, and nothing leads out of the root.
func TestMake(t *testing.T) {
	s, root := set(t)
	must(t, os.MkdirAll(root+"/run", 0o755))
	must(t, os.Mkdir(root+"/cache", 0o700))
	must(t, os.Symlink("/../../../../etc", root+"/link")) // leads to the root's own etc
	err := s.Make(t.Context(), []*tetherv1.Mount{
		{Target: "/a/b/", Source: &tetherv1.Mount_Tmpfs{Tmpfs: &tetherv1.Tmpfs{SizeBytes: 1 << 20, Mode: 0o750}}},
		{Target: "/a", Source: &tetherv1.Mount_Tmpfs{Tmpfs: &tetherv1.Tmpfs{}}},
		{Target: "/cache", Source: &tetherv1.Mount_Tmpfs{Tmpfs: &tetherv1.Tmpfs{}}},
		{Target: "/ro", ReadOnly: true, Source: &tetherv1.Mount_Tmpfs{Tmpfs: &tetherv1.Tmpfs{}}},
		{Target: "/link/sub", Source: &tetherv1.Mount_Tmpfs{Tmpfs: &tetherv1.Tmpfs{Mode: 0o711}}},
	}, []*tetherv1.File{
		{Path: "/run/secrets/key", Content: []byte("secret"), Mode: 0o400, Uid: 7, Gid: 8}, {Path: "/a/b/plain", Content: []byte{}},
	})
	if err == nil || !strings.Contains(err.Error(), "/link/sub") { // its etc does not exist, and is not made through the link
		t.Fatalf("a link to nowhere: %v", err)
	}
	must(t, s.Close())
	must(t, os.Mkdir(root+"/etc", 0o755))
	must(t, s.Make(t.Context(), []*tetherv1.Mount{
		{Target: "/a/b/", Source: &tetherv1.Mount_Tmpfs{Tmpfs: &tetherv1.Tmpfs{SizeBytes: 1 << 20, Mode: 0o750}}},
		{Target: "/a", Source: &tetherv1.Mount_Tmpfs{Tmpfs: &tetherv1.Tmpfs{}}},
		{Target: "/cache", Source: &tetherv1.Mount_Tmpfs{Tmpfs: &tetherv1.Tmpfs{}}},
		{Target: "/ro", ReadOnly: true, Source: &tetherv1.Mount_Tmpfs{Tmpfs: &tetherv1.Tmpfs{}}},
		{Target: "/link/sub", Source: &tetherv1.Mount_Tmpfs{Tmpfs: &tetherv1.Tmpfs{Mode: 0o711}}},
	}, []*tetherv1.File{
		{Path: "/run/secrets/key", Content: []byte("secret"), Mode: 0o400, Uid: 7, Gid: 8}, {Path: "/a/b/plain", Content: []byte{}},
	}))
	for name, mode := range map[string]uint32{
		"/a": 0o41777, "/a/b": 0o40750, "/cache": 0o40700, "/etc/sub": 0o40711, "/run/secrets/key": 0o100400, "/a/b/plain": 0o100444,
	} {
		if got := statOf(t, root+name).Mode; got&^0o40000000 != mode {
			t.Errorf("%s has mode %o, want %o", name, got, mode)
		}
	}
	if err := os.WriteFile(root+"/ro/x", nil, 0o644); !errors.Is(err, unix.EROFS) {
		t.Errorf("write to a read-only mount: %v", err)
	}
	if err := os.WriteFile(root+"/run/secrets/key", nil, 0o644); !errors.Is(err, unix.EROFS) {
		t.Errorf("write to a secret: %v", err)
	}
	key := statOf(t, root+"/run/secrets/key")
	text, err := os.ReadFile(root + "/run/secrets/key")
	if string(text) != "secret" || err != nil || key.Uid != 7 || key.Gid != 8 {
		t.Errorf("%q, %v, %d:%d", text, err, key.Uid, key.Gid)
	}
	if err := os.WriteFile(root+"/a/b/much", make([]byte, 2<<20), 0o644); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("more than the size: %v", err)
	}
}

func TestMakeRefuses(t *testing.T) {
	s, root := set(t)
	must(t, os.Symlink("/", root+"/top"))
	must(t, os.WriteFile(root+"/file", nil, 0o644))
	must(t, os.Mkdir(root+"/dir", 0o755))
	memory := &tetherv1.Mount_Tmpfs{Tmpfs: &tetherv1.Tmpfs{}}
	for text, m := range map[string]*tetherv1.Mount{
		"container's own":   {Target: "/", Source: memory},
		"the kernel's":      {Target: "/proc/sys", Source: memory},
		"link to /":         {Target: "/top", Source: memory},
		"not a directory":   {Target: "/file", Source: memory},
		"this tether knows": {Target: "/x"},
		"no serial number":  {Target: "/x", Source: &tetherv1.Mount_Volume{Volume: &tetherv1.Volume{}}},
	} {
		err := s.Make(t.Context(), []*tetherv1.Mount{m}, nil)
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%v: %v, want %q", m, err, text)
		}
		must(t, s.Close())
	}
	if err := s.Make(t.Context(), nil, []*tetherv1.File{{Path: "/dir"}}); err == nil || !strings.Contains(err.Error(), "is a directory") {
		t.Errorf("a file on a directory: %v", err)
	}
}

// volumeDisk is a loop device of so many bytes, with the file system that volumes begin with.
func volumeDisk(t *testing.T, bytes int64) rootfs.Disk {
	t.Helper()
	file := filepath.Join(t.TempDir(), "volume")
	must(t, os.WriteFile(file, nil, 0o600))
	must(t, os.Truncate(file, 64<<20))
	if out, err := exec.Command("/sbin/mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-J", "size=16", file).CombinedOutput(); err != nil {
		t.Skipf("cannot make a file system: %v: %s", err, out)
	}
	must(t, os.Truncate(file, bytes))
	out, err := exec.Command("/sbin/losetup", "-f", "--show", file).Output()
	if err != nil {
		t.Skipf("cannot make a loop device: %v", err)
	}
	d := rootfs.Disk{Path: strings.TrimSpace(string(out))}
	t.Cleanup(func() { _ = exec.Command("/sbin/losetup", "-d", d.Path).Run() })
	return d
}

// mountVolume mounts a disk as vol1. A test's user may lack what growing it takes (CAP_SYS_RESOURCE), which a machine's tether has.
func mountVolume(t *testing.T, s *Set, disk rootfs.Disk) (at place, mayGrow bool) {
	t.Helper()
	at, err := s.mountVolume(disk, "vol1")
	if err != nil && (!errors.Is(err, unix.EPERM) || len(s.places) < 2) {
		t.Fatal(err)
	}
	return at, err == nil
}

// image fills root's /data with one of each kind.
func image(t *testing.T, root string) {
	t.Helper()
	data := root + "/data"
	must(t, os.MkdirAll(data+"/sub/deep", 0o755))
	must(t, os.WriteFile(data+"/file", []byte("content"), 0o600))
	must(t, os.Link(data+"/file", data+"/sub/hard"))
	must(t, os.Symlink("/etc/passwd", data+"/sub/link"))
	must(t, unix.Mkfifo(data+"/fifo", 0o622))
	must(t, os.WriteFile(data+"/sub/deep/suid", make([]byte, 300<<10), 0o755))
	must(t, unix.Setxattr(data+"/file", "user.note", []byte("x"), 0))
	must(t, os.Chown(data+"/sub/deep/suid", 3, 4))
	must(t, os.Chmod(data+"/sub/deep/suid", 0o4755|os.ModeSetuid))
	must(t, os.Lchown(data+"/sub/link", 5, 6))
	must(t, os.Chown(data, 70, 71))
	must(t, os.Chmod(data, 0o750))
	must(t, os.Chtimes(data, time.Unix(1000, 0), time.Unix(2000, 5)))
	must(t, os.Chtimes(data+"/file", time.Unix(1000, 0), time.Unix(3000, 7)))
}

func checkCopy(t *testing.T, data, copied string) {
	t.Helper()
	for _, name := range []string{"", "/file", "/sub", "/sub/hard", "/sub/link", "/fifo", "/sub/deep", "/sub/deep/suid"} {
		a, b := statOf(t, data+name), statOf(t, copied+name)
		if a.Mode != b.Mode || a.Uid != b.Uid || a.Gid != b.Gid || a.Mtim != b.Mtim || name == "/file" && a.Nlink != b.Nlink {
			t.Errorf("%s: %+v\nis copied as\n%+v", name, a, b)
		}
	}
	if statOf(t, copied+"/file").Ino != statOf(t, copied+"/sub/hard").Ino {
		t.Error("a hard link is a file of its own")
	}
	var note [8]byte
	n, err := unix.Getxattr(copied+"/file", "user.note", note[:])
	if err != nil || string(note[:n]) != "x" {
		t.Errorf("attribute %q, %v", note[:n], err)
	}
	if text, err := os.ReadFile(copied + "/file"); string(text) != "content" || err != nil {
		t.Errorf("%q, %v", text, err)
	}
	for _, gone := range []string{marker, lostFound} {
		if _, err := os.Lstat(copied + "/" + gone); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is there: %v", gone, err)
		}
	}
}

// A volume grows with its disk, gets what the image has there while it is empty, and then keeps what is its own.
func TestVolume(t *testing.T) {
	s, root := set(t)
	disk := volumeDisk(t, 1<<30)
	image(t, root)
	must(t, s.prepare())
	at, mayGrow := mountVolume(t, s, disk)
	var fs unix.Statfs_t
	must(t, unix.Statfs(at.dir, &fs))
	if got := fs.Blocks * uint64(fs.Bsize); got < 900<<20 && mayGrow {
		t.Errorf("the file system has %d bytes", got)
	}
	mount := &tetherv1.Mount{Target: "/data", Source: &tetherv1.Mount_Volume{Volume: &tetherv1.Volume{Serial: "vol1", CopyUp: true}}}
	must(t, s.mount(t.Context(), mount))
	var over unix.Statfs_t
	must(t, unix.Statfs(root+"/data", &over))
	if over.Type != unix.EXT4_SUPER_MAGIC || over.Blocks != fs.Blocks {
		t.Error("the volume is not mounted in the root")
	}
	bare := t.TempDir() // the root without what is mounted over it
	must(t, unix.Mount(root, bare, "", unix.MS_BIND, ""))
	checkCopy(t, bare+"/data", root+"/data")
	must(t, unix.Unmount(bare, 0))

	must(t, os.Remove(root+"/data/file"))
	must(t, os.Mkdir(root+"/data/mine", 0o755))
	must(t, s.mount(t.Context(), &tetherv1.Mount{Target: "/again", ReadOnly: true, Source: &tetherv1.Mount_Volume{
		Volume: &tetherv1.Volume{Serial: "vol1", Subpath: "mine/../sub"},
	}}))
	if _, err := os.Lstat(root + "/again/hard"); err != nil {
		t.Errorf("subpath: %v", err)
	}
	if err := os.WriteFile(root+"/again/x", nil, 0o644); !errors.Is(err, unix.EROFS) {
		t.Errorf("write to a read-only mount: %v", err)
	}
	err := s.mount(t.Context(), &tetherv1.Mount{Target: "/none", Source: &tetherv1.Mount_Volume{Volume: &tetherv1.Volume{Serial: "vol1", Subpath: "none"}}})
	if err == nil || !strings.Contains(err.Error(), `subpath "none"`) {
		t.Errorf("a subpath that is not there: %v", err)
	}
	must(t, unix.Unmount(root+"/again", 0))
	must(t, unix.Unmount(root+"/data", 0))
	must(t, s.Close())

	must(t, s.prepare())
	at, _ = mountVolume(t, s, disk)
	must(t, s.fill(at.dir, "/data", true))
	if names, err := list(at.dir); err != nil || len(names) != 3 { // sub, fifo, mine
		t.Errorf("the volume holds %v, %v", names, err)
	}
}

// A copy that was broken off is thrown away, and made anew if it is wanted.
func TestBrokenCopyUp(t *testing.T) {
	s, root := set(t)
	disk := volumeDisk(t, 64<<20)
	image(t, root)
	must(t, s.prepare())
	at, _ := mountVolume(t, s, disk)
	half := func() {
		must(t, os.Mkdir(at.dir+"/"+marker, 0o700))
		must(t, os.MkdirAll(at.dir+"/sub/old", 0o755))
	}
	half()
	must(t, s.fill(at.dir, "/data", false))
	if names, err := list(at.dir); err != nil || len(names) != 0 {
		t.Errorf("the volume holds %v, %v", names, err)
	}
	half()
	must(t, s.fill(at.dir, "/data", true))
	checkCopy(t, root+"/data", at.dir)
}

// A full volume says so, and the half copy is thrown away the next time.
func TestCopyUpIntoTooSmallAVolume(t *testing.T) {
	s, root := set(t)
	disk := volumeDisk(t, 64<<20)
	must(t, os.Mkdir(root+"/data", 0o755))
	must(t, os.WriteFile(root+"/data/big", make([]byte, 60<<20), 0o644))
	must(t, s.prepare())
	at, _ := mountVolume(t, s, disk)
	if err := s.fill(at.dir, "/data", true); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("%v", err)
	}
	must(t, os.Remove(root+"/data/big"))
	must(t, s.fill(at.dir, "/data", true))
}

// A disk that can only be read is mounted as it is, and refused for writing.
func TestReadOnlyVolume(t *testing.T) {
	s, _ := set(t)
	disk := volumeDisk(t, 64<<20)
	if out, err := exec.Command("/sbin/blockdev", "--setro", disk.Path).CombinedOutput(); err != nil {
		t.Skipf("cannot make a disk read-only: %v: %s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("/sbin/blockdev", "--setrw", disk.Path).Run() }) // the next one to have it finds it so
	must(t, s.prepare())
	mountVolume(t, s, disk)
	volume := &tetherv1.Mount_Volume{Volume: &tetherv1.Volume{Serial: "vol1", CopyUp: true}}
	must(t, s.mount(t.Context(), &tetherv1.Mount{Target: "/data", ReadOnly: true, Source: volume}))
	if err := s.mount(t.Context(), &tetherv1.Mount{Target: "/more", Source: volume}); err == nil || !strings.Contains(err.Error(), "only be read") {
		t.Errorf("%v", err)
	}
}

// A disk that does not come is told by its serial number, in time.
func TestMissingVolume(t *testing.T) {
	s, _ := set(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	err := s.Make(ctx, []*tetherv1.Mount{{Target: "/data", Source: &tetherv1.Mount_Volume{Volume: &tetherv1.Volume{Serial: "vol9"}}}}, nil)
	if err == nil || !strings.Contains(err.Error(), `volume vol9 on /data: cannot find the disk with serial number "vol9"`) {
		t.Errorf("%v", err)
	}
}
