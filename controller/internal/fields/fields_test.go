package fields

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/api/types/volume"
)

// requests are the bodies that the API takes, and what is decided of them.
func requests() map[string]struct {
	table Table
	kind  reflect.Type
} {
	type request = struct {
		table Table
		kind  reflect.Type
	}
	return map[string]request{
		"create":         {Create(), reflect.TypeFor[container.CreateRequest]()},
		"exec":           {Exec(), reflect.TypeFor[container.ExecCreateRequest]()},
		"exec start":     {ExecStart(), reflect.TypeFor[container.ExecStartRequest]()},
		"update":         {Update(), reflect.TypeFor[container.UpdateConfig]()},
		"commit":         {Commit(), reflect.TypeFor[container.Config]()},
		"auth":           {Auth(), reflect.TypeFor[registry.AuthConfig]()},
		"network create": {NetworkCreate(), reflect.TypeFor[network.CreateRequest]()},
		"connect":        {Connect(), reflect.TypeFor[network.ConnectRequest]()},
		"disconnect":     {Disconnect(), reflect.TypeFor[network.DisconnectRequest]()},
		"volume create":  {VolumeCreate(), reflect.TypeFor[volume.CreateRequest]()},
	}
}

// TestEveryField: somebody has decided what each field of moby's types does, and decided of nothing else.
func TestEveryField(t *testing.T) {
	for name, r := range requests() {
		c := census{t: t, table: r.table, fields: map[string]bool{}, structs: map[string]reflect.Type{}}
		c.visit("", r.kind)
		for path, l := range r.table {
			under, key := "", path
			if i := strings.LastIndexByte(path, '.'); i >= 0 {
				under, key = path[:i], path[i+1:]
			}
			kind, isStruct := c.structs[under]
			switch {
			case l.State != Done && l.Text == "":
				t.Errorf("%s: nobody says why %s is %s", name, path, l.State)
			case !l.Key && !c.fields[path]:
				t.Errorf("%s: there is no field %s", name, path)
			case l.Key && !isStruct:
				t.Errorf("%s: there is no struct %s that has a key %s", name, under, key)
			case l.Key:
				known := map[string]place{}
				places(under, kind, known)
				if p, ok := known[strings.ToLower(key)]; ok {
					t.Errorf("%s: the key %s is the field %s", name, path, p.path)
				}
			}
		}
	}
}

// census goes through a type's fields.
type census struct {
	t       *testing.T
	table   Table
	fields  map[string]bool
	structs map[string]reflect.Type
}

func (c *census) visit(path string, kind reflect.Type) {
	for {
		l, decided := c.table[path]
		if decided {
			c.fields[path] = true
		}
		switch {
		case kind.Kind() == reflect.Struct && isMobys(kind):
			if decided && l.State != Refused {
				c.t.Errorf("%s has fields of its own, of each of which it is to be decided", path)
			}
			if !decided {
				c.visitFields(path, kind)
			}
			return
		case kind.Kind() == reflect.Pointer, kind.Kind() == reflect.Slice, kind.Kind() == reflect.Array, kind.Kind() == reflect.Map:
			kind = kind.Elem()
		default:
			if !decided {
				c.t.Errorf("nobody has decided what the field %s (%s) does", path, kind)
			}
			return
		}
	}
}

func (c *census) visitFields(path string, kind reflect.Type) {
	c.structs[path] = kind
	for i := range kind.NumField() {
		c.visit(join(path, kind.Field(i).Name), kind.Field(i).Type)
	}
}

// isMobys reports whether a type is one of requests, and not a value with a text of its own.
func isMobys(kind reflect.Type) bool {
	text := reflect.TypeFor[interface{ MarshalText() ([]byte, error) }]()
	return kind.NumField() > 0 && !kind.Implements(text) && (strings.Contains(kind.PkgPath(), "moby") || strings.Contains(kind.PkgPath(), "docker"))
}

