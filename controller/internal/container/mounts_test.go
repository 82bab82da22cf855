package container

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"golang.org/x/sys/unix"

	"github.com/containervm/containervm/controller/internal/record"
	"github.com/containervm/containervm/controller/internal/volume"
)

func TestParseBind(t *testing.T) {
	for text, want := range map[string]wanted{
		"/data":            {Mount: mount.Mount{Type: mount.TypeVolume, Target: "/data"}},
		"vol:/data":        {Mount: mount.Mount{Type: mount.TypeVolume, Source: "vol", Target: "/data"}},
		"vol:/data/../x//": {Mount: mount.Mount{Type: mount.TypeVolume, Source: "vol", Target: "/x"}},
		"vol:/data:ro":     {Mount: mount.Mount{Type: mount.TypeVolume, Source: "vol", Target: "/data", ReadOnly: true}, mode: "ro"},
		"vol:/data:ro,z":   {Mount: mount.Mount{Type: mount.TypeVolume, Source: "vol", Target: "/data", ReadOnly: true}, mode: "ro,z"},
		"vol:/data:rw,Z":   {Mount: mount.Mount{Type: mount.TypeVolume, Source: "vol", Target: "/data"}, mode: "rw,Z"},
		"vol:/data:nocopy": {Mount: mount.Mount{Type: mount.TypeVolume, Source: "vol", Target: "/data"}, mode: "nocopy", noCopy: true},
		"vol:/data:cached": {Mount: mount.Mount{Type: mount.TypeVolume, Source: "vol", Target: "/data"}, mode: "cached"},
		"/etc/x:/run/x:ro": {Mount: mount.Mount{Type: mount.TypeBind, Source: "/etc/x", Target: "/run/x", ReadOnly: true}, mode: "ro"},
		"/etc:/etc:rslave": {Mount: mount.Mount{Type: mount.TypeBind, Source: "/etc", Target: "/etc"}, mode: "rslave"},
		"a:/dev/shm":       {Mount: mount.Mount{Type: mount.TypeVolume, Source: "a", Target: "/dev/shm"}},
		"/processes":       {Mount: mount.Mount{Type: mount.TypeVolume, Target: "/processes"}},
	} {
		if got, err := parseBind(text); err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	for text, why := range map[string]string{
		"":               "invalid volume specification: ''",
		":/a":            "invalid volume specification: ':/a'",
		"/a:rw":          "invalid volume specification: '/a:rw'",
		"a:/b:ro:z":      "invalid volume specification: 'a:/b:ro:z'",
		"a:/b:bogus":     "invalid mode: bogus",
		"a:/b:ro,rw":     "invalid mode: ro,rw",
		"a:/b:ro,":       "invalid mode: ro,",
		"a:/b:rshared":   "field BindOptions must not be specified",
		"a:/":            "invalid specification: destination can't be '/'",
		"a:b":            "invalid mount path: 'b' mount path must be absolute",
		"b":              "invalid mount path: 'b' mount path must be absolute",
		"a:/proc":        "/proc is the containerVM's own",
		"a:/dev/":        "/dev is the containerVM's own",
		"a:/x/../sys/fs": "/sys is the containerVM's own",
		"a:":             "invalid volume specification: 'a:'",
	} {
		if got, err := parseBind(text); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), why) {
			t.Errorf("%q: %+v, %v, want %q", text, got, err, why)
		}
	}
}

func TestParseMount(t *testing.T) {
	for why, m := range map[string]mount.Mount{
		"mount type unknown": {Target: "/a"},
		"must not set ReadOnly mode when using anonymous volumes": {Type: mount.TypeVolume, Target: "/a", ReadOnly: true},
		"must not set Subpath when using anonymous volumes":       {Type: mount.TypeVolume, Target: "/a", VolumeOptions: &mount.VolumeOptions{Subpath: "x"}},
		"subpath must be a relative path within the volume":       {Type: mount.TypeVolume, Source: "vo", Target: "/a", VolumeOptions: &mount.VolumeOptions{Subpath: "../x"}},
		"field Source must not be specified":                      {Type: mount.TypeTmpfs, Source: "x", Target: "/a"},
		"field BindOptions must not be specified":                 {Type: mount.TypeVolume, Target: "/a", BindOptions: &mount.BindOptions{}},
		"field VolumeOptions must not be specified":               {Type: mount.TypeTmpfs, Target: "/a", VolumeOptions: &mount.VolumeOptions{}},
		"field Source must not be empty":                          {Type: mount.TypeBind, Target: "/a"},
		"invalid option: uid=1":                                   {Type: mount.TypeTmpfs, Target: "/a", TmpfsOptions: &mount.TmpfsOptions{Options: [][]string{{"uid", "1"}}}},
		"invalid size -1":                                         {Type: mount.TypeTmpfs, Target: "/a", TmpfsOptions: &mount.TmpfsOptions{SizeBytes: -1}},
		"mounts of type image are not supported":                  {Type: mount.TypeImage, Source: "x", Target: "/a"},
		"mounts of type cluster are not supported":                {Type: mount.TypeCluster, Source: "x", Target: "/a"},
		"mounts of type npipe are not supported":                  {Type: mount.TypeNamedPipe, Source: "x", Target: "/a"},
	} {
		if _, err := parseMount(m); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%+v: %v, want %q", m, err, why)
		}
	}
	w, err := parseMount(mount.Mount{Type: mount.TypeTmpfs, Target: "/a/", TmpfsOptions: &mount.TmpfsOptions{SizeBytes: 5, Mode: 0o1700, Options: [][]string{{"exec"}}}})
	if err != nil || w.Target != "/a" {
		t.Errorf("%+v, %v", w, err)
	}
	if text, err := tmpfsOptions(w.TmpfsOptions); err != nil || text != "size=5,mode=1700,exec" || volume.CheckTmpfs(text) != nil {
		t.Errorf("options %q, %v", text, err)
	}
}

