package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/tether/link"
	"github.com/containervm/containervm/tether/link/linktest"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// fakeHost is a datastore in memory and VMs whose tethers are linktest's.
type fakeHost struct {
	t testing.TB

	mu      sync.Mutex
	files   map[string][]byte
	parents map[string]string // of disks
	vms     map[vsphere.Ref]*fakeVM
	made    int      // VMs ever
	deleted []string // files, in order
	fail    map[string]error
	killed  bool // when set, the store reaches the host no more after calls more operations
	calls   int
	hold    chan struct{} // when set, AttachDelta waits until it is closed
	uploads int           // begun ever
	gate    chan struct{} // when set, Upload waits until it is closed
	blocked chan struct{} // has an element for each Upload that began to wait
}

type fakeVM struct {
	vsphere.VM
	disk   string
	tether *linktest.Tether
	seen   int // layers of the tether that are in a disk
}

func newFakeHost(t testing.TB) *fakeHost {
	return &fakeHost{
		t: t, files: map[string][]byte{"cvm/blank.vmdk": nil}, parents: map[string]string{},
		vms: map[vsphere.Ref]*fakeVM{}, fail: map[string]error{}, blocked: make(chan struct{}, 100),
	}
}

func newStore(t testing.TB, h *fakeHost) *Store {
	t.Helper()
	s, err := New(t.Context(), h, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// enter locks the host for an operation, which fails when the test wants it to.
func (h *fakeHost) enter(operation string) (leave func(), err error) {
	h.mu.Lock()
	if h.killed {
		if h.calls == 0 {
			return h.mu.Unlock, errKilled
		}
		h.calls--
	}
	return h.mu.Unlock, h.fail[operation]
}

var errKilled = errors.New("the controller was killed")

// kill makes the host see of the store what it would see if the controller were killed after a number of operations: nothing
// more, no cleaning up either. revive ends that, for the next controller's store, and reports whether operations were left over.
func (h *fakeHost) kill(after int) (revive func() (complete bool)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.killed, h.calls = true, after
	return func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.killed = false
		return h.calls > 0
	}
}

func (h *fakeHost) setFailure(operation string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fail[operation] = err
}

// blockUploads makes the uploads that begin from now on wait until let is called; each that begins to wait sends to h.blocked.
func (h *fakeHost) blockUploads() (let func()) {
	gate := make(chan struct{})
	h.mu.Lock()
	h.gate = gate
	h.mu.Unlock()
	let = sync.OnceFunc(func() {
		h.mu.Lock()
		if h.gate == gate {
			h.gate = nil
		}
		h.mu.Unlock()
		close(gate)
	})
	h.t.Cleanup(let)
	return let
}

func (h *fakeHost) CreateVM(_ context.Context, spec vsphere.VMSpec) (vsphere.Ref, error) {
	leave, err := h.enter("CreateVM")
	defer leave()
	if err != nil {
		return vsphere.Ref{}, err
	}
	h.made++
	ref := vsphere.Ref{Type: "VirtualMachine", Value: fmt.Sprintf("vm-%d", h.made)}
	h.vms[ref] = &fakeVM{VM: vsphere.VM{Ref: ref, Name: spec.Name, PowerState: vsphere.PoweredOff, Extra: maps.Clone(spec.ExtraConfig)}}
	return ref, nil
}

func (h *fakeHost) PowerOn(_ context.Context, ref vsphere.Ref) error {
	leave, err := h.enter("PowerOn")
	defer leave()
	if err != nil {
		return err
	}
	vm := h.vms[ref]
	spec, err := link.DecodeSpec(vm.Extra[link.KeySpec])
	if err != nil || spec.Mode != tetherv1.Mode_UNPACK {
		h.t.Errorf("spec of an unpacker: %v, %v", spec, err)
	}
	vm.PowerState = vsphere.PoweredOn
	vm.tether = linktest.NewTether(h.t)
	vm.Extra[link.KeyStatus], _ = link.EncodeStatus(&tetherv1.Status{State: tetherv1.State_RUNNING})
	return nil
}

func (h *fakeHost) PowerOff(_ context.Context, ref vsphere.Ref) error {
	leave, err := h.enter("PowerOff")
	defer leave()
	if vm := h.vms[ref]; vm != nil && vm.tether != nil && err != errKilled {
		vm.PowerState = vsphere.PoweredOff
		vm.tether.Lose()
	}
	return err
}

func (h *fakeHost) Destroy(_ context.Context, ref vsphere.Ref) error {
	leave, err := h.enter("Destroy")
	defer leave()
	if err == nil {
		if vm := h.vms[ref]; vm != nil && vm.disk != "" { // goes with its VM, as on a real host
			delete(h.files, vm.disk)
			delete(h.parents, vm.disk)
		}
		delete(h.vms, ref)
	}
	return err
}

func (h *fakeHost) AttachDelta(_ context.Context, ref vsphere.Ref, path, parent string) error {
	h.mu.Lock()
	hold := h.hold
	h.mu.Unlock()
	if hold != nil {
		<-hold
	}
	leave, err := h.enter("AttachDelta")
	defer leave()
	if err != nil {
		return err
	}
	vm := h.vms[ref]
	_, parentExists := h.files[parent]
	_, exists := h.files[path]
	if vm.disk != "" || !parentExists || exists {
		h.t.Errorf("AttachDelta(%s, %s): the slot holds %q, parent exists %v, path exists %v", path, parent, vm.disk, parentExists, exists)
	}
	h.files[path], h.parents[path], vm.disk = nil, parent, path
	return nil
}

func (h *fakeHost) DetachDisk(_ context.Context, ref vsphere.Ref) error {
	leave, err := h.enter("DetachDisk")
	defer leave()
	if err != nil {
		return err
	}
	vm := h.vms[ref]
	layers := vm.tether.Unpacked()
	if len(layers) != vm.seen+1 {
		h.t.Errorf("a disk is detached after %d layers", len(layers)-vm.seen)
	}
	vm.seen = len(layers)
	h.files[vm.disk] = layers[len(layers)-1].Tar
	vm.disk = ""
	return nil
}

func (h *fakeHost) Link(ctx context.Context, ref vsphere.Ref) (*link.Client, error) {
	leave, err := h.enter("Link")
	defer leave()
	if err != nil {
		return nil, err
	}
	return h.vms[ref].tether.Client(), nil
}

func (h *fakeHost) Wait(_ context.Context, ref vsphere.Ref, until func(vsphere.VM) bool) (vsphere.VM, error) {
	leave, err := h.enter("Wait")
	defer leave()
	if err != nil {
		return vsphere.VM{}, err
	}
	if vm := h.vms[ref].VM; until(vm) {
		return vm, nil
	}
	return vsphere.VM{}, fmt.Errorf("the fake never gets there")
}

func (h *fakeHost) VMs() []vsphere.VM {
	h.mu.Lock()
	defer h.mu.Unlock()
	var all []vsphere.VM
	for _, vm := range h.vms {
		all = append(all, vm.VM)
	}
	return all
}

func (h *fakeHost) Boot() vsphere.BootFiles {
	return vsphere.BootFiles{Kernel: "cvm/boot/kernel", Initrd: "cvm/boot/initrd", Blank: "cvm/blank.vmdk"}
}

func (h *fakeHost) Upload(_ context.Context, path string, r io.Reader) error {
	data, readErr := io.ReadAll(r)
	h.mu.Lock()
	h.uploads++
	gate := h.gate
	h.mu.Unlock()
	if gate != nil {
		h.blocked <- struct{}{}
		<-gate
	}
	leave, err := h.enter("Upload")
	defer leave()
	if err == nil && readErr == nil {
		h.files[path] = data
	}
	return errors.Join(err, readErr)
}

func (h *fakeHost) Download(_ context.Context, path string) (io.ReadCloser, error) {
	leave, err := h.enter("Download")
	defer leave()
	data, ok := h.files[path]
	if err == nil && !ok {
		err = fmt.Errorf("no file %s: %w", path, errdefs.ErrNotFound)
	}
	return io.NopCloser(bytes.NewReader(data)), err
}

func (h *fakeHost) MoveFile(_ context.Context, from, to string) error {
	leave, err := h.enter("MoveFile")
	defer leave()
	if err != nil {
		return err
	}
	if _, ok := h.files[to]; ok {
		return fmt.Errorf("%s: %w", to, errdefs.ErrAlreadyExists)
	}
	h.files[to], h.parents[to] = h.files[from], h.parents[from]
	delete(h.files, from)
	delete(h.parents, from)
	return nil
}

func (h *fakeHost) Stat(_ context.Context, path string) (vsphere.FileInfo, error) {
	leave, err := h.enter("Stat")
	defer leave()
	data, ok := h.files[path]
	if err == nil && !ok {
		err = fmt.Errorf("no file %s: %w", path, errdefs.ErrNotFound)
	}
	return vsphere.FileInfo{Name: path, Size: int64(len(data))}, err
}

func (h *fakeHost) DeleteFile(_ context.Context, path string) error {
	leave, err := h.enter("DeleteFile")
	defer leave()
	if err != nil {
		return err
	}
	for child, parent := range h.parents {
		if parent == path {
			h.t.Errorf("%s is deleted before its child %s", path, child)
		}
	}
	if _, ok := h.files[path]; ok {
		h.deleted = append(h.deleted, path)
	}
	delete(h.files, path)
	delete(h.parents, path)
	return nil
}

func (h *fakeHost) MakeDirectory(context.Context, string) error {
	leave, err := h.enter("MakeDirectory")
	defer leave()
	return err
}

func (h *fakeHost) ListFiles(_ context.Context, dir string) ([]vsphere.FileInfo, error) {
	leave, err := h.enter("ListFiles")
	defer leave()
	var out []vsphere.FileInfo
	for path := range h.files {
		if name, ok := strings.CutPrefix(path, dir+"/"); ok {
			out = append(out, vsphere.FileInfo{Name: name})
		}
	}
	return out, err
}

// layers are the names of the disks of layers, partial ones too.
func (h *fakeHost) layers() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []string
	for path := range h.files {
		if name, ok := strings.CutPrefix(path, layerDir+"/"); ok {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

func (h *fakeHost) machines() (now, ever int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.vms), h.made
}

// disk returns what was unpacked into each disk of a chain, topmost first.
func (h *fakeHost) disk(path string) [][]byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out [][]byte
	for path != "cvm/blank.vmdk" && path != "" {
		out = append(out, h.files[path])
		path = h.parents[path]
	}
	return out
}

// nothingLeft fails the test when a VM or a disk beside those of the store's layers is left.
func (h *fakeHost) nothingLeft(s *Store) {
	h.t.Helper()
	if now, _ := h.machines(); now != 0 {
		h.t.Errorf("%d VMs are left", now)
	}
	for _, name := range h.layers() {
		if strings.HasSuffix(name, partialSuffix) {
			h.t.Errorf("%s is left", name)
		}
	}
	if got, want := len(h.layers()), len(s.index.Read().Layers); got != want {
		h.t.Errorf("%d disks of layers, but %d layers in the index", got, want)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	blobs := s.index.Read().Blobs
	for path, data := range h.files {
		name, ok := strings.CutPrefix(path, blobDir+"/")
		if !ok {
			continue
		}
		d := digest.NewDigestFromEncoded(digest.SHA256, name)
		if b, known := blobs[d]; !known || b.Size != int64(len(data)) || digest.FromBytes(data) != d {
			h.t.Errorf("%s is left, or is not what the index says", path)
		}
	}
	for d := range blobs {
		if _, ok := h.files[blobPath(d)]; !ok {
			h.t.Errorf("there is no blob %s, but it is in the index", d)
		}
	}
}

func (h *fakeHost) ConsoleTail(context.Context, string) string { return "the console's last line" }
