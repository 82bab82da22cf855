package link

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// TestRefusal: each class crosses the wire, and what has none is unknown.
func TestRefusal(t *testing.T) {
	for _, c := range classes() {
		sent := status.Convert(fmt.Errorf("wrapped: %w", Refuse(c.class, "no %d", 1)))
		if sent.Code() != c.code {
			t.Errorf("%v is sent as %v, want %v", c.class, sent.Code(), c.code)
		}
		got := refusalOf(sent.Code(), "text")
		if !errors.Is(got, c.class) || errdefs.Resolve(got) != c.class || status.Code(got) != c.code || got.Error() != "text" {
			t.Errorf("%v arrives as %v", c.class, got)
		}
	}
	if got := refusalOf(codes.Code(99), ""); !errdefs.IsUnknown(got) {
		t.Errorf("an unknown code arrives as %v", got.class)
	}
	if code := status.Code(Refuse(errors.New("own"), "")); code != codes.Unknown {
		t.Errorf("a class of one's own is sent as %v", code)
	}
	if !errors.Is(Refuse(context.Canceled, ""), context.Canceled) {
		t.Error("a context's end is not found")
	}
}
