package mounts

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// plainMode is the mode of a tmpfs where nothing else says it.
const plainMode = 0o1777

// tmpfs mounts memory. Without a mode it has that of the directory which the image has at the target, as runc gives it.
func (s *Set) tmpfs(m *tetherv1.Mount, t *tetherv1.Tmpfs) (string, error) {
	flags, data, err := tmpfsOptions(t)
	if err != nil {
		return "", err
	}
	if !strings.Contains(","+data, ",mode=") {
		data += fmt.Sprintf(",mode=%o", s.modeOf(m.Target))
	}
	dir, err := s.newPlace()
	if err != nil {
		return "", err
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", flags, strings.TrimPrefix(data, ",")); err != nil {
		return "", err
	}
	s.places = append(s.places, place{dir: dir})
	return dir, nil
}

func (s *Set) modeOf(target string) uint32 {
	fd, err := openWithin(s.Image, target)
	if err != nil {
		return plainMode
	}
	defer unix.Close(fd)
	var is unix.Stat_t
	if err := unix.Fstat(fd, &is); err != nil || is.Mode&unix.S_IFMT != unix.S_IFDIR {
		return plainMode
	}
	return is.Mode & 0o7777
}

// flagOption is an option that is a flag of mount(2): it is set or cleared.
type flagOption struct {
	flag uintptr
	set  bool
}

// flagOptions are those that mount(8) knows and that any file system has.
func flagOptions() map[string]flagOption {
	return map[string]flagOption{
		"ro": {unix.MS_RDONLY, true}, "rw": {unix.MS_RDONLY, false},
		"nosuid": {unix.MS_NOSUID, true}, "suid": {unix.MS_NOSUID, false},
		"nodev": {unix.MS_NODEV, true}, "dev": {unix.MS_NODEV, false},
		"noexec": {unix.MS_NOEXEC, true}, "exec": {unix.MS_NOEXEC, false},
		"sync": {unix.MS_SYNCHRONOUS, true}, "async": {unix.MS_SYNCHRONOUS, false},
		"dirsync": {unix.MS_DIRSYNC, true},
		"noatime": {unix.MS_NOATIME, true}, "atime": {unix.MS_NOATIME, false},
		"nodiratime": {unix.MS_NODIRATIME, true}, "diratime": {unix.MS_NODIRATIME, false},
		"relatime": {unix.MS_RELATIME, true}, "norelatime": {unix.MS_RELATIME, false},
		"strictatime": {unix.MS_STRICTATIME, true}, "nostrictatime": {unix.MS_STRICTATIME, false},
		"defaults": {},
	}
}

func (f flagOption) apply(flags uintptr) uintptr {
	if f.set {
		return flags | f.flag
	}
	return flags &^ f.flag
}

// tmpfsOptions are the flags and data of mount(2). Options that nobody decided on are refused.
func tmpfsOptions(t *tetherv1.Tmpfs) (flags uintptr, data string, err error) {
	flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	known := flagOptions()
	var parts []string
	if t.GetSizeBytes() != 0 {
		parts = append(parts, fmt.Sprintf("size=%d", t.SizeBytes))
	}
	if t.GetMode() != 0 {
		parts = append(parts, fmt.Sprintf("mode=%o", t.Mode&0o7777))
	}
	for _, option := range strings.Split(t.GetOptions(), ",") {
		if option == "" {
			continue
		}
		if f, ok := known[option]; ok {
			flags = f.apply(flags)
			continue
		}
		switch key, value, _ := strings.Cut(option, "="); {
		case value == "":
		case key == "size", key == "mode", key == "uid", key == "gid", key == "nr_inodes", key == "nr_blocks":
			parts = append(parts, option)
			continue
		}
		return 0, "", fmt.Errorf("option %.60q is not known", option)
	}
	return flags, strings.Join(parts, ","), nil
}
