package hostapi

import (
	"encoding/json"
	"fmt"
)

// BootIndex is the file of the datastore that holds the BootFiles of the host's release as JSON.
const BootIndex = "cvm/boot/current.json"

// BootFiles are the paths in the datastore of what VMs are made from.
type BootFiles struct {
	Kernel   string `json:"kernel"`   // ELF vmlinux with a PVH entry, for MachineMicroVM
	KernelBz string `json:"kernelBz"` // bzImage, for MachineQ35; empty: the release has none
	Initrd   string `json:"initrd"`   // initramfs with the tether
	Blank    string `json:"blank"`    // disk with an empty file system, parent of all others
	// Volume is a small disk with an empty file system that its guest grows: what data disks are copies of; empty: the release has none.
	Volume string `json:"volume,omitempty"`
}

// DecodeBootFiles reads the content of BootIndex.
func DecodeBootFiles(data []byte) (BootFiles, error) {
	var boot BootFiles
	if err := json.Unmarshal(data, &boot); err != nil {
		return BootFiles{}, fmt.Errorf("cannot decode %s: %w", BootIndex, err)
	}
	if boot.Kernel == "" || boot.Initrd == "" || boot.Blank == "" {
		return BootFiles{}, fmt.Errorf("cannot use %s: it lacks kernel, initrd or blank", BootIndex)
	}
	return boot, nil
}
