package image

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/containervm/containervm/internal/testimage"
)

// put makes an image and its layers without unpacking anything.
func put(t *testing.T, h *fakeHost, s *Store, img testimage.Image) {
	t.Helper()
	chains, err := chainIDs(img.RawConfig())
	if err != nil {
		t.Fatal(err)
	}
	var blobs []digest.Digest
	err = s.index.Commit(t.Context(), func(x *index) error {
		var parent digest.Digest
		for i, c := range chains {
			d := digest.FromBytes(img.Layers[i])
			x.Layers[c], x.Blobs[d] = layer{Parent: parent, Size: 1, Blob: d}, blob{Size: int64(len(img.Layers[i])), DiffID: d, Type: ocispec.MediaTypeImageLayer}
			parent, blobs = c, append(blobs, d)
		}
		return nil
	})
	for i, c := range chains {
		h.files[diskPath(c)], h.files[blobPath(blobs[i])] = nil, img.Layers[i]
	}
	src := source{id: img.ID(), config: img.RawConfig(), tags: familiarToCanonical(t, img.Tags)}
	if err := errors.Join(err, s.addImage(t.Context(), src, chains, blobs)); err != nil {
		t.Fatal(err)
	}
}

func familiarToCanonical(t *testing.T, tags []string) (all []string) {
	for _, tag := range tags {
		name, err := canonicalTag(tag)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, name)
	}
	return all
}

// TestCreateGoesOnDuringUpload: an upload of the index may take a minute; who makes a container does not wait for it.
func TestCreateGoesOnDuringUpload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newFakeHost(t)
		s := newStore(t, h)
		put(t, h, s, demo("app:1", "a", "b"))
		let := h.blockUploads()
		var work sync.WaitGroup
		work.Go(func() {
			if err := s.Tag(t.Context(), "app:1", "app:2"); err != nil {
				t.Error(err)
			}
		})
		<-h.blocked
		acquired := make(chan error)
		go func() {
			_, release, err := s.Acquire("app:1")
			if err == nil {
				release()
			}
			acquired <- err
		}()
		select {
		case err := <-acquired:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(time.Second): // of the bubble: nothing else can go on
			t.Error("a create waits for the upload")
		}
		if _, err := s.Resolve("app:2"); !errdefs.IsNotFound(err) {
			t.Errorf("a name is there before the host has it: %v", err)
		}
		let()
		work.Wait()
		if _, err := s.Resolve("app:2"); err != nil {
			t.Error(err)
		}
	})
}

// TestChangesShareUploads: those that come while one is written are written together, each with its own outcome.
func TestChangesShareUploads(t *testing.T) {
	errBad := errors.New("a change that fails half way")
	for name, upload := range map[string]error{"written": nil, "not written": errors.New("the host is full")} {
		synctest.Test(t, func(t *testing.T) {
			h := newFakeHost(t)
			s := newStore(t, h)
			put(t, h, s, demo("app:1", "a"))
			before := h.uploads
			let := h.blockUploads()
			var work sync.WaitGroup
			errs := make([]error, 6)
			for i := range errs {
				work.Go(func() {
					errs[i] = s.index.Commit(t.Context(), func(x *index) error {
						x.Tags[fmt.Sprintf("docker.io/library/app:n%d", i)] = demo("app:1", "a").ID()
						if i == 3 {
							return errBad
						}
						return nil
					})
				})
				if i == 0 {
					<-h.blocked
				}
			}
			synctest.Wait() // all but the first queue
			h.setFailure("Upload", upload)
			let()
			work.Wait()
			if n := h.uploads - before; n != 2 {
				t.Errorf("%s: %d uploads for six changes, want 2", name, n)
			}
			for i, err := range errs {
				want := upload
				if i == 3 {
					want = errBad
				}
				if !errors.Is(err, want) {
					t.Errorf("%s: change %d: %v, want %v", name, i, err, want)
				}
			}
			got, err := s.Resolve("app:1")
			if err != nil {
				t.Fatal(err)
			}
			want := []string{"app:1", "app:n0", "app:n1", "app:n2", "app:n4", "app:n5"}
			if upload != nil {
				want = want[:1]
			}
			if !slices.Equal(got.RepoTags, want) {
				t.Errorf("%s: names %q, want %q", name, got.RepoTags, want)
			}
		})
	}
}

// TestAcquireOfImageThatIsBeingDeleted: a removal and the deletion of its layers may be written together, so that the image
// is still found while its layers are being deleted. Who wants it then waits for what becomes of it.
func TestAcquireOfImageThatIsBeingDeleted(t *testing.T) {
	for name, upload := range map[string]error{"deleted": nil, "kept": errors.New("the host is full")} {
		synctest.Test(t, func(t *testing.T) {
			h := newFakeHost(t)
			s := newStore(t, h)
			img := demo("app:1", "a", "b")
			put(t, h, s, img)
			let := h.blockUploads()
			var work sync.WaitGroup
			work.Go(func() { s.index.Commit(t.Context(), func(*index) error { return nil }) })
			<-h.blocked
			work.Go(func() {
				s.index.Commit(t.Context(), func(x *index) error {
					_, err := x.remove("app:1", false, nobody)
					return err
				})
			})
			synctest.Wait() // the removal is before the deletion in the queue
			work.Go(func() { s.Collect(t.Context(), nobody) })
			synctest.Wait()
			again := h.blockUploads() // that of the removal and the deletion
			let()
			<-h.blocked
			acquired := make(chan error, 1)
			work.Go(func() {
				_, _, err := s.Acquire("app:1")
				acquired <- err
			})
			synctest.Wait()
			select {
			case err := <-acquired:
				t.Errorf("%s: acquired while it is being deleted: %v", name, err)
			default:
			}
			h.setFailure("Upload", upload)
			again()
			work.Wait()
			if err := <-acquired; errdefs.IsNotFound(err) != (upload == nil) || (upload != nil && err != nil) {
				t.Errorf("%s: acquired: %v", name, err)
			}
			want := 0
			if upload != nil {
				want = 2
			}
			if n := len(h.layers()); n != want {
				t.Errorf("%s: %d layers are left, want %d", name, n, want)
			}
		})
	}
}

// TestPins: what is pinned is not chosen, what is chosen is pinned when the deletion has ended.
func TestPins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPins()
		a, b := digest.FromString("a"), digest.FromString("b")
		release, further := p.pin([]digest.Digest{a}), p.pin([]digest.Digest{a})
		d, other := p.newDeletion(), p.newDeletion()
		release()
		release()
		if d.choose(a) || !d.choose(b) || other.choose(b) {
			t.Error("a pinned key is chosen, a free one is not, or one twice")
		}
		further()
		if !d.choose(a) {
			t.Error("a key that was released is not chosen")
		}
		d.spare(a)
		p.pin([]digest.Digest{a})()
		pinned := make(chan func())
		go func() { pinned <- p.pin([]digest.Digest{a, b}) }()
		synctest.Wait()
		if other.end(); len(p.count) != 0 {
			t.Error("a key that is being deleted is pinned")
		}
		d.end()
		(<-pinned)()
		if len(p.count) != 0 || len(p.deleting) != 0 {
			t.Errorf("left: %v, %v", p.count, p.deleting)
		}
	})
}
