package vim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
	"github.com/vmware/govmomi/vim25/xml"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/datastore"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/journal"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/vmhost"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/vmtest"
)

func newTestServer(t testing.TB) *Server {
	t.Helper()
	dir := t.TempDir()
	log := slog.New(slog.DiscardHandler)
	store, err := datastore.Open(filepath.Join(dir, "store"))
	if err != nil {
		t.Fatal(err)
	}
	j, err := journal.Open(filepath.Join(dir, "journal"))
	if err != nil {
		t.Fatal(err)
	}
	hv := vmtest.New(vmtest.Idle)
	inv, err := vmhost.Open(t.Context(), vmhost.Options{
		Journal: j, Store: store, Hypervisor: hv, Disks: hv, RunDir: filepath.Join(dir, "run"),
		Switches: hv, NetDir: filepath.Join(dir, "net"),
		HostMemoryMiB: 4096, HostCPUs: 2, Blank: "blank.vmdk", Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(inv.Close(), j.Close(), store.Close()); err != nil {
			t.Error(err)
		}
	})
	return New(t.Context(), Config{
		Inventory: inv, Store: store, HostName: "host", InstanceUUID: "u", Version: "test", Username: "root", Password: "secret", Log: log,
	})
}

// post sends a SOAP body and returns the answer.
func post(t testing.TB, s *Server, body, cookie string) (*http.Response, string) {
	t.Helper()
	envelope := `<?xml version="1.0"?><Envelope xmlns="http://schemas.xmlsoap.org/soap/envelope/"><Body>` + body + `</Body></Envelope>`
	req := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/sdk", strings.NewReader(envelope))
	if cookie != "" {
		req.AddCookie(&http.Cookie{Name: CookieName, Value: cookie})
	}
	w := httptest.NewRecorder()
	mux := http.NewServeMux()
	s.Register(mux)
	mux.ServeHTTP(w, req)
	return w.Result(), w.Body.String()
}

func logIn(t testing.TB, s *Server) string {
	t.Helper()
	res, out := post(t, s, `<Login xmlns="urn:vim25"><_this type="SessionManager">SessionManager</_this><userName>root</userName><password>secret</password></Login>`, "")
	for _, c := range res.Cookies() {
		if c.Name == CookieName {
			return c.Value
		}
	}
	t.Fatalf("no session: %s", out)
	return ""
}

// Without a session only what precedes a login is served; everything else, known or not, is refused alike.
func TestEverythingNeedsALogin(t *testing.T) {
	s := newTestServer(t)
	open := map[string]bool{"RetrieveServiceContent": true, "Login": true}
	for name, m := range s.methods {
		if m.open != open[name] {
			t.Errorf("%s: may be called before the login: %v", name, m.open)
		}
		if open[name] {
			continue
		}
		for _, cookie := range []string{"", "invented"} {
			res, out := post(t, s, "<"+name+` xmlns="urn:vim25"><_this type="Folder">group-v3</_this></`+name+">", cookie)
			if res.StatusCode != http.StatusInternalServerError || !strings.Contains(out, "<NotAuthenticatedFault") {
				t.Errorf("%s: %d %s", name, res.StatusCode, out)
			}
		}
	}
	if _, out := post(t, s, `<InstantClone_Task xmlns="urn:vim25"/>`, ""); !strings.Contains(out, "<NotAuthenticatedFault") {
		t.Errorf("a method that is not served: %s", out)
	}
}

func TestDefaultDeny(t *testing.T) {
	s := newTestServer(t)
	cookie := logIn(t, s)
	_, out := post(t, s, `<RelocateVM_Task xmlns="urn:vim25"><_this type="VirtualMachine">vm-1</_this></RelocateVM_Task>`, cookie)
	if !strings.Contains(out, "<NotSupportedFault") || !strings.Contains(out, "RelocateVM_Task") {
		t.Errorf("answer %s", out)
	}
}

func TestNamesOfMethods(t *testing.T) {
	for name, m := range allowList() {
		if got := reflect.TypeOf(m.newRequest()).Elem().Name(); got != name {
			t.Errorf("%s takes a %s", name, got)
		}
		if strings.HasSuffix(name, "Response") {
			t.Errorf("%s is no method", name)
		}
	}
}

