package vm

import (
	"fmt"
	"io/fs"

	"github.com/containervm/containervm/hostd-bridge/internal/datastore"
)

// machineSpec says how a VM is realised, or what of it is missing.
func (i *Inventory) machineSpec(v *VM) (MachineSpec, error) {
	spec := MachineSpec{
		Ref: v.Ref, Name: v.Name, UUID: v.UUID,
		RunDir: i.runDir(v.Ref), HomeDir: i.opt.Store.HostPath(v.Home),
		CPUs: v.CPUs, MemoryMiB: v.MemoryMiB,
		Machine: v.Extra[KeyMachine], Cmdline: v.Extra[KeyCmdline],
		CID: v.CID, Guestinfo: v.GuestReadable(),
	}
	for _, c := range v.NICs {
		spec.NICs = append(spec.NICs, c.NIC)
	}
	var err error
	if spec.Kernel, err = i.bootFile(v, KeyKernel); err != nil {
		return spec, err
	}
	if spec.Initrd, err = i.bootFile(v, KeyInitrd); err != nil {
		return spec, err
	}
	if v.Disk != nil {
		spec.RootDisk, err = i.existing(v.Disk.Path)
	}
	return spec, err
}

// bootFile returns the path on this host of a file named in extraConfig.
func (i *Inventory) bootFile(v *VM, key string) (string, error) {
	value := v.Extra[key]
	if value == "" {
		return "", &ArgumentError{Property: "extraConfig " + key, Why: "not set: this host boots a kernel and an initramfs that the VM names"}
	}
	rel, err := datastore.ParsePath(value)
	if err != nil {
		return "", &ArgumentError{Property: "extraConfig " + key, Why: err.Error()}
	}
	return i.existing(rel)
}

// existing returns the path on this host of a file in the datastore that must be there.
func (i *Inventory) existing(rel string) (string, error) {
	info, err := i.opt.Store.Stat(rel)
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("not a file: %w", fs.ErrInvalid)
	}
	if err != nil {
		return "", &FileError{Path: datastore.FormatPath(rel), Err: err}
	}
	return i.opt.Store.HostPath(rel), nil
}

// reserve admits the VM's memory or says what is missing.
func (i *Inventory) reserve(e *entry) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	want := int64(e.vm.MemoryMiB)
	free := i.opt.HostMemoryMiB * MemoryOvercommit
	for _, other := range i.entries {
		if other.reserved {
			free -= int64(other.vm.MemoryMiB)
		}
	}
	if want > free {
		return &MemoryError{Where: "the host", Requested: want, Available: max(free, 0)}
	}
	if err := i.admitPool(e.vm.Pool, want); err != nil {
		return err
	}
	e.reserved = true
	return nil
}
