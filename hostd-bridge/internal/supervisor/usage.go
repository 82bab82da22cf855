package supervisor

import (
	"errors"
	"os"
	"strings"

	"github.com/containervm/containervm/internal/smaps"
)

// memory measures what the machine takes now. Nothing is counted beforehand: it costs a walk over QEMU's page tables, and
// only when someone asks.
func (m *machine) memory() (Memory, error) {
	if ram := m.frozenRAM(); ram != nil {
		return Memory{SharedKiB: resident(ram) >> 10}, nil
	}
	mappings, err := smaps.Read(m.qemu.cmd.Process.Pid)
	select {
	case <-m.qemu.ended: // whatever was read, its number may be another process's by now
		if ram := m.frozenRAM(); ram != nil {
			return Memory{SharedKiB: resident(ram) >> 10}, nil
		}
		return Memory{}, errors.New("cannot measure the machine's memory: it has ended")
	default:
	}
	if err != nil {
		return Memory{}, err
	}
	taken := usageOf(mappings)
	if m.cfg.Child {
		taken.SharedKiB = resident(m.ram) >> 10
	} else {
		taken.GuestPrivateKiB = resident(m.ram) >> 10
	}
	return taken, nil
}

// frozenRAM is the memory of a machine that stands still for good; nil: it does not.
func (m *machine) frozenRAM() *os.File {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.state == nil {
		return nil
	}
	return m.ram
}

// usageOf tells the guest's own pages from the rest of QEMU. Of the guest's memory, Anonymous counts: pages that a child has
// written to, and not those that still are its template's; of QEMU, what it wrote to: its program and its libraries are shared
// by all QEMUs, although smaps calls them private while there is but one.
func usageOf(mappings []smaps.Mapping) (m Memory) {
	for _, p := range mappings {
		if isRAM(p.Name) {
			m.GuestPrivateKiB += int64(p.Anonymous)
		} else {
			m.OverheadKiB += int64(p.PrivateDirty)
		}
	}
	return m
}

// isRAM tells the guest's memory by the name of its mapping. What has no name in a directory, such as all that is in memory
// only, is called deleted.
func isRAM(name string) bool { return strings.TrimSuffix(name, " (deleted)") == "/memfd:"+ramName }
