package volume

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"time"

	"github.com/containervm/containervm/controller/internal/indexfile"
	"github.com/containervm/containervm/hostd-bridge/hostapi"
)

// Paths on the datastore.
const (
	indexPath = "cvm/volumes.json"
	// Dir is the directory of the volumes' disks.
	Dir        = hostapi.VolumesDir
	diskSuffix = ".vmdk"
)

const (
	// indexVersion is the version of the index's format; a reader refuses a newer one rather than losing what it means.
	indexVersion = 1
	// maxIndexBytes is some 50,000 volumes.
	maxIndexBytes = 16 << 20
)

// index is the content of `cvm/volumes.json`. A value that the Service has published is never changed again; changes are made to a clone.
type index struct {
	Version int              `json:"version"`
	Volumes map[string]entry `json:"volumes"` // by name
}

// entry is a volume. Its maps are never changed.
type entry struct {
	ID      string            `json:"id,omitempty"` // names its disk; empty: it has none
	Size    int64             `json:"size,omitempty"`
	Created time.Time         `json:"created"`
	Labels  map[string]string `json:"labels,omitempty"`
	Options map[string]string `json:"options,omitempty"` // as they were given
	// Pending: it is being made or removed, and stays only if a container has it.
	Pending bool `json:"pending,omitempty"`
}

func newIndex() *index { return &index{Version: indexVersion, Volumes: map[string]entry{}} }

func (x *index) clone() *index { return &index{Version: x.Version, Volumes: maps.Clone(x.Volumes)} }

// validID is what names a disk: it becomes a part of a path.
var validID = regexp.MustCompile(`^[0-9a-f]{32}$`)

// decodeIndex reads an index. Unknown fields are ignored and missing ones are empty; what contradicts itself is refused.
func decodeIndex(data []byte) (*index, error) {
	x := &index{}
	if err := json.Unmarshal(data, x); err != nil {
		return nil, err
	}
	if x.Version < 1 || x.Version > indexVersion {
		return nil, fmt.Errorf("format version %d, known is 1 to %d", x.Version, indexVersion)
	}
	if x.Volumes == nil {
		x.Volumes = map[string]entry{}
	}
	ids := map[string]string{}
	for name, e := range x.Volumes {
		if err := CheckName(name); err != nil {
			return nil, fmt.Errorf("volume %q: %w", name, err)
		}
		place, err := ParseOptions(e.Options)
		if err != nil {
			return nil, fmt.Errorf("volume %s: %w", name, err)
		}
		if (place.Kind == KindDisk) != validID.MatchString(e.ID) || place.Kind != KindDisk && e.ID != "" {
			return nil, fmt.Errorf("volume %s is of kind %s, and its disk is %q", name, place.Kind, e.ID)
		}
		if other, ok := ids[e.ID]; ok && e.ID != "" {
			return nil, fmt.Errorf("volumes %s and %s have one disk", name, other)
		}
		ids[e.ID] = name
	}
	return x, nil
}

func format() indexfile.Format[index] {
	return indexfile.Format[index]{
		Path: indexPath, Name: "the index of volumes", Max: maxIndexBytes, Remedy: "remove volumes",
		New: newIndex, Clone: (*index).clone, Decode: decodeIndex,
	}
}
