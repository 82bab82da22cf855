package process

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// Wiped is what WipeOnFork did.
type Wiped struct {
	Processes int  // that had something to be wiped
	Cut       bool // time was up before all were looked at
}

// WipeOnFork wipes what the container's processes, which must stand, have marked to be wiped in the children of fork(2): MADV_WIPEONFORK,
// madvise(2). A copy of their machine is such a child. It is how libraries notice a fork that nobody tells them of (BoringSSL, AWS-LC, s2n):
// they find zeros, and seed their generators anew. Memory that the kernel may drop at any time is left (vgetrandom(2) has it): what uses
// that asks the kernel's generator by itself.
func (c *Container) WipeOnFork(ctx context.Context) (w Wiped, err error) {
	failed := c.eachInside(func(outer, _ int32, _ string) {
		if ctx.Err() != nil {
			w.Cut = true
			return
		}
		wiped, wipeErr := wipe("/proc/" + strconv.Itoa(int(outer)))
		if wiped {
			w.Processes++
		}
		if wipeErr != nil && !errors.Is(wipeErr, os.ErrNotExist) {
			err = errors.Join(err, wipeErr)
		}
	})
	return w, errors.Join(err, failed)
}

// wipe wipes what is marked in the process with a directory in /proc, and reports whether there was any.
func wipe(dir string) (any bool, err error) {
	maps, err := os.Open(dir + "/smaps")
	if err != nil {
		return false, err
	}
	defer maps.Close()
	marked, err := markedAreas(maps)
	if err != nil || len(marked) == 0 {
		return false, err
	}
	memory, err := os.OpenFile(dir+"/mem", os.O_RDWR, 0)
	if err != nil {
		return false, err
	}
	defer memory.Close()
	for _, a := range marked {
		if err := a.wipe(memory); err != nil {
			return true, fmt.Errorf("cannot wipe memory of a process: %w", err)
		}
	}
	return true, nil
}

// area is memory of a process, from begin to end.
type area struct{ begin, end int64 }

// markedAreas finds the areas of /proc/PID/smaps, proc_pid_smaps(5), that are wiped by fork(2) and not dropped by the kernel.
func markedAreas(smaps io.Reader) (all []area, err error) {
	var current area
	lines := bufio.NewScanner(smaps)
	lines.Buffer(nil, 64<<10) // a path is at most a page, and four times that where it is escaped
	for lines.Scan() {
		line := lines.Text()
		flags, ok := strings.CutPrefix(line, "VmFlags:")
		switch {
		case !ok:
			if a, ok := parseArea(line); ok {
				current = a
			}
		case strings.Contains(flags+" ", " wf ") && !strings.Contains(flags+" ", " dp "):
			all = append(all, current)
		}
	}
	return all, lines.Err()
}

// parseArea reads the first line of an area: "7f0000000000-7f0000001000 rw-p ...".
func parseArea(line string) (a area, ok bool) {
	addresses, _, _ := strings.Cut(line, " ")
	begin, end, found := strings.Cut(addresses, "-")
	if !found {
		return a, false
	}
	var errs [2]error
	a.begin, errs[0] = strconv.ParseInt(begin, 16, 64)
	a.end, errs[1] = strconv.ParseInt(end, 16, 64)
	return a, errors.Join(errs[:]...) == nil && a.begin < a.end
}

// wipe makes zeros of what is not zero: pages that nobody has touched cost no memory then.
func (a area) wipe(memory *os.File) error {
	page, zeros := make([]byte, os.Getpagesize()), make([]byte, os.Getpagesize())
	for at := a.begin; at < a.end; at += int64(len(page)) {
		if _, err := memory.ReadAt(page, at); err != nil {
			return err
		}
		if bytes.Equal(page, zeros) {
			continue
		}
		if _, err := memory.WriteAt(zeros, at); err != nil {
			return err
		}
	}
	return nil
}
