package vm

import (
	"fmt"
	"io/fs"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/datastore"
)

// machineSpec says how a VM is realised, or what of it is missing.
func (i *Inventory) machineSpec(v *VM) (MachineSpec, error) {
	spec := i.identity(v)
	var err error
	if spec.Kernel, err = i.bootFile(v, hostapi.KeyKernel); err != nil {
		return spec, err
	}
	if spec.Initrd, err = i.bootFile(v, hostapi.KeyInitrd); err != nil {
		return spec, err
	}
	if v.Disk != nil {
		_, err = i.existing(v.Disk.Path)
	}
	return spec, err
}

// identity is a VM's machine without what boots it.
func (i *Inventory) identity(v *VM) MachineSpec {
	spec := MachineSpec{
		Ref: v.Ref, Name: v.Name, UUID: v.UUID,
		RunDir: i.runDir(v.Ref), HomeDir: i.opt.Store.HostPath(v.Home),
		CPUs: v.CPUs, MemoryMiB: v.MemoryMiB,
		Machine: v.Extra[hostapi.KeyMachine], Cmdline: v.Extra[hostapi.KeyCmdline], RootDisk: i.hostDisk(v),
		Blank: i.opt.Store.HostPath(i.opt.Blank), Run: v.Run, CID: v.CID, Guestinfo: v.GuestReadable(),
	}
	for _, c := range v.NICs {
		spec.NICs = append(spec.NICs, c.NIC)
	}
	return spec
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