func TestMalformedRequests(t *testing.T) {
	s := newTestServer(t)
	cookie := logIn(t, s)
	for _, body := range []string{
		"", "text", "<a>", "</a>", "<CreateFilter><spec>", `<CreateFilter xmlns="urn:vim25"><spec><objectSet><obj>x`,
		`<WaitForUpdatesEx xmlns="urn:vim25"><options><maxWaitSeconds>x</maxWaitSeconds></options></WaitForUpdatesEx>`,
		strings.Repeat("<a>", 200000),
	} {
		if res, out := post(t, s, body, cookie); res.StatusCode != http.StatusInternalServerError || !strings.Contains(out, "Fault") {
			t.Errorf("%.40q: %d %.200s", body, res.StatusCode, out)
		}
	}
	if res, _ := post(t, s, strings.Repeat(" ", maxRequest), cookie); res.StatusCode != http.StatusBadRequest {
		t.Errorf("oversized request: status %d", res.StatusCode)
	}
}

func TestWrongPassword(t *testing.T) {
	s := newTestServer(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // a client that does not wait for the answer
	req := httptest.NewRequest(http.MethodPost, "/sdk", nil)
	for _, tc := range [][2]string{{"root", "wrong"}, {"admin", "secret"}, {"", ""}} {
		if x, err := s.sessions.login(ctx, req, tc[0], tc[1]); x != nil || err == nil {
			t.Errorf("%v logged in", tc)
		}
	}
	if n := len(s.sessions.byID); n != 0 {
		t.Errorf("%d sessions", n)
	}
}

// What govmomi encodes is decoded to the same, and its decoder takes what is encoded here.
func TestRoundTripWithGovmomi(t *testing.T) {
	want := &types.ReconfigVM_Task{This: vmRef("vm-7"), Spec: types.VirtualMachineConfigSpec{
		Name: "né <&>", ExtraConfig: []types.BaseOptionValue{&types.OptionValue{Key: "k", Value: "v"}},
		DeviceChange: []types.BaseVirtualDeviceConfigSpec{&types.VirtualDeviceConfigSpec{
			Operation: types.VirtualDeviceConfigSpecOperationAdd,
			Device:    &types.VirtualDisk{VirtualDevice: types.VirtualDevice{Key: -1, Backing: &types.VirtualDiskFlatVer2BackingInfo{ThinProvisioned: types.NewBool(true)}}},
		}},
	}}
	data, err := xml.Marshal(soap.Envelope{Body: &methods.ReconfigVM_TaskBody{Req: want}})
	if err != nil {
		t.Fatal(err)
	}
	name, got, err := decodeRequest(data, lookup)
	if err != nil || name != "ReconfigVM_Task" || !reflect.DeepEqual(got, want) {
		t.Errorf("%s %+v %v", name, got, err)
	}
	data, err = encode(body{answer: &types.ReconfigVM_TaskResponse{Returnval: moref("Task", "task-1")}})
	if err != nil {
		t.Fatal(err)
	}
	res := &methods.ReconfigVM_TaskBody{}
	if err := xml.NewDecoder(bytes.NewReader(data)).Decode(&soap.Envelope{Body: res}); err != nil || res.Res.Returnval.Value != "task-1" {
		t.Errorf("answer %s: %v", data, err)
	}
}

func lookup(name string) any {
	if m, ok := allowList()[name]; ok {
		return m.newRequest()
	}
	return nil
}

// oneNetwork has the network that every host has.
type oneNetwork struct{}

func (oneNetwork) Network(ref string) (*vm.Network, bool) {
	return &vm.Network{Ref: vm.DefaultNetwork}, ref == vm.DefaultNetwork
}
func (oneNetwork) NetworkNamed(name string) (*vm.Network, bool) {
	return &vm.Network{Ref: vm.DefaultNetwork}, name == hostapi.DefaultNetwork
}

func FuzzDecodeRequest(f *testing.F) {
	for _, body := range []string{
		`<PowerOnVM_Task xmlns="urn:vim25"><_this type="VirtualMachine">vm-1</_this></PowerOnVM_Task>`,
		`<CreateFilter xmlns="urn:vim25"><spec><objectSet><obj type="Task">t</obj><selectSet xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="TraversalSpec"><path>view</path></selectSet></objectSet></spec></CreateFilter>`,
		`<ReconfigVM_Task><spec><extraConfig><key>a</key><value xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="VirtualDisk"/></extraConfig></spec></ReconfigVM_Task>`,
	} {
		f.Add([]byte(fmt.Sprintf("<Envelope><Header><x/></Header><Body>%s</Body></Envelope>", body)))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		name, req, err := decodeRequest(data, lookup)
		if err == nil && (req == nil || name == "") {
			t.Error("neither a request nor an error")
		}
		if spec, ok := req.(*types.ReconfigVM_Task); ok && err == nil {
			_, _ = vmChange(oneNetwork{}, nil, &spec.Spec) // must not panic
			_, _ = vmChange(oneNetwork{}, &vm.VM{Config: vm.Config{NICs: []vm.Card{{Key: 4000}}}}, &spec.Spec)
		}
	})
}
