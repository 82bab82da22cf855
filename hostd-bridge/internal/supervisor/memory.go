package supervisor

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ramName is the name of a guest's memory among the mappings of its QEMU: "/memfd:cvm-ram (deleted)" in /proc/PID/maps.
const ramName = "cvm-ram"

// newMemory makes a file in memory that can be sealed later.
func newMemory(name string, size int64) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("cannot make %s: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	if err := f.Truncate(size); err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot make %s of %d bytes: %w", name, size, err)
	}
	return f, nil
}

// allSeals are the seals of a file whose content is final.
const allSeals = unix.F_SEAL_WRITE | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL

// seal makes a file's content final for all processes (memfd_create(2)). It fails while a process has the file mapped shared and
// writable.
func seal(f *os.File) error {
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, allSeals); err != nil {
		return fmt.Errorf("cannot seal %s: %w", f.Name(), err)
	}
	return nil
}

// resident is how many bytes of a memory file are backed by pages.
func resident(f *os.File) int64 {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return 0
	}
	return st.Blocks * 512
}

// Sizes of a copy, in bytes.
const (
	pageSize  = 4096
	copyChunk = 1 << 20
)

// copyMemory writes into dst, an empty file as long as base, what the machine's memory holds: the pages of base, and over them
// those that process pid has written to its private mapping of it. Pages of zeros stay holes.
func copyMemory(ctx context.Context, dst, base *os.File, pid int) error {
	if err := copyPages(ctx, dst, base); err != nil {
		return fmt.Errorf("cannot copy the memory's base: %w", err)
	}
	m, err := findMapping(pid)
	if err != nil {
		return err
	}
	if m.shared {
		return nil // what is written is in base
	}
	if err := copyPrivate(ctx, dst, m, pid); err != nil {
		return fmt.Errorf("cannot copy the memory of process %d: %w", pid, err)
	}
	return nil
}

// copyPages copies the pages of a sparse file.
func copyPages(ctx context.Context, dst, src *os.File) error {
	buf := make([]byte, copyChunk)
	for at := int64(0); ; {
		begin, err := unix.Seek(int(src.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil
		}
		if err != nil {
			return err
		}
		end, err := unix.Seek(int(src.Fd()), begin, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		for at = begin; at < end; {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			n, err := src.ReadAt(buf[:min(int64(len(buf)), end-at)], at)
			if err != nil && err != io.EOF {
				return err
			}
			if err := writeSparse(dst, buf[:n], at, false); err != nil {
				return err
			}
			at += int64(n)
		}
	}
}

// writeSparse writes whole pages; runs of zeros become holes, or stay what they are when they already are.
func writeSparse(dst *os.File, b []byte, at int64, punch bool) error {
	for len(b) > 0 {
		n, zero := run(b)
		switch {
		case !zero:
			if _, err := dst.WriteAt(b[:n], at); err != nil {
				return err
			}
		case punch:
			const hole = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
			if err := unix.Fallocate(int(dst.Fd()), hole, at, int64(n)); err != nil {
				return err
			}
		}
		b, at = b[n:], at+int64(n)
	}
	return nil
}

var zeroPage [pageSize]byte

// run is the length of the pages at the beginning of b that are alike: zero, or not.
func run(b []byte) (n int, zero bool) {
	for n < len(b) {
		end := min(n+pageSize, len(b))
		z := bytes.Equal(b[n:end], zeroPage[:end-n])
		if n > 0 && z != zero {
			break
		}
		n, zero = end, z
	}
	return n, zero
}

// mapping is where a process has a guest's memory.
type mapping struct {
	start, end uint64
	shared     bool
}

// findMapping reads /proc/PID/maps (proc_pid_maps(5)).
func findMapping(pid int) (mapping, error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return mapping{}, fmt.Errorf("cannot find the guest's memory: %w", err)
	}
	for line := range strings.Lines(string(maps)) {
		f := strings.Fields(line)
		if len(f) < 6 || !isRAM(f[5]) || f[2] != "00000000" {
			continue
		}
		from, to, _ := strings.Cut(f[0], "-")
		start, err1 := strconv.ParseUint(from, 16, 64)
		end, err2 := strconv.ParseUint(to, 16, 64)
		return mapping{start, end, strings.HasSuffix(f[1], "s")}, errors.Join(err1, err2)
	}
	return mapping{}, fmt.Errorf("cannot find the guest's memory: process %d has not mapped it", pid)
}

// Bits of /proc/PID/pagemap: Documentation/admin-guide/mm/pagemap.rst.
const (
	pagePresent = 1 << 63
	pageSwapped = 1 << 62
	pageOfFile  = 1 << 61 // or shared anonymous
)

// copyPrivate writes the pages that a process has for itself: present or swapped, and not those of the file.
func copyPrivate(ctx context.Context, dst *os.File, m mapping, pid int) error {
	pagemap, err := os.Open(fmt.Sprintf("/proc/%d/pagemap", pid))
	if err != nil {
		return err
	}
	defer pagemap.Close()
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		return err
	}
	defer mem.Close()
	entries := make([]byte, 8*copyChunk/pageSize)
	buf := make([]byte, copyChunk)
	for at := m.start; at < m.end; at += copyChunk {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		pages := min(copyChunk, m.end-at) / pageSize
		if _, err := pagemap.ReadAt(entries[:8*pages], int64(at/pageSize*8)); err != nil {
			return err
		}
		err := eachRun(entries[:8*pages], func(first, n int) error {
			from, b := at+uint64(first*pageSize), buf[:n*pageSize]
			if _, err := mem.ReadAt(b, int64(from)); err != nil {
				return err
			}
			return writeSparse(dst, b, int64(from-m.start), true)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// eachRun calls f for each run of private pages among pagemap entries.
func eachRun(entries []byte, f func(first, n int) error) error {
	private := func(i int) bool {
		if 8*i >= len(entries) {
			return false
		}
		e := binary.LittleEndian.Uint64(entries[8*i:]) // package vsock refuses machines of the other kind
		return e&(pagePresent|pageSwapped) != 0 && e&pageOfFile == 0
	}
	for i := 0; 8*i < len(entries); i++ {
		first := i
		for private(i) {
			i++
		}
		if i > first {
			if err := f(first, i-first); err != nil {
				return err
			}
		}
	}
	return nil
}
