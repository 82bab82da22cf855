package supervisor

import (
	"fmt"
	"strings"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/internal/smaps"
)

// residence is how much of the memory file has pages on the host, in KiB, and how it counts.
type residence struct {
	kiB    int64
	frozen bool
}

// measureRAM asks the owner for the memory file's size.
func (m *machine) measureRAM() (r residence, err error) {
	err = m.exec(m.ended, func() error {
		r = residence{kiB: resident(m.ram) >> 10, frozen: m.state == stateFrozen}
		return nil
	})
	return r, err
}

// memory measures what the machine takes now. Nothing is counted beforehand: it costs a walk over QEMU's page tables,
// for which the owner does not wait.
func (m *machine) memory() (hostapi.Memory, error) {
	before, err := m.measureRAM()
	if err != nil {
		return hostapi.Memory{}, fmt.Errorf("cannot measure the machine's memory: %w", err)
	}
	if before.frozen {
		return hostapi.Memory{SharedKiB: before.kiB}, nil
	}
	mappings, err := smaps.Read(m.qemu.cmd.Process.Pid)
	select {
	case <-m.qemu.ended: // what was read may be of another process that has the number now
		if now, err := m.measureRAM(); err == nil && now.frozen {
			return hostapi.Memory{SharedKiB: now.kiB}, nil
		}
		return hostapi.Memory{}, fmt.Errorf("cannot measure the machine's memory: %w", errEnded)
	default:
	}
	if err != nil {
		return hostapi.Memory{}, err
	}
	taken := usageOf(mappings)
	if m.cfg.Child {
		taken.SharedKiB = before.kiB
	} else {
		taken.GuestPrivateKiB = before.kiB
	}
	return taken, nil
}

// usageOf separates the guest's own pages from the rest of QEMU. Of the guest's memory, Anonymous counts: pages that a child has
// written to, and not those that still are its template's; of QEMU, what it wrote to: its program and its libraries are shared
// by all QEMUs, although smaps calls them private while there is but one.
func usageOf(mappings []smaps.Mapping) (m hostapi.Memory) {
	for _, p := range mappings {
		if isRAM(p.Name) {
			m.GuestPrivateKiB += int64(p.Anonymous)
		} else {
			m.OverheadKiB += int64(p.PrivateDirty)
		}
	}
	return m
}

// isRAM recognises the guest's memory by the name of its mapping. The kernel calls a file deleted that no directory names, as a
// file in memory.
func isRAM(name string) bool { return strings.TrimSuffix(name, " (deleted)") == "/memfd:"+ramName }
