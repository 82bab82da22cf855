package record

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/opencontainers/go-digest"
)

// Container is what a container was made with: the value of KeyContainer, as JSON.
type Container struct {
	Created    time.Time
	ImageID    digest.Digest
	Config     container.Config // merged with the image's
	HostConfig container.HostConfig
	Mounts     []Mount `json:",omitempty"` // by target
	// Files are the host's files that lie over the root. The guest's Spec keeps them, not the record.
	Files []File `json:"-"`
}

// DecodeContainer reads the value of KeyContainer. A VM without one is no container: its empty value is an error.
func DecodeContainer(text string) (Container, error) {
	var c Container
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return c, fmt.Errorf("cannot decode %s: %w", KeyContainer, err)
	}
	return c, nil
}

// Encode returns what DecodeContainer reads.
func (c Container) Encode() (string, error) {
	text, err := json.Marshal(c)
	if err != nil {
		return "", fmt.Errorf("cannot encode %s: %w", KeyContainer, err)
	}
	return string(text), nil
}
