package image

import "testing"

// TestUsage: what images share counts once in all, and for each image as shared.
func TestUsage(t *testing.T) {
	h := newFakeHost(t)
	s := newStore(t, h)
	one, two := demo("one:1", "base", "x"), demo("two:1", "base", "y")
	loadInto(t, s, one, two)
	layer := func(name string) int64 { return int64(len("content of " + name)) }
	blob := int64(len(one.Layers[0]))
	u := s.Usage(users(one.ID(), User{Container: "c"}))
	if want := layer("base") + layer("x") + layer("y") + 3*blob; u.Total != want {
		t.Errorf("Total = %d, want %d", u.Total, want)
	}
	if want := layer("base") + layer("x") + 2*blob; u.InUse != want {
		t.Errorf("InUse = %d, want %d", u.InUse, want)
	}
	for _, use := range u.Images {
		if want := layer("base") + layer("x") + 2*blob; use.Size != want || use.Shared != layer("base")+blob || len(use.Containers) != map[bool]int{true: 1}[use.ID == one.ID()] {
			t.Errorf("%v: size %d, want %d, shared %d, containers %v", use.RepoTags, use.Size, want, use.Shared, use.Containers)
		}
	}
}
