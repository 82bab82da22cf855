package demoimage

import (
	"archive/tar"
	"io"
	"path"
	"slices"
)

// dir is a directory of the image's root.
type dir struct {
	name string
	mode int64
}

// dirs returns the directories that programs expect, parents first.
func dirs() []dir {
	return []dir{
		{"bin", 0o755}, {"dev", 0o755}, {"etc", 0o755}, {"home", 0o755}, {"proc", 0o555}, {"root", 0o700},
		{"run", 0o755}, {"sbin", 0o755}, {"sys", 0o555}, {"tmp", 0o1777}, {"usr", 0o755}, {"usr/bin", 0o755},
		{"usr/sbin", 0o755}, {"var", 0o755}, {"var/tmp", 0o1777},
	}
}

const (
	passwd = "root:x:0:0:root:/root:/bin/sh\n" +
		"daemon:x:1:1:daemon:/usr/sbin:/bin/false\n" +
		"nobody:x:65534:65534:nobody:/home:/bin/false\n"
	group = "root:x:0:\ndaemon:x:1:\ntty:x:5:\nusers:x:100:\nnogroup:x:65534:\n"
)

// program is where the one executable is; every applet is a link to it.
const program = "bin/busybox"

// writeRoot writes the root file system as a layer.
func writeRoot(w io.Writer, s Source) error {
	tw := tar.NewWriter(w)
	for _, d := range dirs() {
		if err := add(tw, s, tar.Header{Typeflag: tar.TypeDir, Name: d.name + "/", Mode: d.mode}, nil); err != nil {
			return err
		}
	}
	for _, f := range []struct {
		name string
		mode int64
		data []byte
	}{
		{program, 0o755, s.Busybox},
		{"etc/passwd", 0o644, []byte(passwd)},
		{"etc/group", 0o644, []byte(group)},
	} {
		if err := add(tw, s, tar.Header{Typeflag: tar.TypeReg, Name: f.name, Mode: f.mode}, f.data); err != nil {
			return err
		}
	}
	for _, applet := range s.Applets {
		if !isApplet(applet) {
			continue
		}
		if err := add(tw, s, tar.Header{Typeflag: tar.TypeSymlink, Name: applet, Linkname: "/" + program, Mode: 0o777}, nil); err != nil {
			return err
		}
	}
	return tw.Close()
}

// isApplet is false for the program itself and for paths in directories that the root does not have (/init, /linuxrc).
func isApplet(name string) bool {
	return name != program && slices.Contains([]string{"bin", "sbin", "usr/bin", "usr/sbin"}, path.Dir(name))
}

func add(tw *tar.Writer, s Source, h tar.Header, data []byte) error {
	h.ModTime, h.Size, h.Format = s.Created, int64(len(data)), tar.FormatPAX
	if err := tw.WriteHeader(&h); err != nil {
		return err
	}
	_, err := tw.Write(data)
	return err
}
