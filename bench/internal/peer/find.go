package peer

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Find looks for the process that has an argument which begins like this, and returns its ID and command line.
func Find(argument string) (pid int, line []string, err error) {
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return 0, nil, err
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			continue // ended meanwhile
		}
		line := strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00")
		if slices.ContainsFunc(line, func(a string) bool { return strings.HasPrefix(a, argument) }) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(f)))
			return pid, line, err
		}
	}
	return 0, nil, fmt.Errorf("cannot find a process with the argument %s…", argument)
}

// RAM is the name that the guest's memory has in the smaps of a QEMU with this command line: the file of its backend, or
// the kernel's name for anonymous files. Empty: it has none, see Usage.
func RAM(line []string) string {
	for _, a := range line {
		if strings.HasPrefix(a, "memory-backend-memfd,") {
			return "memfd:memory-backend-memfd"
		}
		for p := range strings.SplitSeq(a, ",") {
			if path, ok := strings.CutPrefix(p, "mem-path="); ok && strings.HasPrefix(a, "memory-backend-file,") {
				return path
			}
		}
	}
	return ""
}
