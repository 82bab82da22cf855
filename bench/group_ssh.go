package main

import (
	"context"
	"fmt"

	"github.com/containervm/containervm/bench/internal/measure"
)

// sshGroup compares exec through the link with ssh into the same guest.
func sshGroup(ctx context.Context, e *environment) (measure.Group, error) {
	return measure.Group{}, fmt.Errorf("not yet")
}
