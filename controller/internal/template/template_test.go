package template

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/containervm/containervm/controller/internal/record"
	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

func TestVictim(t *testing.T) {
	at := func(n int) time.Time { return time.Unix(int64(n), 0) }
	for _, c := range []struct {
		name string
		all  []candidate
		want string
	}{
		{"none", nil, ""},
		{"the one used longest ago", []candidate{{name: "a", used: at(2)}, {name: "b", used: at(1)}, {name: "c", used: at(3)}}, "b"},
		{"not while it is cloned", []candidate{{name: "a", used: at(2)}, {name: "b", used: at(1), busy: true}}, "a"},
		{"all are busy", []candidate{{name: "a", busy: true}, {name: "b", busy: true, stale: true}}, ""},
		{"of other boot files first", []candidate{{name: "a", used: at(1)}, {name: "b", used: at(9), stale: true}, {name: "c", used: at(2)}}, "b"},
		{"of those, the one used longest ago", []candidate{{name: "a", used: at(9), stale: true}, {name: "b", used: at(5), stale: true}, {name: "c", used: at(1)}}, "b"},
	} {
		if got := victim(c.all); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestName(t *testing.T) {
	in := inputs{Kernel: "cvm/boot/vmlinux-1", Initrd: "cvm/boot/initramfs-1", MemoryMiB: 512, CPUs: 1}
	if name := in.name(); len(name) != len(namePrefix)+12 || name != in.name() {
		t.Errorf("name %q", name)
	}
	if len(in.uuid()) != 36 {
		t.Errorf("UUID %q", in.uuid())
	}
	seen := map[string]bool{in.name(): true}
	for _, change := range []func(*inputs){
		func(in *inputs) { in.Kernel = "cvm/boot/vmlinux-2" }, func(in *inputs) { in.Initrd = "cvm/boot/initramfs-2" },
		func(in *inputs) { in.MemoryMiB++ }, func(in *inputs) { in.CPUs++ },
	} {
		other := in
		change(&other)
		if seen[other.name()] {
			t.Errorf("%+v has the name of another template", other)
		}
		seen[other.name()] = true
	}
}

// templateVM is a template as the host shows it.
func templateVM(t *testing.T, in inputs) vsphere.VM {
	t.Helper()
	text, err := json.Marshal(saved{inputs: in, Created: time.Unix(5, 0).UTC()})
	if err != nil {
		t.Fatal(err)
	}
	return vsphere.VM{Name: in.name(), PowerState: vsphere.PoweredOn, Frozen: true, Extra: map[string]string{
		record.KeyRole: record.RoleTemplate, record.KeyTemplate: string(text), link.KeyVersion: "v1",
	}}
}

func TestParse(t *testing.T) {
	in := inputs{Kernel: "k", Initrd: "i", MemoryMiB: 512, CPUs: 2}
	vm := templateVM(t, in)
	got, sound := parse(vm)
	if !sound || got.Name != in.name() || got.Size != (Size{CPUs: 2, MemoryMiB: 512}) || got.Kernel != "k" || got.State != StateFrozen || got.Version != "v1" || !got.Created.Equal(time.Unix(5, 0)) {
		t.Errorf("parsed %+v, %v", got, sound)
	}
	for name, change := range map[string]func(*vsphere.VM){
		"not a template":     func(vm *vsphere.VM) { vm.Extra[record.KeyRole] = record.RoleWarm },
		"damaged record":     func(vm *vsphere.VM) { vm.Extra[record.KeyTemplate] = "{" },
		"another one's name": func(vm *vsphere.VM) { vm.Name = "cvm-template-0" },
		"a record of other size": func(vm *vsphere.VM) {
			vm.Extra[record.KeyTemplate] = strings.Replace(vm.Extra[record.KeyTemplate], "512", "513", 1)
		},
	} {
		vm := templateVM(t, in)
		change(&vm)
		if got, sound := parse(vm); sound {
			t.Errorf("%s: %+v", name, got)
		}
	}
	for want, change := range map[string]func(*vsphere.VM){
		StateMaking: func(vm *vsphere.VM) { vm.Frozen = false },
		StateEnded:  func(vm *vsphere.VM) { vm.PowerState = vsphere.PoweredOff },
	} {
		vm := templateVM(t, in)
		change(&vm)
		if got, _ := parse(vm); got.State != want {
			t.Errorf("state %q, want %q", got.State, want)
		}
	}
}

// TestSource: what a VM says of its fork may be nonsense.
func TestSource(t *testing.T) {
	fork, err := link.EncodeFork(&tetherv1.Fork{Generation: 1, Index: 4, Source: "cvm-template-1"})
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{fork: "cvm-template-1", "": "", "{nonsense": ""} {
		if got := Source(vsphere.VM{Extra: map[string]string{link.KeyFork: text}}); got != want {
			t.Errorf("source of %q: %q, want %q", text, got, want)
		}
	}
}

// TestPauses: a template that cannot be made is tried again later and later, but at once when someone waits for it.
func TestPauses(t *testing.T) {
	s := New(nil, Options{}, nil)
	in := inputs{MemoryMiB: 1}
	for _, want := range []time.Duration{pauseFirst, 2 * pauseFirst, 4 * pauseFirst} {
		s.mu.Lock()
		j := s.wantLocked(in)
		s.mu.Unlock()
		s.end(j, errStopped)
		if got := s.templates[in.name()].failure; got.pause != want || time.Until(got.until) > want {
			t.Errorf("pause %v until %v, want %v", got.pause, got.until, want)
		}
		s.mu.Lock()
		s.wantSoonLocked(in)
		soon := s.templates[in.name()].job
		s.mu.Unlock()
		if soon != nil {
			t.Error("it is tried again at once")
		}
	}
	for range 20 {
		s.end(s.wantLocked(in), errStopped)
	}
	if got := s.templates[in.name()].failure.pause; got != pauseMost {
		t.Errorf("pause %v, want at most %v", got, pauseMost)
	}
	s.end(s.wantLocked(in), nil)
	if s.templates[in.name()].failure != nil {
		t.Error("a failure is remembered after a success")
	}
}
