package jail

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Range are the numbers of users and groups for machines.
type Range struct{ First, Count uint32 }

// DefaultRange lies above what useradd(8), subordinate IDs (/etc/subuid), systemd's containers and homes take, and below 2^31, from where on
// some programs see negative numbers (systemd's docs/UIDS-GIDS.md).
var DefaultRange = Range{First: 2_000_000_000, Count: 65_536}

// check refuses a range that others have.
func (r Range) check() error {
	last := uint64(r.First) + uint64(r.Count) - 1
	if r.Count == 0 || r.First < 1000 || last >= 1<<32-2 {
		return fmt.Errorf("cannot use %d users from %d on for machines: want a range from 1000 to 4294967293", r.Count, r.First)
	}
	for _, file := range []string{"/etc/subuid", "/etc/subgid", "/etc/passwd", "/etc/group"} {
		f, err := os.Open(file)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		what, err := r.overlap(f, strings.HasPrefix(filepath.Base(file), "sub"))
		f.Close()
		if err == nil && what != "" {
			err = fmt.Errorf("%s gives them to %s: choose another range", file, what)
		}
		if err != nil {
			return fmt.Errorf("cannot use the users %d to %d for machines: %w", r.First, last, err)
		}
	}
	return nil
}

// overlap names who has numbers of the range: lines are "NAME:FIRST:COUNT" of subuid(5), or "NAME:x:NUMBER:…" of passwd(5) and group(5).
func (r Range) overlap(file io.Reader, ranges bool) (string, error) {
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		f := strings.Split(lines.Text(), ":")
		if len(f) < 3 {
			continue
		}
		at, count := f[2], "1"
		if ranges {
			at, count = f[1], f[2]
		}
		first, err1 := strconv.ParseUint(at, 10, 32)
		n, err2 := strconv.ParseUint(count, 10, 32)
		if err1 != nil || err2 != nil {
			continue
		}
		if first < uint64(r.First)+uint64(r.Count) && first+n > uint64(r.First) {
			return strconv.Quote(f[0]), nil
		}
	}
	return "", lines.Err()
}

// ids gives out the numbers of a range. A number is taken while someone has the lock on the file of its name: a machine's supervisor does,
// so that a number is free again when the last process is gone, whatever became of the daemon. All daemons of this host share the
// directory.
type ids struct {
	dir string
	Range
	mu   sync.Mutex
	next uint32 // offset to try first
}

// newIDs uses a directory that is the host's.
func newIDs(dir string, r Range) (*ids, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot keep track of machines' users: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR || st.Uid != uint32(os.Geteuid()) || st.Mode&0o022 != 0 {
		return nil, fmt.Errorf("cannot keep track of machines' users in %s: it is not a directory that is ours alone (%v)", dir, err)
	}
	return &ids{dir: dir, Range: r, next: uint32(os.Getpid()) % r.Count}, nil
}

// take returns a free number and its lock, which the caller gives to the machine's supervisor and closes.
func (i *ids) take() (uint32, *os.File, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for range i.Count {
		id := i.First + i.next
		i.next = (i.next + 1) % i.Count // a number rests as long as it can before it is another machine's
		fd, err := unix.Open(filepath.Join(i.dir, strconv.FormatUint(uint64(id), 10)), unix.O_RDONLY|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return 0, nil, fmt.Errorf("cannot take a user for a machine: %w", err)
		}
		err = unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return id, os.NewFile(uintptr(fd), "user"), nil
		}
		unix.Close(fd)
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return 0, nil, fmt.Errorf("cannot take a user for a machine: %w", err)
		}
	}
	return 0, nil, fmt.Errorf("cannot take a user for a machine: all %d are taken", i.Count)
}
