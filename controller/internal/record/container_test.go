package record

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
)

func TestContainer(t *testing.T) {
	c := Container{
		Created: time.Unix(5, 6).UTC(), ImageID: "sha256:00",
		Config:     container.Config{Image: "busybox", Cmd: []string{"sh"}, Env: []string{"A=b"}},
		HostConfig: container.HostConfig{AutoRemove: true},
	}
	text, err := c.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := DecodeContainer(text); err != nil || !reflect.DeepEqual(got, c) {
		t.Errorf("%s is read as %+v, %v", text, got, err)
	}
	for _, text := range []string{"", "{", `{"Created":1}`} {
		if _, err := DecodeContainer(text); err == nil || !strings.Contains(err.Error(), KeyContainer) {
			t.Errorf("%q: %v, want an error that names %s", text, err, KeyContainer)
		}
	}
}