// TestMounts: what comes over what, and what is an error.
func TestMounts(t *testing.T) {
	shared := map[string]wanted{"/data": {Mount: mount.Mount{Type: mount.TypeVolume, Target: "/data"}, shared: &record.Mount{Volume: "theirs"}}, "/more": {Mount: mount.Mount{Type: mount.TypeVolume, Target: "/more"}, shared: &record.Mount{Volume: "more"}}}
	all, err := mounts(
		&container.Config{Volumes: map[string]struct{}{"/data": {}, "/more/": {}, "/own": {}, "/mem": {}, "relative": {}}},
		&container.HostConfig{Binds: []string{"mine:/data"}, Tmpfs: map[string]string{"/mem": "size=1m"}, VolumeDriver: "local"}, shared)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for target, w := range all {
		got[target] = w.Source
		if w.shared != nil {
			got[target] = w.shared.Volume
		}
	}
	if want := map[string]string{"/data": "mine", "/more": "more", "/own": "", "/relative": ""}; !maps.Equal(got, want) {
		t.Errorf("mounts %v, want %v", got, want)
	}
	for why, h := range map[string]container.HostConfig{
		"Duplicate mount point: /a":    {Binds: []string{"va:/a", "vb:/a/"}},
		"Duplicate mount point: /b":    {Binds: []string{"va:/b"}, Mounts: []mount.Mount{{Type: mount.TypeVolume, Target: "/b"}}},
		"Duplicate mount point: /c":    {Binds: []string{"va:/c"}, Tmpfs: map[string]string{"/c": ""}},
		`plugin "x" not found`:         {VolumeDriver: "x"},
		`Invalid tmpfs option "bogus"`: {Tmpfs: map[string]string{"/a": "bogus"}},
		`invalid tmpfs mount "/"`:      {Tmpfs: map[string]string{"/": ""}},
		`invalid tmpfs mount "/sys/x`:  {Tmpfs: map[string]string{"/sys/x": ""}},
	} {
		if _, err := mounts(&container.Config{}, &h, nil); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), why) {
			t.Errorf("%v, want %q", err, why)
		}
	}
}

