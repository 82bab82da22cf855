// Package smaps reads what the parts of a process's address space take: /proc/PID/smaps (proc(5)).
package smaps

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// maxMappings bounds what is read of a process, which may make as many mappings as its kernel lets it: twice the usual
// limit (vm.max_map_count).
const maxMappings = 1 << 17

// Mapping is a part of an address space. Sizes are in KiB.
type Mapping struct {
	Name         string // file, or empty; one that has no name any more ends in " (deleted)"
	Size         uint64
	Anonymous    uint64 // pages that are of no file: of a private mapping, those that were written to
	PrivateDirty uint64
}

// Read reads the mappings of a process. One that has ended and is not reaped has none.
func Read(pid int) ([]Mapping, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps", pid))
	if err != nil {
		return nil, fmt.Errorf("cannot read the memory of a process: %w", err)
	}
	defer f.Close()
	return Decode(f)
}

// Decode reads the text of smaps: a line with the range and the name, then lines of "Key:  N kB".
func Decode(r io.Reader) ([]Mapping, error) {
	var all []Mapping
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) == 0 {
			continue
		}
		key, isValue := strings.CutSuffix(fields[0], ":")
		if !isValue { // a range ends in no colon
			if len(all) == maxMappings {
				return nil, fmt.Errorf("cannot read smaps: it has more than %d mappings", maxMappings)
			}
			all = append(all, Mapping{Name: strings.Join(fields[min(5, len(fields)):], " ")})
			continue
		}
		if len(all) == 0 {
			return nil, fmt.Errorf("cannot understand smaps: %q belongs to no mapping", lines.Text())
		}
		if err := all[len(all)-1].set(key, fields[1:]); err != nil {
			return nil, err
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("cannot read smaps: %w", err)
	}
	return all, nil
}

func (m *Mapping) set(key string, value []string) (err error) {
	var field *uint64
	switch key {
	case "Size":
		field = &m.Size
	case "Anonymous":
		field = &m.Anonymous
	case "Private_Dirty":
		field = &m.PrivateDirty
	default:
		return nil
	}
	if len(value) == 0 {
		return fmt.Errorf("cannot understand smaps: %s has no value", key)
	}
	if *field, err = strconv.ParseUint(value[0], 10, 64); err != nil {
		return fmt.Errorf("cannot understand smaps: %s: %w", key, err)
	}
	return nil
}
