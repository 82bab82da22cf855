package forkpoint

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// Where a container finds the generation.
const (
	// GenerationFile tells a program of forks: 8 bytes, the machine's generation as a uint64 in the processor's order of bytes. They can be
	// read; mapped, shared and for reading, which costs a look at memory; and waited for by poll(2) and its kin: the file is readable
	// while it says another number than what was read by that descriptor last, or was there when it was opened.
	GenerationFile = Dir + "/generation"
	// SysGenID is another name of the file, by which AWS-LC looks for it: it maps the first four bytes.
	SysGenID = "/dev/sysgenid"
)

// maxOpen bounds how often GenerationFile is open at a time, each of which costs the tether memory.
const maxOpen = 16384

// Generation is the tether's side of GenerationFile: a file system of one file (FUSE), since the kernel has no other file that can be
// read, mapped and polled. Its methods may be called by several goroutines.
type Generation struct {
	device *os.File

	mu     sync.Mutex
	value  uint64
	used   bool // it has been opened
	next   uint64
	opened map[uint64]*opened // by the kernel's name for it
}

// opened is one opening of the file, which processes may share.
type opened struct {
	seen   uint64 // what it said last
	waiter uint64 // the kernel's name for who waits; 0: nobody
}

// MountGeneration mounts the file at path, which is made, and serves it as long as the machine lives. The caller's /dev must have the
// kernel's device for it.
func MountGeneration(path string) (*Generation, error) {
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot make %s: %w", GenerationFile, err)
	}
	err = os.WriteFile(path, nil, 0o444)
	if err == nil {
		options := "fd=" + strconv.Itoa(fd) + ",rootmode=" + strconv.FormatUint(fileMode, 8) + ",user_id=0,group_id=0,allow_other,default_permissions"
		err = unix.Mount("cvm-generation", path, "fuse", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, options)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("cannot mount %s: %w", GenerationFile, err)
	}
	g := newGeneration()
	g.device = os.NewFile(uintptr(fd), "/dev/fuse") // not earlier: who polls it before it is mounted is never woken
	go g.serve()
	return g, nil
}

func newGeneration() *Generation { return &Generation{opened: map[uint64]*opened{}} }

// serve ends with the mount.
func (g *Generation) serve() {
	buffer := make([]byte, minBuffer)
	for {
		n, err := g.device.Read(buffer)
		switch {
		case errors.Is(err, unix.ENODEV), errors.Is(err, os.ErrClosed): // unmounted
			_ = g.device.Close()
			return
		case err != nil: // ENOENT: a request was taken back
			continue
		}
		if answer := g.answer(buffer[:n]); answer != nil {
			_, _ = g.device.Write(answer) // ENOENT: it was taken back
		}
	}
}

// Set makes value the file's and wakes who waits for that; told is how often the file is open.
func (g *Generation) Set(value uint64) (told int) {
	if g == nil {
		return 0
	}
	g.mu.Lock()
	g.value = value
	var notices [][]byte
	if g.used { // else no page has it
		notices = append(notices, storeNotice(g.textLocked()))
	}
	for _, o := range g.opened {
		if o.waiter != 0 && o.seen != value {
			notices = append(notices, pollNotice(o.waiter))
			o.waiter = 0
		}
	}
	told = len(g.opened)
	g.mu.Unlock() // the kernel may need an answer before it takes a notice
	for _, n := range notices {
		_, _ = g.device.Write(n) // ENOENT: who waited is gone
	}
	return told
}

// Value is the number that the file says.
func (g *Generation) Value() uint64 {
	if g == nil {
		return 0
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.value
}

func (g *Generation) textLocked() []byte { return binary.NativeEndian.AppendUint64(nil, g.value) }
