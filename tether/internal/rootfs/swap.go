package rootfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// SwapFile is the swap of a machine, by its path on the root disk. The kernel lets nobody write to it or remove it while it is in use, so it
// has a name, but one that no container sees: its own /dev lies over it.
const SwapFile = "dev/.cvm-swap"

// MinSwap is the least swap, in bytes: the kernel takes none of less than ten pages.
const MinSwap = 1 << 20

// pageSize is that of this architecture, and of its swap.
const pageSize = 4096

// Swap is the swap of a machine on a mounted root disk. The zero value is none.
type Swap struct{ path string }

// On makes a file of that many bytes on the disk that is mounted on dir, and swaps to it. What an earlier run left there goes.
func (s *Swap) On(dir string, bytes uint64) error {
	if err := ClearSwap(dir); err != nil {
		return err
	}
	bytes = max(bytes, MinSwap) / pageSize * pageSize
	root, err := os.OpenRoot(dir) // an image may have a link in the place of /dev
	if err != nil {
		return err
	}
	defer root.Close()
	file, err := root.OpenFile(SwapFile, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("cannot make the machine's swap: %w", err)
	}
	err = unix.Fallocate(int(file.Fd()), 0, 0, int64(bytes)) // swapon(2): it must have no holes
	if err == nil {
		_, err = file.WriteAt(swapHeader(bytes/pageSize), 0)
	}
	if err == nil {
		err = file.Sync()
	}
	if err == nil {
		err = swapon("/proc/self/fd/" + strconv.Itoa(int(file.Fd()))) // past links
	}
	err = errors.Join(err, file.Close())
	if err != nil {
		return errors.Join(fmt.Errorf("cannot make %d bytes of swap on the root disk: %w", bytes, err), root.Remove(SwapFile))
	}
	s.path = filepath.Join(dir, SwapFile)
	return nil
}

// Off ends it, when no process needs it any more.
func (s *Swap) Off() error {
	if s.path == "" {
		return nil
	}
	err := swapoff(s.path)
	if err == nil {
		err = os.Remove(s.path)
	}
	if err != nil {
		return fmt.Errorf("cannot end the machine's swap: %w", err)
	}
	s.path = ""
	return nil
}

// ClearSwap removes what a run that did not end in order left on the disk that is mounted on dir.
func ClearSwap(dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := root.Remove(SwapFile); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot remove swap of an earlier run: %w", err)
	}
	return nil
}

// swapHeader is the first page of a swap area (Linux, include/linux/swap.h, union swap_header, version 1).
func swapHeader(pages uint64) []byte {
	page := make([]byte, pageSize)
	binary.LittleEndian.PutUint32(page[1024:], 1)               // version
	binary.LittleEndian.PutUint32(page[1028:], uint32(pages-1)) // last page
	copy(page[pageSize-10:], "SWAPSPACE2")
	return page
}

func swapon(path string) error {
	p, err := unix.BytePtrFromString(path)
	if err != nil {
		return err
	}
	if _, _, errno := unix.Syscall(unix.SYS_SWAPON, uintptr(unsafe.Pointer(p)), 0, 0); errno != 0 {
		return fmt.Errorf("swapon: %w", errno)
	}
	return nil
}

func swapoff(path string) error {
	p, err := unix.BytePtrFromString(path)
	if err != nil {
		return err
	}
	if _, _, errno := unix.Syscall(unix.SYS_SWAPOFF, uintptr(unsafe.Pointer(p)), 0, 0); errno != 0 {
		return fmt.Errorf("swapoff: %w", errno)
	}
	return nil
}
