// Package image keeps images: it takes them from archives, root tarballs and registries, has their layers unpacked
// inside virtual machines, and remembers them in an index on the datastore.
//
// The host side verifies digests and decompresses; it never looks into a layer. A layer becomes a disk: a delta of its
// parent layer's disk (the blank file system for the first), attached to an unpacker VM whose tether extracts the tar,
// detached, and frozen under its chain ID by a rename. What is on the datastore under a final name is therefore whole.
//
// An unpacker lives for one chain of layers: all that it has extracted lies below what it extracts next. A layer that
// takes over its unpacker can spoil only images that hold that layer.
package image