// TestCheck: fields are refused by the names that clients know, what says nothing is not looked at.
func TestCheck(t *testing.T) {
	no, yes, minus := false, true, int64(-1)
	for _, c := range []struct {
		request container.CreateRequest
		says    string // "": taken
	}{
		{container.CreateRequest{}, ""},
		{container.CreateRequest{Config: &container.Config{Env: []string{"A=b"}, Healthcheck: &container.HealthConfig{Test: []string{"NONE"}}}}, ""},
		{container.CreateRequest{HostConfig: &container.HostConfig{Isolation: "default", Links: []string{}, Resources: container.Resources{OomKillDisable: &no}}}, ""},
		{container.CreateRequest{HostConfig: &container.HostConfig{Isolation: "hyperv"}}, "HostConfig.Isolation is not supported: it is of Windows"},
		{container.CreateRequest{HostConfig: &container.HostConfig{Resources: container.Resources{OomKillDisable: &yes}}}, "HostConfig.OomKillDisable is not supported: "},
		{container.CreateRequest{HostConfig: &container.HostConfig{Resources: container.Resources{CPURealtimePeriod: 1}}}, "HostConfig.CpuRealtimePeriod is not"},
		{container.CreateRequest{HostConfig: &container.HostConfig{Resources: container.Resources{CpusetMems: "0", MemorySwappiness: &minus}}}, ""},
		{container.CreateRequest{HostConfig: &container.HostConfig{Mounts: []mount.Mount{{}, {BindOptions: &mount.BindOptions{CreateMountpoint: true}}}}},
			"HostConfig.Mounts.BindOptions.CreateMountpoint is not"},
		{container.CreateRequest{NetworkingConfig: &network.NetworkingConfig{EndpointsConfig: map[string]*network.EndpointSettings{"a": nil, "b": {IPAMConfig: &network.EndpointIPAMConfig{LinkLocalIPs: []netip.Addr{netip.MustParseAddr("169.254.0.1")}}}}}},
			"NetworkingConfig.EndpointsConfig.IPAMConfig.LinkLocalIPs is not supported"},
	} {
		_, err := Create().Check(c.request)
		if (err == nil) != (c.says == "") || err != nil && (!errdefs.IsNotImplemented(err) || !strings.HasPrefix(err.Error(), c.says)) {
			t.Errorf("%+v: %v, want %q", c.request, err, c.says)
		}
	}
	type unknown struct{ A, B int }
	if _, err := newTable(done("", "A")).Check(unknown{A: 1}); err != nil {
		t.Error(err)
	}
	if _, err := newTable(done("", "A")).Check(unknown{B: 1}); !errdefs.IsNotImplemented(err) {
		t.Errorf("a field that the table lacks: %v", err)
	}
	warned := newTable([]Line{{Path: "A", State: Warned, Text: "A is discarded."}})
	if got, err := warned.Check([]unknown{{A: 1}, {A: 2}}); err != nil || !reflect.DeepEqual(got, []string{"A is discarded."}) {
		t.Errorf("warnings %q, %v", got, err)
	}
}

func TestCheckKeys(t *testing.T) {
	for _, c := range []struct{ body, says string }{
		{`{"Image":"a","env":["A=b"],"hostconfig":{"CPUSHARES":1}}`, ""},
		{`{"Bogus":null,"HostConfig":{"Bogus":0,"Mounts":[{"Bogus":""}]},"X":{},"Y":[]}`, ""},
		{`{"Bogus":1}`, `unknown field "Bogus" in the request`},
		{`{"HostConfig":{"Bogus":1}}`, `unknown field "HostConfig.Bogus" in the request`},
		{`{"HostConfig":{"Mounts":[{"Target":"/a"},{"bogus":true}]}}`, `unknown field "HostConfig.Mounts.bogus"`},
		{`{"NetworkingConfig":{"EndpointsConfig":{"any":{"IPAMConfig":{"bogus":"x"}}}}}`, `unknown field "NetworkingConfig.EndpointsConfig.any.IPAMConfig.bogus"`},
		{`{"HostConfig":{"KernelMemory":1}}`, `HostConfig.KernelMemory is not supported: it was removed`},
		{`{"MacAddress":"02:00:00:00:00:01","Runtime":"fork","Labels":{"any":"x"},"ExposedPorts":{"80/tcp":{}}}`, ""},
		{`{"Memory":1}`, `unknown field "Memory"`},
		{`[1]`, ""}, // not what is decoded: that says so
		{`{`, "invalid JSON"},
	} {
		err := Create().CheckKeys([]byte(c.body), container.CreateRequest{})
		if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", c.body, err, c.says)
		}
	}
}

func FuzzCheckKeys(f *testing.F) {
	f.Add(`{"HostConfig":{"Mounts":[{"Target":"/a"}],"PortBindings":{"80/tcp":[{"HostPort":"1"}]}}}`)
	f.Add(`{"NetworkingConfig":{"EndpointsConfig":{"a":[[]]}},"Env":{"a":1}}`)
	f.Fuzz(func(t *testing.T, body string) {
		var r container.CreateRequest
		if json.Unmarshal([]byte(body), &r) == nil {
			_, _ = Create().Check(r)
		}
		_ = Create().CheckKeys([]byte(body), r)
	})
}
