// Package image keeps images: it takes them from archives, root tarballs and registries, has their layers unpacked
// inside virtual machines, and remembers them in an index on the datastore.
//
// The host side verifies digests and decompresses; it never looks into a layer. A layer becomes a disk: a delta of its
// parent layer's disk (the blank file system for the first). It is attached to an unpacker VM whose tether extracts the tar,
// detached, and gets its final name, the chain ID, by a rename. What is on the datastore under a final name is therefore
// complete, and nothing writes to it any more.
//
// The bytes of a layer are kept as they came, by their digest, as is the manifest that leads to them: save and push send those, so what
// comes out has the digests that came in. They are written while the layer is unpacked, in one reading. A blob, like a disk, is in the
// index when it has its final name, and goes when no image of the index has it.
//
// An unpacker serves one chain of layers: what it has extracted is below what it extracts next. So a layer whose tar
// subverts the tether can damage only images that have that layer.
//
// Each state has one owner:
//
//	indexfile    the index as the datastore has it, and the queue of its changes; several that wait share one upload
//	pins         which layers and images must stay, and which a commit is deleting
//	locks        which image is being installed, which layer is being unpacked or its file deleted, and which blob gets its name
//	Store.slots  how many unpacker VMs there are
//	unpacker     one VM and the chain that it unpacks
//	transfers    the temporary files of pulls, which several may share
//	downloads    how far one pull is
//
// The order of the locks: the lock of an image, a slot for an unpacker, the lock of a chain ID, the lock of a blob. A goroutine that holds one
// waits only for those behind it, and for no second one of its kind. With any of them it may wait for its turn to write the
// index, and in pin for the end of a deletion: both wait for nothing but uploads, as a change of the index only tries the
// locks of chains. The mutexes inside indexfile.File, pins and locks are held only while memory is read or changed, and never two
// of them at a time.
//
// What a create calls (Resolve, Acquire and its release) waits for no upload, but for one that deletes the layers of that very
// image.
package image
