// Package image keeps images: it takes them from archives, root tarballs and registries, has their layers unpacked
// inside virtual machines, and remembers them in an index on the datastore.
//
// The host side verifies digests and decompresses; it never looks into a layer. A layer becomes a disk: a delta of its
// parent layer's disk (the blank file system for the first), attached to an unpacker VM whose tether extracts the tar,
// detached, and frozen under its chain ID by a rename. What is on the datastore under a final name is therefore whole.
//
// An unpacker lives for one chain of layers: all that it has extracted lies below what it extracts next. A layer that
// takes over its unpacker can spoil only images that hold that layer.
//
// Each state has one owner:
//
//	indexFile   the index as the datastore has it, and the queue of its changes; several that wait share one upload
//	pins        which layers and images must stay, and which a commit is deleting
//	locks       which image is being installed, and which layer is being unpacked, or its file deleted
//	Store.slots how many unpacker VMs there are
//	unpacker    one VM and the chain that it unpacks
//	downloads   the temporary files of one pull
//
// A goroutine that waits for several waits in this order: the lock of an image, the end of a deletion (in pin), a slot for an
// unpacker, the lock of a chain ID, the turn to write the index. Whoever holds a lock of an image or of a chain waits for no
// other of that kind. A change of the index, which runs in somebody's turn, waits for nothing: it only tries the locks of
// chains. The mutexes inside indexFile, pins and locks are held for no longer than it takes to look, and never two at a time,
// but that pins reads the index.
//
// Nothing that a create calls (Resolve, Acquire and its release) waits for an upload or for another image's work.
package image
