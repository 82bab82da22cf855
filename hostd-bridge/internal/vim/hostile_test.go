package vim

import (
	"net/http"
	"strings"
	"testing"

	"github.com/containervm/containervm/hostd-bridge/internal/vm"
	"github.com/containervm/containervm/tether/link"
)

// TestElementTypes: where vim25 wants a derived type, an element that names none, or another, is refused: no method and no task
// meets a nil.
func TestElementTypes(t *testing.T) {
	s := newTestServer(t)
	cookie := logIn(t, s)
	const xsi = ` xmlns="urn:vim25" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"`
	ref, err := s.Inventory.Create(t.Context(), vm.Config{Name: "one", Pool: vm.RootPool, CPUs: 1, MemoryMiB: 64}, nil)
	if err != nil {
		t.Fatal(err)
	}
	self := `<_this type="VirtualMachine">` + ref + `</_this>`
	create := func(config string) string {
		return `<CreateVM_Task` + xsi + `><_this type="Folder">group-v3</_this><config><name>two</name><memoryMB>64</memoryMB>` + config +
			`</config><pool type="ResourcePool">resgroup-root</pool></CreateVM_Task>`
	}
	collect := func(objects string) string {
		return `<CreateFilter` + xsi + `><_this type="PropertyCollector">propertyCollector</_this><spec><propSet><type>Folder</type><pathSet>name</pathSet></propSet>` +
			`<objectSet><obj type="Folder">group-v3</obj>` + objects + `</objectSet></spec><partialUpdates>false</partialUpdates></CreateFilter>`
	}
	for what, body := range map[string]string{
		"option of no type":        create(`<extraConfig xsi:type="Nonsense"><key>a</key><value>b</value></extraConfig>`),
		"option of another type":   create(`<extraConfig xsi:type="VirtualDisk"><key>a</key></extraConfig>`),
		"option of a simple type":  create(`<extraConfig xsi:type="xsd:string">a</extraConfig>`),
		"device of another type":   create(`<deviceChange xsi:type="VirtualDeviceConfigSpec"><operation>add</operation><device xsi:type="OptionValue"/></deviceChange>`),
		"device change of no type": create(`<deviceChange xsi:type="Nonsense"><operation>add</operation></deviceChange>`),
		"device change":            create(`<deviceChange><operation>add</operation></deviceChange>`),
		"device":                   create(`<deviceChange xsi:type="VirtualDeviceConfigSpec"><operation>add</operation><device><key>-1</key></device></deviceChange>`),
		"device of a clone":        `<InstantClone_Task` + xsi + `>` + self + `<spec><name>c</name><location><deviceChange/></location></spec></InstantClone_Task>`,
		"selection of no type":     collect(`<selectSet xsi:type="Nonsense"><name>a</name></selectSet>`),
	} {
		res, out := post(t, s, body, cookie)
		refused := strings.Contains(out, "InvalidRequest") || strings.Contains(out, "InvalidDeviceSpec")
		if res.StatusCode != http.StatusInternalServerError || !refused {
			t.Errorf("%s: status %d: %s", what, res.StatusCode, out)
		}
	}
	if _, out := post(t, s, create(`<extraConfig><key>a</key><value>b</value></extraConfig>`), cookie); !strings.Contains(out, "task-") {
		t.Errorf("an option whose type is understood: %s", out)
	}
	s.Wait()
}

// TestGuestsAddress: what a guest says its address is is one, or is not shown.
func TestGuestsAddress(t *testing.T) {
	for said, want := range map[string]string{"10.1.2.3": "10.1.2.3", "fd00::7": "fd00::7", "\x1b[2J": "", "10.1.2.3 ": "", "fe80::1%\x1b[2J": ""} {
		v := &vm.VM{Power: vm.PoweredOn, Guest: map[string]string{link.KeyIP: said, link.KeyVersion: "v1\x1b\n"}}
		info := renderGuest(v, nil)
		if info.IpAddress != want || info.ToolsVersion != `v1\x1b ` {
			t.Errorf("%q is shown as %q, version %q", said, info.IpAddress, info.ToolsVersion)
		}
	}
}
