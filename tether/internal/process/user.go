package process

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// Limits of the image's account files: they are the image's, so nothing about them is certain.
const (
	maxAccountFile = 1 << 20   // bytes: what is kept of a file is up to 20 times as large, in a machine that may be small
	maxID          = 1<<31 - 1 // largest user or group ID that Docker takes
)

// account is whom a process runs as.
type account struct {
	uid, gid uint32
	groups   []uint32
	home     string
}

// passwdEntry and groupEntry are lines of /etc/passwd and /etc/group, passwd(5) and group(5).
type passwdEntry struct {
	name, home string
	uid, gid   uint32
}

type groupEntry struct {
	name    string
	gid     uint32
	members []string
}

// accounts is an image's users and groups.
type accounts struct {
	users  []passwdEntry
	groups []groupEntry
}

// readAccounts reads the files of the root of the calling thread. An image without them has no accounts.
func readAccounts() (a accounts, err error) {
	if err = eachLine("/etc/passwd", a.addUser); err == nil {
		err = eachLine("/etc/group", a.addGroup)
	}
	return a, err
}

func (a *accounts) addUser(f []string) {
	if len(f) >= 6 {
		a.users = append(a.users, passwdEntry{name: f[0], home: f[5], uid: parseID(f[2]), gid: parseID(f[3])})
	}
}

func (a *accounts) addGroup(f []string) {
	if len(f) >= 4 {
		a.groups = append(a.groups, groupEntry{f[0], parseID(f[2]), strings.Split(f[3], ",")})
	}
}

// eachLine calls f with the fields of each line. A file that is no regular one is refused, not waited for.
func eachLine(path string, f func(fields []string)) error {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot read accounts of the image: %w", err)
	}
	defer file.Close()
	info, err := file.Stat()
	switch {
	case err != nil:
		return fmt.Errorf("cannot read accounts of the image: %w", err)
	case !info.Mode().IsRegular():
		return fmt.Errorf("cannot read accounts of the image: %s is not a regular file", path)
	case info.Size() > maxAccountFile:
		return fmt.Errorf("cannot read accounts of the image: %s has %d bytes, the limit is %d", path, info.Size(), maxAccountFile)
	}
	return splitLines(io.LimitReader(file, maxAccountFile), f)
}

func splitLines(r io.Reader, f func(fields []string)) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxAccountFile+1)
	for lines.Scan() {
		f(strings.Split(strings.TrimSpace(lines.Text()), ":"))
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("cannot read accounts of the image: %w", err)
	}
	return nil
}

// parseID reads a number of an account file; like runc, a malformed one counts as 0.
func parseID(s string) uint32 {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return 0
	}
	return uint32(n)
}

// numericID reads an ID as a user gives it.
func numericID(s string) (uint32, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err == nil && n <= maxID
}

// resolve finds the account for "", "user", "uid", "user:group", "uid:gid" by Docker's rules: a name must be known, a
// number need not; supplementary groups come from the group file unless a group is given, and extra ones and the group itself always.
func (a accounts) resolve(spec string, extra []string) (account, error) {
	name, group, grouped := strings.Cut(spec, ":")
	if name == "" {
		name = "0"
	}
	user, err := a.user(name)
	if err != nil {
		return account{}, err
	}
	acc := account{uid: user.uid, gid: user.gid, home: user.home}
	if grouped && group != "" {
		if acc.gid, err = a.group(group); err != nil {
			return account{}, err
		}
	} else if user.name != "" {
		acc.groups = a.memberships(user.name)
	}
	for _, g := range extra {
		gid, err := a.group(g)
		if err != nil {
			return account{}, err
		}
		if !slices.Contains(acc.groups, gid) {
			acc.groups = append(acc.groups, gid)
		}
	}
	// The group is among the supplementary ones too, as in Docker: else a program that changes its group gives up what files deny to it.
	if !slices.Contains(acc.groups, acc.gid) {
		acc.groups = append(acc.groups, acc.gid)
	}
	return acc, nil
}

func (a accounts) user(name string) (passwdEntry, error) {
	uid, numeric := numericID(name)
	for _, u := range a.users {
		if u.name == name || numeric && u.uid == uid {
			return u, nil
		}
	}
	if !numeric {
		return passwdEntry{}, failure(tetherv1.Failure_NO_USER, "unable to find user %s: no matching entries in passwd file", name)
	}
	return passwdEntry{uid: uid}, nil
}

func (a accounts) group(name string) (uint32, error) {
	gid, numeric := numericID(name)
	for _, g := range a.groups {
		if g.name == name || numeric && g.gid == gid {
			return g.gid, nil
		}
	}
	if !numeric {
		return 0, failure(tetherv1.Failure_NO_USER, "unable to find group %s: no matching entries in group file", name)
	}
	return gid, nil
}

func (a accounts) memberships(user string) []uint32 {
	var gids []uint32
	for _, g := range a.groups {
		if slices.Contains(g.members, user) {
			gids = append(gids, g.gid)
		}
	}
	return gids
}

// userName is the name of a user ID, or the number.
func (a accounts) userName(uid uint32) string {
	for _, u := range a.users {
		if u.uid == uid {
			return u.name
		}
	}
	return strconv.FormatUint(uint64(uid), 10)
}

// groupName is the name of a group ID, or the number.
func (a accounts) groupName(gid uint32) string {
	for _, g := range a.groups {
		if g.gid == gid {
			return g.name
		}
	}
	return strconv.FormatUint(uint64(gid), 10)
	// User finds a user and its group by a name or number as in an image's configuration.
}

func (c *Container) User(name string) (uid, gid int, err error) {
	err = c.Do(func() error {
		known, err := readAccounts()
		if err != nil {
			return err
		}
		is, err := known.resolve(name, nil)
		uid, gid = int(is.uid), int(is.gid)
		return err
	})
	return uid, gid, err
}
