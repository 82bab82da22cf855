package process

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestAccountFilesAreNotTrusted(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	must(t, unix.Mkfifo(path("pipe"), 0o644))
	must(t, os.Mkdir(path("directory"), 0o755))
	must(t, os.Symlink("loop", path("loop")))
	must(t, os.WriteFile(path("sparse"), nil, 0o644))
	must(t, os.Truncate(path("sparse"), 1<<40))
	for name, want := range map[string]string{
		"pipe": "is not a regular file", "directory": "is not a regular file", "loop": "too many levels", "sparse": "the limit is",
	} {
		err := eachLine(path(name), func([]string) { t.Errorf("%s has a line", name) })
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
	must(t, eachLine(path("none"), nil))
	must(t, os.WriteFile(path("one line"), make([]byte, maxAccountFile), 0o644))
	must(t, eachLine(path("one line"), func([]string) {}))
}

// FuzzAccounts reads malformed account files and looks up users in them.
func FuzzAccounts(f *testing.F) {
	f.Add("root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000::/home/ann:\n", "root:x:0:\nstaff:x:50:ann,root\n", "ann:staff")
	f.Add("a:b\n::::::\nx:x:-1:99999999999:::\n", ":::\ng:x:1\n\n", "x")
	f.Add("", "", ":")
	f.Fuzz(func(t *testing.T, passwd, group, spec string) {
		var a accounts
		err := splitLines(strings.NewReader(passwd), a.addUser)
		if gerr := splitLines(strings.NewReader(group), a.addGroup); err != nil || gerr != nil {
			return // a line over the limit
		}
		got, err := a.resolve(spec, []string{"0"})
		if name, _, _ := strings.Cut(spec, ":"); err == nil && name != "" && got.uid != 0 && a.userName(got.uid) == "" {
			for _, u := range a.users {
				if u.uid == got.uid && u.name == "" {
					return
				}
			}
			t.Errorf("%q became %+v", spec, got)
		}
	})
}
