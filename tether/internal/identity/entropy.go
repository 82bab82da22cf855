package identity

import (
	"encoding/binary"
	"fmt"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Requests of the kernel's random number generator (include/uapi/linux/random.h), and what random(4) says of them.
const (
	rndAddEntropy = 0x40085203
	rndReseedCRNG = 0x5207
)

// Reseed has the kernel's generator start anew from seed. Writing to the device would not do: that mixes without being used
// before the next reseed, up to a minute later, and until then two forks draw the same numbers.
func Reseed(seed []byte) error {
	random, err := os.OpenFile("/dev/urandom", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer random.Close()
	// struct rand_pool_info: bits of entropy, bytes, and the bytes.
	info := binary.NativeEndian.AppendUint32(nil, uint32(8*len(seed)))
	info = binary.NativeEndian.AppendUint32(info, uint32(len(seed)))
	info = append(info, seed...)
	if err := ioctl(random, rndAddEntropy, unsafe.Pointer(&info[0])); err != nil {
		return fmt.Errorf("cannot add entropy: %w", err)
	}
	if err := ioctl(random, rndReseedCRNG, nil); err != nil {
		return fmt.Errorf("cannot reseed the generator: %w", err)
	}
	return nil
}

func ioctl(f *os.File, request uintptr, arg unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(arg)); errno != 0 {
		return errno
	}
	return nil
}

// BootIDPath is the kernel's identifier of this boot. Linux makes it when it is first read (drivers/char/random.c, proc_do_uuid),
// and never again.
const BootIDPath = "/proc/sys/kernel/random/boot_id"

// BootID reads the machine's boot ID, and so fixes it. No template may have read its own.
func BootID() (string, error) { return readID(BootIDPath) }

// NewBootID is an ID of the kind for a fork whose source may have read its own: it has to lie over the kernel's.
func NewBootID() (string, error) { return readID("/proc/sys/kernel/random/uuid") }

func readID(path string) (string, error) {
	id, err := os.ReadFile(path)
	return strings.TrimSpace(string(id)), err
}

// MachineID is the text of /etc/machine-id, machine-id(5), of the container with the given ID.
func MachineID(id string) string { return id[:min(len(id), 32)] + "\n" }