func TestParseVolumesFrom(t *testing.T) {
	for text, want := range map[string]bool{"c": false, "c:rw": false, "c:ro": true, "c:ro,z": true} {
		if ref, readOnly, err := parseVolumesFrom(text); ref != "c" || readOnly != want || err != nil {
			t.Errorf("%q: %q, %v, %v", text, ref, readOnly, err)
		}
	}
	for _, text := range []string{"", "c:x", "c:nocopy", "c:rslave"} {
		if _, _, err := parseVolumesFrom(text); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// TestUnits: mounts of one volume share a disk, which is read-only when they all are. Unit 7 is the controller's.
func TestUnits(t *testing.T) {
	all := []record.Mount{
		{Target: "/a", Disk: &record.Disk{Path: "x"}, ReadOnly: true}, {Target: "/b", Disk: &record.Disk{Path: "y"}, ReadOnly: true},
		{Target: "/c"}, {Target: "/d", Disk: &record.Disk{Path: "x"}},
	}
	giveUnits(all)
	if d := Disks(&record.Container{Mounts: all}); len(d) != 2 || d[0].Unit != 1 || d[0].ReadOnly || d[1].Unit != 2 || !d[1].ReadOnly || all[3].Disk.Unit != 1 {
		t.Errorf("disks %+v", d)
	}
	all = nil
	for i := range 14 {
		all = append(all, record.Mount{Disk: &record.Disk{Path: fmt.Sprint(i)}})
	}
	giveUnits(all)
	if all[5].Disk.Unit != 6 || all[6].Disk.Unit != 8 || all[13].Disk.Unit != 15 {
		t.Errorf("%+v, %+v, %+v", all[5].Disk, all[6].Disk, all[13].Disk)
	}
}

func TestForkMounts(t *testing.T) {
	all := []record.Mount{
		{Target: "/a", Volume: "data", Disk: &record.Disk{Unit: 1, Path: "cvm-volumes/1.vmdk"}},
		{Target: "/b", Volume: "shared", Disk: &record.Disk{Unit: 2, Path: "cvm-volumes/2.vmdk", ReadOnly: true}, ReadOnly: true},
		{Target: "/c", Volume: "nfs", NFS: &record.NFS{}},
	}
	got := ForkMounts("child", all, func(path string) string { return "[ds] " + path })
	if m := got[0]; m.Volume == "data" || len(m.Volume) != 64 || m.ForkedFrom != "data" || !m.Anonymous || m.Source != "[ds] child/volume-1.vmdk" || m.Disk.Unit != 1 {
		t.Errorf("%+v", m)
	}
	if got[1].Volume != "shared" || got[2].Volume != "nfs" || all[0].Volume != "data" {
		t.Errorf("%+v of %+v", got, all)
	}
}

// TestHostFiles: what may be copied in is a regular file of at most so many bytes, that a client mounts read-only who could read it itself.
func TestHostFiles(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "secret")
	if err := os.WriteFile(file, []byte("s3cret"), 0o640); err != nil {
		t.Fatal(err)
	}
	bind := func(name string, change func(*wanted)) []wanted {
		w := wanted{Mount: mount.Mount{Type: mount.TypeBind, Source: name, Target: "/run/secrets/x", ReadOnly: true}}
		if change != nil {
			change(&w)
		}
		return []wanted{w}
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{file, link} {
		all, err := copyIn(bind(name, nil), nil, true)
		if err != nil || len(all) != 1 || string(all[0].Content) != "s3cret" || all[0].Path != "/run/secrets/x" || all[0].Mode != 0o640 || int(all[0].UID) != os.Getuid() {
			t.Errorf("%s: %+v, %v", name, all, err)
		}
	}
	pipe, large, empty := filepath.Join(dir, "pipe"), filepath.Join(dir, "large"), filepath.Join(dir, "empty")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, size := range map[string]int{large: maxFiles + 1, empty: 0} {
		if err := os.WriteFile(name, make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if all, err := copyIn(bind(empty, nil), nil, true); err != nil || len(all) != 1 {
		t.Errorf("an empty file: %+v, %v", all, err)
	}
	for _, c := range []struct {
		wants   []wanted
		allowed bool
		is      func(error) bool
		why     string
	}{
		{bind(file, nil), false, errdefs.IsNotImplemented, "cannot mount the host's " + file},
		{bind(file, func(w *wanted) { w.ReadOnly = false }), true, errdefs.IsNotImplemented, "docker cp"},
		{bind(dir, nil), true, errdefs.IsNotImplemented, "shares no file system"},
		{bind(pipe, nil), true, errdefs.IsNotImplemented, "shares no file system"},
		{bind("/dev/null", nil), true, errdefs.IsNotImplemented, "shares no file system"},
		{bind("/proc/self/environ", nil), true, errdefs.IsNotImplemented, "shares no file system"},
		{bind(filepath.Join(dir, "none"), nil), true, errdefs.IsInvalidArgument, "bind source path does not exist"},
		{bind(large, nil), true, errdefs.IsInvalidArgument, "358400 bytes"},
		{slices.Concat(bind(file, nil), bind(large, nil)), true, errdefs.IsInvalidArgument, "358400 bytes"},
	} {
		if _, err := copyIn(c.wants, nil, c.allowed); !c.is(err) || !strings.Contains(err.Error(), c.why) {
			t.Errorf("%s: %v, want %q", c.wants[0].Source, err, c.why)
		}
	}
}

// FuzzBind: what is taken has an absolute and clean target that the guest does not keep for itself.
func FuzzBind(f *testing.F) {
	for _, text := range []string{"a:/b:ro", "/a", "/a:/b", "a:/b/../proc", ":::", "a:/b:ro,z,nocopy"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		w, err := parseBind(text)
		if err != nil {
			return
		}
		if !filepath.IsAbs(w.Target) || filepath.Clean(w.Target) != w.Target || checkTarget(w.Target) != nil {
			t.Errorf("%q has the target %q", text, w.Target)
		}
	})
}
