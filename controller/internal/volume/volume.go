package volume

import (
	"maps"
	"time"
)

// AnonymousLabel is on volumes that were made without a name: Docker's.
const AnonymousLabel = "com.docker.volume.anonymous"

// Volume is what is known of a volume. Its maps must not be changed.
type Volume struct {
	Name    string
	Created time.Time
	Labels  map[string]string // not nil
	Options map[string]string // as they were given; nil: none
	Place   Place
	Disk    string // datastore path of its disk; empty: it has none
	// Mountpoint says for people where the data is: the disk's path in vSphere's form, "server:/path", or "tmpfs".
	Mountpoint string
}

// Anonymous reports whether it was made without a name.
func (v Volume) Anonymous() bool {
	_, ok := v.Labels[AnonymousLabel]
	return ok
}

// volumeOf is a volume as its entry says. display is how people are told of a path in the datastore.
func volumeOf(name string, e entry, display func(path string) string) Volume {
	place, _ := ParseOptions(e.Options) // was taken when the volume was made, and by decodeIndex
	v := Volume{Name: name, Created: e.Created, Labels: e.Labels, Options: e.Options, Place: place}
	if v.Labels == nil {
		v.Labels = map[string]string{}
	}
	switch place.Kind {
	case KindDisk:
		v.Disk, v.Place.Size = diskPath(e.ID), e.Size
		v.Mountpoint = display(v.Disk)
	case KindNFS:
		v.Mountpoint = place.Address + ":" + place.Path
	case KindTmpfs:
		v.Mountpoint = string(KindTmpfs)
	}
	return v
}

func diskPath(id string) string { return Dir + "/" + id + diskSuffix }

// withLabel is a copy of labels with one more.
func withLabel(labels map[string]string, key, value string) map[string]string {
	all := map[string]string{key: value}
	maps.Copy(all, labels)
	return all
}
