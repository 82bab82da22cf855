package image

import (
	"time"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
)

// Limits on what an image may cost. They stand far above real images and well below what fills a host; what exceeds
// one is refused with an error that names it.
const (
	// MaxLayerBytes bounds the uncompressed tar of a layer, and the file content that a tether extracts from it.
	MaxLayerBytes = 20 << 30
	// MaxLayerEntries bounds the members of a layer's tar.
	MaxLayerEntries = 2_000_000
	// MaxLayers bounds the depth of a disk chain; Docker's overlay2 driver has the same bound
	// (moby, daemon/graphdriver/overlay2: maxDepth).
	MaxLayers = 128
	// MaxConfigBytes bounds an image's configuration.
	MaxConfigBytes = 8 << 20
	// MaxManifestBytes bounds a manifest or index; the OCI distribution specification asks registries for 4 MiB.
	MaxManifestBytes = 4 << 20
	// MaxArchiveBytes bounds the archive of a load after decompression; it is spooled to a temporary file.
	MaxArchiveBytes = hostapi.DiskBytes // more fits on no disk
	// MaxArchiveEntries bounds the members of such an archive, not those of the layers in it.
	MaxArchiveEntries = 100_000
	// MaxArchiveImages bounds the images of such an archive, and MaxArchiveEntriesRead the entries of manifests and indexes that are followed
	// to find them: an index that names another many times over is small.
	MaxArchiveImages      = 1_000
	MaxArchiveEntriesRead = 20_000
	// MaxArchiveMetadata bounds what is read of such an archive into memory, in bytes, each time that it is read: names of members,
	// manifests, indexes and configurations of all its images.
	MaxArchiveMetadata = 32 << 20
	// maxLoads bounds the archives that are read at a time; others wait.
	maxLoads = 4
	// spoolReserve is how much of the file system of temporary files a spooled archive leaves free, in bytes; of a small one it is a tenth.
	spoolReserve = 1 << 30
	// MaxIndexBytes bounds the image index on the datastore.
	MaxIndexBytes = 256 << 20
	// maxUnpackerIdle is how long the unpackers of a pull wait for its layers to be downloaded, all together. A pull as fast as its unpacker
	// needs none of it.
	maxUnpackerIdle = 30 * time.Second
	// maxPulls bounds the pulls that run at a time; others wait. Each may have MaxArchiveMetadata in memory.
	maxPulls = 32
	// maxPullRequests bounds the requests of a pull that are no layer's: manifests, tokens, lists of tags.
	maxPullRequests = 10_000
	// stallTime is in which a registry has to send stallBytes of what it was asked for, or all of it.
	stallTime  = 5 * time.Minute
	stallBytes = 64 << 10
	// maxUnpackers bounds the unpacker VMs that run at a time.
	maxUnpackers = 2
	// maxDownloads bounds the layers of a pull that are fetched at a time; Docker's default is the same
	// (moby, daemon/config: DefaultMaxConcurrentDownloads).
	maxDownloads = 3
)
