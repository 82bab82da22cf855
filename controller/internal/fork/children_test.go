package fork

import (
	"strings"
	"testing"

	"github.com/containervm/containervm/controller/internal/container"
)

func TestChildHostname(t *testing.T) {
	source := container.Container{ID: strings.Repeat("ab", 32)}
	child := &Child{ID: strings.Repeat("cd", 32), Index: 12}
	for in, want := range map[string]string{
		source.ID[:12]: child.ID[:12], "shop": "shop-12", strings.Repeat("x", 63): strings.Repeat("x", 60) + "-12",
	} {
		source.Config.Hostname = in
		if got := childHostname(source, child); got != want {
			t.Errorf("child of %q is called %q, want %q", in, got, want)
		}
	}
}
