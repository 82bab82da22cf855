package vsock

import (
	"errors"
	"fmt"
	"math"
)

// memory is the address space in which the guest's memory and rings lie: QEMU's, or a test's.
type memory interface {
	// readv fills the buffers of local, one after the other, from the spans of remote, in order. Both have the same
	// total length.
	readv(local [][]byte, remote []span) error
	// writev is readv's opposite. A later span is not written before an earlier one.
	writev(local [][]byte, remote []span) error
}

// span is a piece of a memory.
type span struct {
	addr uint64
	len  int
}

// region is a piece of guest-physical memory and where it lies in the memory (struct vhost_memory_region).
type region struct{ guest, size, host uint64 }

// maxRegions bounds the memory table; the kernel's own limit is 64 (vhost max_mem_regions).
const maxRegions = 64

var errNotGuestMemory = errors.New("address outside of guest memory")

// regions translates guest-physical addresses.
type regions []region

// check refuses tables in which an address could overflow.
func (rs regions) check() error {
	for _, r := range rs {
		if r.size == 0 || r.guest > math.MaxUint64-r.size || r.host > math.MaxUint64-r.size {
			return fmt.Errorf("cannot use memory region %#x+%#x at %#x: it is empty or overflows", r.guest, r.size, r.host)
		}
	}
	return nil
}

// translate appends to dst where the length bytes of guest memory at addr lie. A range may cross regions.
func (rs regions) translate(dst []span, addr uint64, length uint32) ([]span, error) {
	left := uint64(length)
	for left > 0 {
		r, ok := rs.find(addr)
		if !ok {
			return dst, errNotGuestMemory
		}
		n := min(left, r.size-(addr-r.guest))
		dst = append(dst, span{addr: r.host + (addr - r.guest), len: int(n)})
		addr, left = addr+n, left-n
	}
	return dst, nil
}

func (rs regions) find(addr uint64) (region, bool) {
	for _, r := range rs {
		if addr >= r.guest && addr-r.guest < r.size {
			return r, true
		}
	}
	return region{}, false
}
