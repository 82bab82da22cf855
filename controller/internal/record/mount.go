package record

import "github.com/moby/moby/api/types/mount"

// Mount is what lies over a container's root at a target, beside the tmpfs of its HostConfig.Tmpfs.
type Mount struct {
	Type     mount.Type // volume, tmpfs or, for a file that was copied in, bind
	Target   string     // absolute and clean
	ReadOnly bool       `json:",omitempty"`
	Mode     string     `json:",omitempty"` // as it was asked for
	Source   string     `json:",omitempty"` // for people: what is mounted
	Volume   string     `json:",omitempty"` // name of the volume
	// Anonymous: the request gave the volume no name, so that it goes with the container where that is asked for.
	Anonymous bool   `json:",omitempty"`
	NoCopy    bool   `json:",omitempty"` // the volume, if it is empty, gets nothing of what the image has at the target
	Subpath   string `json:",omitempty"` // directory of the volume
	Disk      *Disk  `json:",omitempty"` // the volume is one
	NFS       *NFS   `json:",omitempty"` // the volume is that directory
	// Tmpfs says that it is memory, by its options, separated by commas.
	Tmpfs *string `json:",omitempty"`
	// ForkedFrom is the name of the volume that this one was a copy of at the moment of a fork. Its disk is the container's own, and no
	// other container can have it.
	ForkedFrom string `json:",omitempty"`
}

// Disk is a volume's disk as a container's machine has it. Mounts of one volume share it.
type Disk struct {
	Unit     int    // of the SCSI controller
	Path     string // in the datastore
	ReadOnly bool   `json:",omitempty"` // all mounts of it are
}

// NFS is a directory of a server.
type NFS struct {
	Address, Path string
	Options       string `json:",omitempty"` // separated by commas
}

// File is one that lies over a container's root.
type File struct {
	Path     string // in the container
	Mode     uint32 // permissions
	UID, GID uint32
	Content  []byte
}

// Attached is the value of KeyDisks.
const Attached = "attached"
